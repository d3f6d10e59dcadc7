"""Keeps a rank from ending with a terminal that was closed.

mpirun takes that for an order to end, and ends its ranks first: SIGCONT, SIGTERM and SIGKILL, a quarter of a
second apart. A rank that sees in time why it is to end, ends mpirun instead, which it outlives.
"""

import os
import signal
import time
from types import FrameType

from .ancestry import LAUNCHERS, end_by_signal, kill, stat
from .launcher_loss import LauncherLoss

LATE_S = 2.0  # so long after mpirun's end its signal may still be acted on


class Termination:
    """Acts on SIGTERM: ends this process, but not where mpirun's terminal was closed.

    Make it in the main thread, while mpirun is there.
    """

    def __init__(self, loss: LauncherLoss):
        self.loss, self.parent_pid = loss, os.getppid()
        parent = stat(self.parent_pid)
        self.launcher_had_terminal = parent.name in LAUNCHERS and parent.terminal != 0
        signal.signal(signal.SIGTERM, self.act)

    def act(self, number: int, frame: FrameType | None) -> None:
        if not self.is_hangup():
            end_by_signal(number)
        elif os.getppid() == self.parent_pid:
            kill(self.parent_pid)

    def is_hangup(self) -> bool:
        """Whether mpirun sent the signal because its terminal was closed, and may be gone by now."""
        if not self.launcher_had_terminal or time.monotonic() > self.loss.at_s + LATE_S:
            return False
        return os.getppid() != self.parent_pid or not stat(self.parent_pid).terminal
