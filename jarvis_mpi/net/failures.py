"""Asks MPI which processes have failed (ULFM), and translates its errors to ours by their class."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..protocol.link import Lost


class Failures:
    """Knows the failures in `comm`, which has all nodes, each by its rank."""

    def __init__(self, MPI: Any, comm: Any):
        self.MPI, self.comm, self.everyone = MPI, comm, comm.group
        # An MPI without ULFM has no such classes: mpi4py then has ERR_UNKNOWN, which is about no process.
        self.classes = {MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED} - {MPI.ERR_UNKNOWN}
        self.reported: set[int] = set()  # by the last Lost
        self.found: set[int] = set()  # dead as others than MPI know

    def known(self) -> set[int]:
        """Return the nodes that have failed."""
        if not self.classes:
            return set(self.found)
        group = self.comm.Get_failed()
        nodes = self.MPI.Group.Translate_ranks(group, list(range(group.size)), self.everyone)
        group.Free()
        return self.found.union(nodes)

    def acknowledge(self, error: Exception) -> None:
        """Let the others' messages through again, where `error` is about a failed process."""
        if self.is_one(error):
            self.comm.Ack_failed()

    def translated(self, error: Exception) -> Exception:
        """Return Lost for an MPI error about a failed process, else the same error."""
        return self.lost() if self.is_one(error) else error

    def lost(self) -> Lost:
        self.reported = self.known()
        return Lost(self.reported)

    def is_one(self, error: Any) -> bool:
        return error.Get_error_class() in self.classes


@contextmanager
def muted() -> Iterator[None]:
    """Drop what MPI's own code writes on standard error: lines about a death that we tell ourselves."""
    copy, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(copy, 2)
        os.close(copy)
        os.close(nowhere)
