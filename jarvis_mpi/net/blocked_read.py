"""Frees a rank whose MPI waits for a stranger.

Open MPI reads the first bytes of a new TCP connection in a call that blocks, inside whatever MPI call its
main thread has just made. Whoever sends 16 bytes and no more holds the rank up for as long as the connection
stays open. A second thread sees that a call takes too long, finds the descriptor that it reads from (proc(5),
syscall), and shuts the connection down: MPI then takes it for a failed one, and goes on.
"""

import os
import platform
import socket
import threading
import time

BLOCKED_S = 2.0  # an MPI call of ours takes milliseconds; a peer's first bytes may be lost three times
LOOK_S = 0.25
SOON_S = 0.02  # between looks once one was found: there may be more of them

# Linux's numbers of read, recvfrom (recv) and recvmsg.
READS = {
    "x86_64": {0, 45, 47},
    "aarch64": {63, 207, 212},
    "armv7l": {3, 291, 292, 297},
    "armv6l": {3, 291, 292, 297},
}


class BlockedReads:
    """Watches over the thread that makes it, which calls MPI in a `with`."""

    def __init__(self) -> None:
        self.since = 0.0  # time.monotonic; 0: outside
        self.thread, self.reads = threading.get_native_id(), READS.get(platform.machine(), set())
        if self.reads:
            threading.Thread(target=self.watch, name="blocked reads", daemon=True).start()

    def __enter__(self) -> None:
        self.since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.since = 0.0

    def blocked_s(self) -> float:
        """Return for how long the thread has been inside MPI. From any thread."""
        return time.monotonic() - since if (since := self.since) else 0.0

    def watch(self) -> None:
        patience_s = BLOCKED_S
        while True:
            time.sleep(LOOK_S if patience_s == BLOCKED_S else SOON_S)
            patience_s = SOON_S if self.frees(patience_s) else BLOCKED_S

    def frees(self, patience_s: float) -> bool:
        """Shut down what the thread waits for, if it has for longer than `patience_s`. -> whether it did."""
        if self.blocked_s() < patience_s:
            return False
        descriptor = descriptor_read(self.thread, self.reads)
        return descriptor is not None and shut_down(descriptor)


def descriptor_read(thread: int, reads: set[int]) -> int | None:
    """Return the descriptor that a thread of this process waits to read from; None if it does not."""
    try:
        with open(f"/proc/self/task/{thread}/syscall") as file:  # noqa: PTH123 (four times a second)
            number, *words = file.read().split()
        return int(words[0], 16) if int(number) in reads else None
    except (OSError, ValueError, IndexError):  # it runs, or the kernel does not tell
        return None


def shut_down(descriptor: int) -> bool:
    """Shut a connection down, which stays open. -> whether it is one."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True
