"""python -m jarvis_mpi stop: ends a run on this machine, also one whose mpirun died."""

import signal
from collections.abc import Sequence

import psutil

from ..common.errors import Unservable
from ..common.options import Parser
from .jobs import one_job

PATIENCE_S = 10.0  # for the run to close its record and end by itself


def main(words: Sequence[str]) -> int | str:
    parser = Parser(
        prog="python -m jarvis_mpi stop",
        description="End a run of yours on this machine, also one whose mpirun died. What it has answered "
        "stands in its record, and --resume goes on from there.",
    )
    parser.add_argument("record", nargs="?", metavar="RUN.h5", help="whose; needed where several runs go on")
    try:
        job = one_job(parser.parse_args(list(words)).record)
    except Unservable as error:
        return str(error)
    if job.end_user:
        job.end_user.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(job.ranks, timeout=PATIENCE_S if job.end_user else 0)
    for process in left:
        process.kill()
    print(f"ended: {job}" + (f" ({len(left)} ranks had to be killed)" if left else ""))
    return 0
