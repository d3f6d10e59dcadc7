"""Prints tables on the terminal."""

import sys

from rich.console import Console

from jarvis_mpi.common import console as of


def console(piped_width: int = of.WIDTH) -> Console:
    """Return a console as wide as the terminal; into a pipe no row is broken."""
    return of.console(sys.stdout, piped_width)
