"""A deadline for what no Python code can interrupt: MPI_Init, when a rank is lost on its way there."""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .launch import end_run


@contextmanager
def guarded(timeout_s: float, sentence: str) -> Iterator[None]:
    """End this process, and the run, when the body takes longer, with a sentence if there is one.

    A child process sees to it: while MPI starts, no thread of this one runs. Must come before MPI is started.
    """
    read, write = os.pipe()
    guarded_pid = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(write)
        if not select.select([read], [], [], timeout_s)[0]:
            if sentence:
                with contextlib.suppress(OSError):
                    os.write(sys.stderr.fileno(), f"{sentence}\n".encode())
                end_run()
            os.kill(guarded_pid, signal.SIGKILL)
        os._exit(0)
    os.close(read)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the child was ended with the run
            os.write(write, b"!")
        os.close(write)
        os.waitpid(child, 0)
