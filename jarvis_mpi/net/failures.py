"""Which processes MPI knows to have failed (ULFM), and its errors as ours: an error's class tells."""

from typing import Any

from ..protocol.link import Lost


class Failures:
    """Of `comm`, which has all nodes, each by its rank."""

    def __init__(self, MPI: Any, comm: Any):
        self.MPI, self.comm, self.everyone = MPI, comm, comm.group
        # An MPI without ULFM has no such classes: mpi4py then says ERR_UNKNOWN, which tells of no process.
        self.classes = {MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED} - {MPI.ERR_UNKNOWN}
        self.reported: set[int] = set()  # by the last Lost

    def known(self) -> set[int]:
        """The nodes whose failure MPI knows of."""
        if not self.classes:
            return set()
        group = self.comm.Get_failed()
        nodes = self.MPI.Group.Translate_ranks(group, list(range(group.size)), self.everyone)
        group.Free()
        return set(nodes)

    def acknowledge(self, error: Exception) -> None:
        """Let the others be heard again, where `error` is about a failed process."""
        if self.is_one(error):
            self.comm.Ack_failed()

    def translated(self, error: Exception) -> Exception:
        """MPI's error as one of ours, where it is about a failed process."""
        return self.lost() if self.is_one(error) else error

    def lost(self) -> Lost:
        self.reported = self.known()
        return Lost(self.reported)

    def is_one(self, error: Any) -> bool:
        return error.Get_error_class() in self.classes
