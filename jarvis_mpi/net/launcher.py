"""What the launcher tells a process of itself before MPI is started."""

import os
from typing import TYPE_CHECKING

from ..common import variables
from ..common.layers import END_USER
from .launch_agents import LIFELINE

if TYPE_CHECKING:
    from .mpi_link import MpiLink


def launch_rank() -> int:
    """This process's rank, as the launcher tells it before MPI is started; 0 without a launcher. Raises variables.Wrong."""
    return variables.number(("PMIX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"), 0)


def size_told() -> int:
    """How many ranks the launcher started. Raises variables.Wrong."""
    return variables.number(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"), 1)


def connected() -> "MpiLink":
    from . import mpi_link

    return mpi_link.MpiLink(120.0, launch_rank() == 0)


LAUNCHED = ("PMIX_SERVER_URI", "PMI_FD", "PMI_PORT", LIFELINE)  # where a launcher is to be found


def complains() -> bool:
    """Whether this process says what is wrong with its words: all ranks read the same. A variable of another's makes no rank of a
    process that no launcher is there for. Raises variables.Wrong."""
    return launch_rank() == END_USER or not any(name.startswith(LAUNCHED) for name in os.environ)
