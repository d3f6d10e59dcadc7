"""Wakes a rank of the same host when a message for it has been sent, so that it need not keep looking.

MPI has no call that sleeps until a message comes; ranks that share a machine and look again and again
take its cores from the one that computes. A bell carries no data: who misses one finds the message at
the next look. Between hosts, and where there are no abstract Unix sockets (not Linux), nothing rings.
"""

import contextlib
import os
import select
import socket
import sys
import time


class Doorbell:
    def __init__(self, me: int, ranks: int):
        """`hears_all` tells whether every other rank can ring here: all are on this host."""
        self.job = os.environ.get("PMIX_NAMESPACE", "")
        together = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(ranks)
        self.hears_all = together and bool(self.job) and sys.platform == "linux"
        if self.hears_all:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self.socket.bind(self.address(me))

    def address(self, node: int) -> str:
        return f"\0jarvis_mpi/{self.job}/{node}"

    def ring(self, node: int) -> None:
        if self.hears_all:
            with contextlib.suppress(OSError):  # nobody there, or rung often enough
                self.socket.sendto(b"!", self.address(node))

    def wait(self, seconds: float) -> None:
        """Until it rings, but not longer."""
        if not self.hears_all:
            time.sleep(seconds)
        elif select.select([self.socket], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                self.socket.recv(1)
