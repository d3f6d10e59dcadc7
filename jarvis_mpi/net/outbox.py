"""Keeps messages that have been posted and are not under way yet."""

import time
from collections import deque
from typing import Any


class Outbox:
    """Keeps each buffer until its request is done.
    Only what is complete is tested, and what is on its way to a process that died is put aside: Open MPI
    would free it, and end this process when the connection breaks, which a host without power leaves open for
    minutes ("Send error after request freed", 5.0.11).
    """

    def __init__(self, MPI: Any, comm: Any):
        self.MPI, self.comm = MPI, comm
        self.posted: deque[tuple[int, Any, bytes]] = deque()  # receiver, request, buffer
        self.aside: list[tuple[Any, bytes]] = []  # for ever
        self.posted_at = 0.0

    def __len__(self) -> int:
        return len(self.posted)

    def post(self, node: int, data: bytes) -> None:
        self.posted.append((node, self.comm.Isend([data, self.MPI.BYTE], node), data))
        self.posted_at = time.monotonic()

    def sweep(self, dead: set[int]) -> set[int]:
        """Forget the sends that are done; one to a stopped process stays for long.
        -> the dead nodes with a send under way."""
        met = set()
        for _ in range(len(self.posted)):
            node, request, data = self.posted.popleft()
            if node in dead:
                self.aside.append((request, data))
                met.add(node)
            elif not (request.Get_status() and request.Test()):
                self.posted.append((node, request, data))
        return met
