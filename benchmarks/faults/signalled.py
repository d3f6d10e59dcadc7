"""jarvis_mpi, where a signal from outside brings on what a signal alone cannot: for fault_matrix.py.

SIGRTMIN: 10 s in the next stage's work, SIGRTMIN+1: an exception nobody foresaw, SIGRTMIN+2: exit with status
1 (MPICH's launcher has SIGUSR1 for itself).
"""

import runpy
import signal
import sys
import time

STALL_S = 10.0


def fail(*_):
    raise RuntimeError("the SD card is gone")


def stall(*_):
    from jarvis_mpi.model.stage import Stage

    run = Stage.run

    def stalled(*args):
        Stage.run = run
        time.sleep(STALL_S)
        return run(*args)

    Stage.run = stalled


if __name__ == "__main__":
    signal.signal(signal.SIGRTMIN, stall)
    signal.signal(signal.SIGRTMIN + 1, fail)
    signal.signal(signal.SIGRTMIN + 2, lambda *_: sys.exit(1))
    runpy.run_module("jarvis_mpi", run_name="__main__")
