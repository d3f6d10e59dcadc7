"""Finds the launcher, and reads what it tells a process before MPI starts: its rank, how many there are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..common import variables
from ..common.layers import END_USER
from . import run_key
from .ancestry import LAUNCHERS
from .far_command import SSH_KEEPALIVE

if TYPE_CHECKING:
    from .mpi_link import MpiLink


def launch_rank() -> int:
    """Return this process's rank; 0 without a launcher. Raises variables.Wrong."""
    return variables.number(("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"), 0)


def launch_size() -> int:
    """Return how many ranks the launcher started; 1 without a launcher. Raises variables.Wrong."""
    return variables.number(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"), 1)


def launchers_process() -> Path | None:
    """Return mpirun's folder in /proc, where it is this process's parent."""
    parent = Path(f"/proc/{os.getppid()}")
    try:
        return parent if (parent / "comm").read_text().strip() in LAUNCHERS else None
    except OSError:  # no /proc
        return None


def launchers_descriptor(number: int) -> Path:
    """Return the path of mpirun's standard input, output or error; one that is not there without mpirun."""
    return (launchers_process() or Path("/nowhere")) / "fd" / str(number)


def connected(say: Callable[[str], None]) -> "MpiLink":
    """Join the other ranks of a tool; messages between hosts are sealed where there is a key.
    Raises Unservable, or variables.Wrong."""
    from . import mpi_link

    key, notice = run_key.key_for("auto")
    link = mpi_link.MpiLink(120.0, launch_rank() == 0)
    run_key.removed()
    if notice and link.me == END_USER:
        say(notice)
    return secured(link, key, notice, say)


def secured(link: "MpiLink", key: bytes, notice: str, say: Callable[[str], None]) -> "MpiLink":
    """Return `link` with what run_key.key_for has found for it."""
    if not (key or notice):
        return link
    from .sealed_link import sealed

    return sealed(link, key, say)


LAUNCHED = ("PMIX_SERVER_URI", "PMI_FD", "PMI_PORT", SSH_KEEPALIVE)  # where a launcher is to be found


def complains() -> bool:
    """Whether this process reports what is wrong with the command line, which all ranks read: rank 0, or one
    that no launcher started, whatever other programs' variables say. Raises variables.Wrong."""
    return launch_rank() == END_USER or not any(name.startswith(LAUNCHED) for name in os.environ)
