"""Messages that have arrived in part."""

from typing import Any


class Inbox:
    """The rest of a large message may never come, if its sender's host lost power: others are let in meanwhile."""

    def __init__(self, MPI: Any, comm: Any):
        self.MPI, self.comm = MPI, comm
        self.status = MPI.Status()
        self.incoming: list[tuple[int, Any, bytearray]] = []  # sender, request, its buffer

    def __len__(self) -> int:
        return len(self.incoming)

    def take(self) -> bytearray | None:
        """The next message that is whole; those of one sender in their order."""
        if self.look() or self.look():  # what one look lets in, only the next one finds
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
                return data
            waits.add(source)
        return None

    def look(self) -> bool:
        return self.comm.Iprobe(self.MPI.ANY_SOURCE, self.MPI.ANY_TAG, self.status)
