"""Puts a deadline on what no Python code can interrupt: MPI_Init, when a rank is lost before it gets
there."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .launch_agents import end_run
from .ssh_keepalive import borne_s


@contextmanager
def guarded(timeout_s: float, sentence: str) -> Iterator[None]:
    """End this process and the run if the body takes longer than `timeout_s`; print `sentence` if there is
    one.

    A child process does it: while MPI starts, no thread of this one runs. Enter it before MPI starts.
    """
    read, write = os.pipe()
    guarded_pid = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(write)
        try:
            if not is_through(read, timeout_s):
                os.kill(guarded_pid, signal.SIGKILL)
                if sentence:
                    end_run(sentence)
        finally:
            os._exit(0)
    os.close(read)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the child was ended with the run
            os.write(write, b"!")
        os.close(write)
        os.waitpid(child, 0)


def is_through(done: int, timeout_s: float) -> bool:
    """Wait for a byte on `done`. False if none comes in time, or ssh hangs up (see ssh_keepalive.py)."""
    end = time.monotonic() + timeout_s
    watched = [done, 0] if borne_s() else [done]
    while (left_s := end - time.monotonic()) > 0:
        ready = select.select(watched, [], [], left_s)[0]
        if done in ready:
            return True
        if ready and not os.read(0, 4096):
            return False
    return False
