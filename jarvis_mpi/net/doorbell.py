"""Wakes a rank of the same host when a message for it has been sent, so that it need not poll.

MPI has no call that sleeps until a message comes; ranks that share a machine and poll
take its cores from the one that computes. A bell carries no data: a rank that misses one finds the message at
its next look. Between hosts, where there are no abstract Unix sockets (not Linux), and where somebody else on
the machine has taken a rank's name, nothing rings.
"""

import contextlib
import os
import select
import socket
import sys
import time


class Doorbell:
    def __init__(self, me: int, ranks: int):
        """`all_on_host`: every other rank is on this host and can ring here."""
        self.job = os.environ.get("PMIX_NAMESPACE", "")
        together = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(ranks)
        self.all_on_host = together and bool(self.job) and sys.platform == "linux"
        if self.all_on_host:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                self.socket.bind(self.address(me))
            except OSError:
                self.all_on_host = False

    def address(self, node: int) -> str:
        return f"\0jarvis_mpi/{self.job}/{node}"

    def ring(self, node: int) -> bool:
        """-> False where no such bell is there: the rank's process has ended, or has not made it yet."""
        if self.all_on_host:
            try:
                self.socket.sendto(b"!", self.address(node))
            except ConnectionRefusedError:
                return False
            except OSError:  # its queue of rings is full
                pass
        return True

    def wait(self, seconds: float) -> None:
        """Sleep until it rings, at most for `seconds`."""
        if not self.all_on_host:
            time.sleep(seconds)
        elif select.select([self.socket], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                self.socket.recv(1)
