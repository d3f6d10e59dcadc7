"""Writes through mpirun while it lives, then to where mpirun wrote; nowhere, if that is on another machine.

A rank's standard output and error lead to mpirun, which hands on whole lines. When it dies, what it has not
handed on is lost: of what goes into a file, `Relay` writes that again.
"""

import contextlib
import os
import stat
import sys
import threading

from ..common.output import Descriptor, text_stream
from ..net.launcher import launchers_descriptor
from .terminal import is_own_pipe

MOVED_S = 2.0  # longest wait, after a write has failed, for the word that mpirun is gone


class Relay(Descriptor):
    """Standard output (1) or error (2) of a rank."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, own=False, needed=descriptor == 1)
        self.target = launchers_own(descriptor)
        self.begin = file_end(self.target)  # None: it is no file
        self.sent = bytearray()  # all that mpirun was given for a file
        self.lock, self.moved = threading.Lock(), threading.Event()

    def write_some(self, data: memoryview) -> int | None:
        had_moved = self.moved.is_set()
        try:
            return self.write_and_keep(data)
        except OSError:
            if had_moved or not self.moved.wait(MOVED_S):
                raise
            return self.write_and_keep(data)

    def write_and_keep(self, data: memoryview) -> int | None:
        with self.lock:
            count = super().write_some(data)
            if self.begin is not None and not self.moved.is_set():
                self.sent += data[: count or 0]
            return count

    def move(self) -> None:
        """Leave mpirun, which is gone; from any thread."""
        with self.lock:
            if self.moved.is_set():
                return
            if self.target is None:  # the record has the answers
                self.target = os.open(os.devnull, os.O_WRONLY)
            elif self.begin is not None:
                with contextlib.suppress(OSError):  # a full disk: the next write meets it again
                    landed = os.pread(self.target, 1 << 30, self.begin)
                    os.write(self.target, missing(bytes(self.sent), landed))
            os.dup2(self.target, self.fileno())
            self.moved.set()


def launchers_own(descriptor: int) -> int | None:
    """Open where mpirun's standard output or error goes, to append; None where that cannot be done."""
    path = launchers_descriptor(descriptor)
    try:
        if is_own_pipe(path):  # it was closed when mpirun started
            return os.open(os.devnull, os.O_WRONLY)
        how = os.O_RDWR if path.is_file() else os.O_WRONLY
        return os.open(path, how | os.O_APPEND | os.O_NOCTTY)
    except OSError:  # no mpirun here, a socket, another user's
        return None


def file_end(descriptor: int | None) -> int | None:
    """Return the length of the file; None if it is none."""
    if descriptor is None or not stat.S_ISREG((status := os.fstat(descriptor)).st_mode):
        return None
    return status.st_size


def missing(sent: bytes, landed: bytes) -> bytes:
    """Return what of `sent` is not in the file. It has `landed` since then: whole lines of ours, in order,
    among those of others, and perhaps the beginning of another one."""
    at = 0
    lines = sent.splitlines(keepends=True)
    for number, line in enumerate(lines):
        found = landed.find(line, at)
        if found < 0:
            tail = landed[at:]
            begun = next((n for n in range(min(len(line), len(tail)), 0, -1) if tail.endswith(line[:n])), 0)
            return b"".join(lines[number:])[begun:]
        at = found + len(line)
    return b""


def put_in(name: str) -> Relay:
    """Make sys.stdout or sys.stderr write through a Relay."""
    current = getattr(sys, name)
    raw = Relay({"stdout": 1, "stderr": 2}[name])
    setattr(sys, name, text_stream(raw, at_once=current.write_through))
    return raw
