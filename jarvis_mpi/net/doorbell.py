"""Wakes a rank of the same host when a message for it has been sent, so that it need not poll.

MPI has no call that sleeps until a message comes; ranks that share a machine and poll
take its cores from the one that computes. A bell carries no data: a rank that misses one finds the message at
its next look. A bell is a socket in mpirun's own folder, where nobody else can put one. Between hosts, where
there is no such folder that is this user's alone, and where it is not Linux, nothing rings.
"""

import contextlib
import os
import select
import socket
import sys
import time

from .private_folder import FOLDER, opened


class Doorbell:
    def __init__(self, me: int, ranks: int):
        """`all_on_host`: every other rank is on this host and can ring here."""
        together = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == str(ranks)
        folder = opened(os.environ.get(FOLDER, "")) if together and sys.platform == "linux" else None
        self.all_on_host = folder is not None
        self.connected: dict[int, socket.socket] = {}
        self.gone = set[int]()  # whose process had a bell, and has ended
        if self.all_on_host:
            self.folder = f"/proc/self/fd/{folder}"  # a socket's path may have no more than 107 bytes
            self.socket = unconnected()
            try:
                self.socket.bind(self.path(me))
            except OSError:
                self.all_on_host = False

    def path(self, node: int) -> str:
        return f"{self.folder}/bell.{node}"

    def ring(self, node: int) -> bool:
        """-> False where the rank's process has ended; True also where it never had a bell."""
        if self.all_on_host and node not in self.gone:
            try:
                self.bell_of(node).send(b"!")
            except ConnectionRefusedError:
                self.gone.add(node)
                if bell := self.connected.pop(node, None):
                    bell.close()
            except OSError:  # its queue of rings is full, or it has made no bell yet
                pass
        return node not in self.gone

    def bell_of(self, node: int) -> socket.socket:
        """Return what rings there, and goes on to when the folder is removed. Raises OSError."""
        if node not in self.connected:
            bell = unconnected()
            try:
                bell.connect(self.path(node))
            except OSError:
                bell.close()
                raise
            self.connected[node] = bell
        return self.connected[node]

    def wait(self, seconds: float) -> None:
        """Sleep until it rings, at most for `seconds`."""
        if not self.all_on_host:
            time.sleep(seconds)
        elif select.select([self.socket], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                self.socket.recv(1)


def unconnected() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
