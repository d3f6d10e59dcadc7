"""A rank on another host holds on to the one that started it: `launch.rank` sends a sign every few seconds.

Where none comes for longer than a host is waited for, the rank was given up: it ends, whatever it is doing.
"""

import os
import select
import signal
import threading

from ..common import variables
from .launch_agents import LIFELINE, MARKS, Come


def tell_home(come: Come) -> None:
    """How far this rank has come; nothing where it was started as usual."""
    if LIFELINE in os.environ:
        os.write(2, MARKS[come])


def hold_on() -> None:
    """End this process when the signs on its standard input stay away; nothing where it was started as usual.

    No signs come to rank 0, whose standard input is mpirun's.
    """
    if borne_s():
        threading.Thread(target=wait_for_the_end, daemon=True).start()


def borne_s() -> float:
    """How long the signs may stay away; 0 where none come. Raises variables.Wrong."""
    return variables.seconds(LIFELINE)


def wait_for_the_end() -> None:
    while select.select([0], [], [], borne_s())[0] and os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
