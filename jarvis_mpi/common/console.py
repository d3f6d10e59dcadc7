"""rich's console, for all output: it moves and colours only on a terminal, and breaks no row elsewhere.

CI shells set FORCE_COLOR, and exported COLUMNS may be of another window: rich would follow both for a file
too.
"""

from typing import TextIO

from rich.console import Console

WIDTH = 200  # of what is no terminal


def console(file: TextIO, width: int = WIDTH, markup: bool = False) -> Console:
    """Make a console for `file`. `markup`: whether rich's markup is read in the output."""
    if file.isatty():
        return Console(file=file, highlight=False, soft_wrap=True, markup=markup, force_terminal=True)
    return Console(
        file=file, highlight=False, soft_wrap=True, markup=markup, width=width, force_terminal=False,
        force_interactive=False, no_color=True,
    )  # fmt: skip
