"""Reads what a person types or a pipe brings: lines, Ctrl-C, and the end.

Open MPI's mpirun hands its standard input on to rank 0, but not its end; and a Ctrl-C goes to mpirun, and
ends the run. Both show in mpirun's own standard input, which a process of the same user can open. On a
terminal Ctrl-C and Ctrl-D are made to end a line, and so are read with it; a pipe and a file show whether
they were read to the end.
"""

import _thread
import contextlib
import enum
import os
import queue
import re
import select
import signal
import stat
import subprocess
import termios
import threading
from pathlib import Path

from ..common.given_file import MARK
from ..net.launcher import launchers_process
from .terminal import is_own_pipe

LOOK_S = 0.2  # between looks for the end of what mpirun reads; what it has read arrives much sooner
CTRL_C, CTRL_D = b"\x03", b"\x04"
LONGEST_LINE = 4095  # bytes that Linux takes into a line of a terminal: it drops more without a word


class Key(enum.Enum):
    INTERRUPT = enum.auto()  # Ctrl-C
    END = enum.auto()  # nothing more will come
    UNREADABLE = enum.auto()  # a line that is not UTF-8
    TOO_LONG = enum.auto()  # a line that the terminal has cut


class Keyboard:
    """Reads lines and keys: `next` returns a line or a Key.
    Use it in a `with`, which restores the terminal."""

    def __init__(self) -> None:
        process = launchers_process()
        self.source = opened(process)  # mpirun's standard input, to look at and never to read
        # A socket cannot be opened.
        self.sees_the_end = self.source is not None or process is None
        self.is_terminal = self.source is not None and os.isatty(self.source)
        self.typed: queue.Queue[str | Key] = queue.Queue()
        self.interrupts = 0  # that nobody has acted on
        self.rest = bytearray()
        self.left = False

    def __enter__(self) -> "Keyboard":
        self.restorer = lend(self.source) if self.is_terminal and self.source is not None else None
        threading.Thread(target=self.read, name="keyboard", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.left = True
        if self.restorer and self.restorer.stdin:
            self.restorer.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a terminal that Ctrl-S holds
                self.restorer.wait(2.0)

    def next(self, timeout_s: float) -> str | Key | None:
        """Return the next line or Key; None if nothing comes in time."""
        try:
            what = self.typed.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if what is Key.INTERRUPT:
            self.interrupts -= 1
        return what

    def acted(self) -> None:
        """Drop the first interrupt, which was acted on; lines typed before it stay."""
        with self.typed.mutex:
            if Key.INTERRUPT in self.typed.queue:
                self.typed.queue.remove(Key.INTERRUPT)
                self.interrupts -= 1

    def read(self) -> None:
        """Read standard input, in the thread."""
        quiet = 0
        while True:
            if select.select([0], [], [], LOOK_S)[0]:
                quiet = 0
                if not (data := os.read(0, 65536)):
                    break
                if self.take(data):
                    break
            elif has_ended(self.source):
                quiet += 1
                if quiet > 2:
                    break
        if self.rest:
            self.line(bytes(self.rest))
        self.typed.put(Key.END)

    def take(self, data: bytes) -> bool:
        """Split data into lines and keys. -> whether that was the end."""
        ends = b"(\n|\x03|\x04)" if self.is_terminal else b"(\n)"
        first, *parts = re.split(ends, data)
        self.rest += first
        if not parts:
            return False
        *parts, rest = bytes(self.rest), *parts
        self.rest = bytearray(rest)
        for line, end in zip(parts[::2], parts[1::2], strict=True):
            if end == CTRL_C:
                self.interrupt()
            elif end == b"\n" or line:
                self.line(line)
            else:
                return True
        return False

    def line(self, data: bytes) -> None:
        try:
            line: str | Key = data.decode().lstrip(MARK).rstrip("\r")
        except UnicodeDecodeError:
            line = Key.UNREADABLE
        if isinstance(line, str) and "\0" in line:  # UTF-16
            line = Key.UNREADABLE
        self.typed.put(Key.TOO_LONG if self.is_terminal and len(data) >= LONGEST_LINE - 1 else line)

    def interrupt(self) -> None:
        """Count a Ctrl-C; a second one before the first one was read interrupts the main thread."""
        self.interrupts += 1
        if self.interrupts == 2 and not self.left:
            _thread.interrupt_main()
        self.typed.put(Key.INTERRUPT)


def opened(process: Path | None) -> int | None:
    if process is not None:
        with contextlib.suppress(OSError):  # a socket, another user's
            return os.open(process / "fd" / "0", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return None


def has_ended(source: int | None) -> bool:
    """Whether mpirun will read nothing more.
    The end of its input is the end of ours; without it (None) ours ends by itself."""
    process = launchers_process()
    if source is None or process is None or os.isatty(source):
        return False
    kind = os.fstat(source).st_mode
    if stat.S_ISREG(kind):
        with contextlib.suppress(OSError, ValueError):
            position = (process / "fdinfo" / "0").read_text().split()[1]
            return int(position) >= os.fstat(source).st_size
        return True
    if stat.S_ISFIFO(kind):
        if is_own_pipe(process / "fd" / "0"):
            return True
        poller = select.poll()
        poller.register(source, select.POLLIN)
        events = dict(poller.poll(0)).get(source, 0)
        return bool(events & select.POLLHUP) and not events & select.POLLIN
    return True  # /dev/null


def lend(terminal: int) -> subprocess.Popen:
    """Make Ctrl-C and Ctrl-D end a line.
    -> a process that restores the terminal once its standard input closes, by our death too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})  # we may: mpirun is in the foreground
    as_it_was = subprocess.run(["stty", "-g"], stdin=terminal, capture_output=True, text=True).stdout.strip()
    restorer = subprocess.Popen(
        ["sh", "-c", f"trap '' TTOU; cat > /dev/null; stty {as_it_was} <&1"],
        stdin=subprocess.PIPE, stdout=terminal, stderr=subprocess.DEVNULL, process_group=0,
    )  # fmt: skip
    modes = termios.tcgetattr(terminal)
    for name, key in (("VINTR", b"\0"), ("VEOF", b"\0"), ("VEOL", CTRL_C), ("VEOL2", CTRL_D)):
        modes[6][getattr(termios, name)] = key
    termios.tcsetattr(terminal, termios.TCSANOW, modes)
    return restorer
