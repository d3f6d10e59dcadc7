"""python -m jarvis_mpi setup: prepares this Python environment, so that the plain mpirun line works.

Writes what MPI must know into the environment's own etc/ files (nothing outside it), tries whether a run
outlives its mpirun here, and fetches the default model.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ..common.errors import Unservable
from ..common.settings import DEFAULT_MODEL
from ..model import checkpoint
from ..net.mpi_parameters import no_agent, write_parameters
from ..net.outlive_trial import what_ends


def main(words: Sequence[str]) -> int:
    if words:
        print("usage: python -m jarvis_mpi setup   (prepares this Python environment; takes no arguments)")
        return 0 if words[0] in ("-h", "--help") else 2
    try:
        for path in write_parameters(Path(sys.prefix) / "etc"):
            print(f"MPI's parameters are in {path}")
        if warning := no_agent():
            print(warning, file=sys.stderr)
        if sentence := what_ends():
            print(sentence, file=sys.stderr)
        print(f"the default model is in {checkpoint.locate(DEFAULT_MODEL, print)}")
    except Unservable as error:
        print(error, file=sys.stderr)
        return 1
    return 0
