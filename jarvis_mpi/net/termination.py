"""Keeps a rank from ending with a terminal that was closed.

mpirun takes that for an order to end, and ends its ranks first: SIGCONT, SIGTERM and SIGKILL, a quarter of a
second apart. A rank that sees in time why it is to end, ends mpirun instead, which it outlives.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from types import FrameType

from .launcher import launchers_process
from .launcher_loss import LauncherLoss

LATE_S = 2.0  # so long after mpirun's end its signal may still be acted on


class Termination:
    """Acts on SIGTERM: ends this process, but not where mpirun's terminal was closed.

    Make it in the main thread, while mpirun is there.
    """

    def __init__(self, loss: LauncherLoss):
        self.loss, self.launcher = loss, launchers_process()
        self.had_terminal = self.launcher is not None and has_terminal(self.launcher)
        signal.signal(signal.SIGTERM, self.act)

    def act(self, number: int, frame: FrameType | None) -> None:
        if not self.is_hangup():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.launcher and launchers_process() == self.launcher:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.launcher.name), signal.SIGKILL)

    def is_hangup(self) -> bool:
        """Whether mpirun sent the signal because its terminal was closed, and may be gone by now."""
        if not self.had_terminal or not self.launcher or time.monotonic() > self.loss.at_s + LATE_S:
            return False
        return launchers_process() != self.launcher or not has_terminal(self.launcher)


def has_terminal(process: Path) -> bool:
    """Whether the process has a controlling terminal (proc(5), stat, tty_nr): not once that is closed."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[4] != "0"
    except (OSError, IndexError):
        return False
