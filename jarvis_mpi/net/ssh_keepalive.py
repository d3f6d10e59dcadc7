"""Ends a rank on another host when its keepalives stop: `launch_agents.rank`, which started it, sends one
every few seconds.

When none comes for longer than the run waits for a host, the rank was given up: it ends, whatever it is
doing. Where mpirun died, a last word says so, and the rank goes on without keepalives (launcher_loss.py). So
it does where all of home is gone and a standby is elsewhere: nobody sends a last word then.
"""

import os
import select
import signal
import threading
from collections.abc import Callable

from ..common import variables
from .far_command import MARKS, SSH_KEEPALIVE, StartPhase
from .last_words import END, OUTLIVE


def report_phase(phase: StartPhase) -> None:
    """Tell `launch_agents.rank` how far this rank has come; do nothing where mpirun itself started it."""
    if SSH_KEEPALIVE in os.environ:
        os.write(2, MARKS[phase])


def end_without_keepalive() -> None:
    """End this process when the keepalives on its standard input stop; do nothing where mpirun itself started
    it.

    Rank 0 gets none: its standard input is mpirun's.
    """
    if borne_s():
        threading.Thread(target=wait_for_the_end, daemon=True).start()


def borne_s() -> float:
    """Return how long the keepalives may stop; 0 where there are none. Raises variables.Wrong."""
    return variables.seconds(SSH_KEEPALIVE)


def wait_for_the_end() -> None:
    while words := heard():
        if OUTLIVE in words:
            return
        if END in words:
            break
    if words or not home.may_be_lost:
        os.kill(os.getpid(), signal.SIGKILL)
    home.act()
    home.lost.set()


def heard() -> bytes:
    """Wait for the next keepalives. -> them; b'' where none come any more."""
    return os.read(0, 4096) if select.select([0], [], [], borne_s())[0] else b""


class Home:
    """The machine on which mpirun runs, as a rank elsewhere sees it.
    `may_be_lost`: another node can be the end user; `act` is called, in another thread, when it is lost."""

    def __init__(self) -> None:
        self.may_be_lost, self.lost = False, threading.Event()
        self.act: Callable[[], None] = lambda: None


home = Home()
