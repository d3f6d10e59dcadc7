"""The command line of one measured run."""

import sys
from pathlib import Path


def command(ranks: int, log: Path, *words: str, limit_s: int = 600) -> list[str]:
    """`python -m jarvis_mpi WORDS` on this machine, ended after `limit_s`, its record at `log`."""
    limited = ["timeout", "-k", "5", str(limit_s), "mpirun", "-n", str(ranks)]
    return [*limited, sys.executable, "-m", "jarvis_mpi", *words, "--log", str(log)]
