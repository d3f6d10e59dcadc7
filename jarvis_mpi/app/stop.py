"""python -m jarvis_mpi stop: ends a run on this machine, also one whose mpirun died."""

import signal
from collections.abc import Sequence

import psutil

from ..common.errors import Unservable
from .jobs import one_job, record_asked

ABOUT = (
    "End a run of yours on this machine, also one whose mpirun died. What it has answered stands in its "
    "record, and --resume goes on from there."
)
PATIENCE_S = 10.0  # for the run to close its record and end by itself


def main(words: Sequence[str]) -> int | str:
    try:
        job = one_job(record_asked("stop", ABOUT, words))
    except Unservable as error:
        return str(error)
    if job.end_user:
        job.end_user.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(job.ranks, timeout=PATIENCE_S if job.end_user else 0)
    for process in left:
        process.kill()
    print(f"ended: {job}" + (f" ({len(left)} ranks had to be killed)" if left else ""))
    return 0
