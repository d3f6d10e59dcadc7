"""Writes a run's answers to standard output.
If its disk is full, the run goes on, says so, and the record has the answers.

A reader that has left ends the run (output.Unwritable). mpirun writes a file (terminal.py), and reports no
failure: how far it has come shows in what the system knows of its open file.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from ..common.output import Unwritable
from ..net.launcher import launchers_descriptor
from .terminal import launchers_stream

LATER_S = 3.0  # longest wait until mpirun has written what came from here


class Answers:
    """A text file to print to. If something is lost, `say` gets one sentence, once, and `lost` has it."""

    def __init__(self, say: Callable[[str], None]):
        self.stream, self.say, self.lost = launchers_stream(1), say, ""
        self.name = getattr(self.stream, "name", "")
        self.mpiruns = launchers_descriptor(1)
        self.begin, self.written = position(self.mpiruns), 0

    def isatty(self) -> bool:
        return self.stream.isatty()

    def write(self, text: str) -> int:
        if not self.lost:
            self.written += len(text.encode("utf-8", "backslashreplace"))
            with self.reporting_loss():
                self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        if not self.lost:
            with self.reporting_loss():
                self.stream.flush()

    @contextlib.contextmanager
    def reporting_loss(self):
        """Report a failed write. Raises Unwritable where the reader has left."""
        try:
            yield
        except Unwritable as error:
            if error.gone:
                raise
            self.lose(error.why)

    def lose(self, why: str) -> None:
        self.lost = f"standard output cannot be written: {why}: the answers stand in the record"
        self.say(self.lost)

    def ended(self) -> None:
        """Check, at the end, that mpirun has written all of it into its file."""
        end = time.monotonic() + LATER_S
        while not self.lost and (missing := self.missing()):
            if time.monotonic() > end:
                disk = os.statvfs(self.mpiruns)
                if disk.f_bavail * disk.f_frsize < missing:  # else it may go elsewhere: mpirun --output
                    self.lose("no space is left for its file")
                return
            time.sleep(0.05)

    def missing(self) -> int:
        """Return how many bytes mpirun has not written; 0 where that cannot be known."""
        now = position(self.mpiruns)
        return max(0, self.begin + self.written - now) if self.begin is not None and now is not None else 0


def position(descriptor: Path) -> int | None:
    """Return the descriptor's position in its file; None if it is no file."""
    with contextlib.suppress(OSError, ValueError):
        if descriptor.is_file():
            lines = (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("pos:"))
    return None
