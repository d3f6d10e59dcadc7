"""Make texts in a child process, which ends at a limit whatever it does: a stranger's program may stay in one
call of C for ever, or take all memory, and nothing inside this process could end it. The limit is of
processor time, so that a busy machine cuts off no good program.

The child is a fork: nothing is loaded again. It runs one function, once for each message, and exits when the
parent is gone; it touches neither MPI nor the terminal.
"""

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..common.errors import Unservable

LENGTH = struct.Struct("<Q")
PATIENCE = 20  # seconds of waiting for each second of processor time
LATER_S = 2.0  # after that the system ends the child, even if its parent is gone


class Overdue(Exception):
    """The text took too long to make."""


class Died(Exception):
    """The process ended without a word: it crashed, or there was no memory for it."""


class Aside:
    """A child process that calls `make` with what `text` is given, sent as JSON; `make` may raise
    Unservable."""

    def __init__(self, make: Callable[[Any], str]):
        self.make = make
        self.child = 0

    def text(self, of: Any, limit_s: float, room_bytes: int) -> str:
        """Return the text that the child makes. `limit_s`: of processor time.
        `room_bytes`: memory for it, beyond what it has. Raises Unservable, Overdue, Died, or OSError where no
        process can be started."""
        fresh = not self.child
        self.begin()
        end = time.monotonic() + PATIENCE * limit_s
        try:
            send(self.socket, json.dumps([of, limit_s, room_bytes]).encode(), end)
            kind, words = json.loads(receive(self.socket, end))
        except TimeoutError:
            self.end()
            raise Overdue from None
        except (OSError, EOFError):
            if self.end() == signal.SIGPROF:
                raise Overdue from None
            if fresh:
                raise Died from None
            # The system may have ended it meanwhile, for its memory.
            return self.text(of, limit_s, room_bytes)
        except BaseException:  # Ctrl-C: the answer under way would be taken for the next one
            self.end()
            raise
        if kind == "refused":
            raise Unservable(words)
        return str(words)

    def begin(self) -> None:
        if self.child:
            return
        self.socket, childs_end = socket.socketpair()
        try:
            # The fork has none of our other threads, and takes none of their locks.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self.child = os.fork()
        except OSError:
            self.socket.close()
            childs_end.close()
            raise
        if not self.child:
            work(self.make, self.socket, childs_end)
        childs_end.close()

    def end(self) -> int:
        """Return the signal that ended the process; 0: there was none, or it ended by itself."""
        child, self.child = self.child, 0
        if child:
            self.socket.close()
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
                return os.WTERMSIG(os.waitpid(child, 0)[1])
        return 0

    def __del__(self) -> None:
        self.end()


def send(connection: socket.socket, data: bytes, end: float = 0.0) -> None:
    connection.settimeout(max(0.001, end - time.monotonic()) if end else None)
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket, end: float = 0.0) -> bytes:
    """Return the next message. Raises EOFError where the other side is gone, and TimeoutError at `end`."""
    came, wanted = bytearray(), LENGTH.size
    while len(came) < wanted:
        connection.settimeout(max(0.001, end - time.monotonic()) if end else None)
        if not (more := connection.recv(1 << 16)):
            raise EOFError
        came += more
        if len(came) >= LENGTH.size:
            wanted = LENGTH.size + LENGTH.unpack_from(came)[0]
    return bytes(came[LENGTH.size :])


def work(make: Callable[[Any], str], parents: socket.socket, here: socket.socket) -> NoReturn:
    """Serve the parent's messages, in the fork."""
    try:
        parents.close()
        gc.freeze()  # the parent's objects are the parent's to collect
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the parent
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        while True:
            of, limit_s, room_bytes = json.loads(receive(here))
            signal.setitimer(signal.ITIMER_PROF, limit_s)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE * limit_s + LATER_S)
            bound(room_bytes)
            try:
                reply = ["made", make(of)]
            except Unservable as error:
                reply = ["refused", str(error)]
            send(here, json.dumps(reply).encode())
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        os._exit(0)


def bound(room_bytes: int) -> None:
    """Limit this process's memory; only Linux can."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + room_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
