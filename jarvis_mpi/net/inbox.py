"""Receives messages that have arrived in part."""

from typing import Any


class Inbox:
    """Receives several messages at a time: the rest of a large one may never come, if its sender's host lost
    power."""

    def __init__(self, MPI: Any, comm: Any):
        self.MPI, self.comm = MPI, comm
        self.status = MPI.Status()
        self.incoming: list[tuple[int, Any, bytearray]] = []  # sender, request, buffer
        self.sender = -1  # of what `take` returned last

    def __len__(self) -> int:
        return len(self.incoming)

    def take(self) -> bytearray | None:
        """Return the next complete message, those of one sender in order; None if there is none."""
        if self.look() or self.look():  # what the first probe lets in, only the second one finds
            data = bytearray(self.status.Get_count(self.MPI.BYTE))
            request = self.comm.Irecv([data, self.MPI.BYTE], self.status.source, self.status.tag)
            self.incoming.append((self.status.source, request, data))
        waits = set()
        for index, (source, request, data) in enumerate(self.incoming):
            if source in waits:
                continue
            try:
                whole = request.Test()
            except self.MPI.Exception:  # its sender died
                del self.incoming[index]
                raise
            if whole:
                del self.incoming[index]
                self.sender = source
                return data
            waits.add(source)
        return None

    def look(self) -> bool:
        return self.comm.Iprobe(self.MPI.ANY_SOURCE, self.MPI.ANY_TAG, self.status)
