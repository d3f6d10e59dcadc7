"""A rank on another host holds on to the one that started it: `launch.rank` sends a sign every few seconds.

Where none comes for longer than a host is waited for, the rank was given up: it ends, whatever it is doing.
"""

import os
import select
import signal
import threading

from .launch import LIFELINE


def hold_on() -> None:
    """End this process when the signs on its standard input stay away; nothing where it was started as usual."""
    if silence := os.environ.pop(LIFELINE, ""):
        threading.Thread(target=wait_for_the_end, args=(float(silence),), daemon=True).start()


def wait_for_the_end(silence_s: float) -> None:
    while select.select([0], [], [], silence_s)[0] and os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
