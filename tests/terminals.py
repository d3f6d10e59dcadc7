"""A run on a pseudo-terminal of its own."""

import contextlib
import os
import pty
import select
import termios
import time

from places import ROOT
from running import MARK


class Terminal:
    """A run on a terminal of its own."""

    def __init__(self, *words: str):
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["JARVIS_TEST"] = MARK
            os.execvp(words[0], words)
        self.seen, self.before = "", termios.tcgetattr(self.end)

    def await_text(self, text: str, timeout_s: float = 60.0) -> str:
        """What came up to and with `text`."""
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            if select.select([self.end], [], [], 0.1)[0]:
                self.seen += os.read(self.end, 65536).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def await_more(self, characters: int, timeout_s: float = 30.0) -> None:
        """So much more output, which is forgotten."""
        end = time.monotonic() + timeout_s
        while len(self.seen) < characters:
            assert time.monotonic() < end, f"no {characters} characters in {self.seen!r}"
            if select.select([self.end], [], [], 0.1)[0]:
                self.seen += os.read(self.end, 65536).decode(errors="replace")
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def status(self) -> int:
        """mpirun's, once it has ended."""
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                if select.select([self.end], [], [], 0.1)[0]:
                    self.seen += os.read(self.end, 65536).decode(errors="replace")
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < end, self.seen
