"""Drops failed nodes from the communicator, beside the point-to-point traffic on COMM_WORLD.

A node's name is its launch rank. The end user orders every member to `begin` the same attempt; each then
polls:

    ready   each member tells the first one that it is ready   nobody waits; who is missing costs nothing
    go      the first one has heard all, and tells them
    make    `Shrink` or `Create_group`, 1 to 30 ms             both block: for ever, if a member hangs

So a thread makes it, and is left behind if it does not end. Nothing else may call MPI until then:
with a second thread inside MPI one `Shrink` of about 1,000 went wrong (Open MPI 5.0.11).
"""

import array
import contextlib
import os
import threading
from collections.abc import Sequence
from typing import Any

PATIENCE_S = 1.0  # how long `poll` waits for `make`, once: every member has just said that it is ready
LOWEST_PRIORITY = 19  # of a thread that cannot be ended


class Membership:
    """Keeps the newest communicator, `comm`, and its ranks' nodes, `nodes`.
    All nodes make one at the start."""

    def __init__(self, MPI: Any, world: Any):
        self.MPI, self.world = MPI, world
        self.talk = world.Dup()  # for ready and go alone
        self.comm = world.Dup()  # for `make` alone: Create_group's own messages answer to ANY_TAG
        for comm in self.talk, self.comm:
            comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.nodes = list(range(world.size))
        self.members: list[int] = []
        self.number = self.made_by = 0  # this attempt, and the one that made `comm`
        self.posted: list = []  # (request, buffer): answers still awaited
        self.sends: list = []
        self.maker: threading.Thread | None = None
        self.made: tuple | None = None

    def begin(self, number: int, members: Sequence[int], certain: bool) -> bool:
        """Start attempt `number` (1, 2, ...) for the communicator of `members`; False if that is impossible.

        `certain`: MPI knows that every dropped node is dead; not `certain`: it knows it of none. Of a mixture
        no communicator can be made (False, or no end): stay on point to point until the hung node is dead
        too.
        """
        self.give_up()
        self.take()  # an end that came late counts
        if self.maker or not set(members) <= set(self.nodes):
            return False
        self.number, self.members, self.certain = number, sorted(members), certain
        first, *others = self.members
        peers = others if self.world.rank == first else [first]
        for node in peers:
            answer = array.array("q", [-1])
            self.posted.append((self.talk.Irecv([answer, self.MPI.INT64_T], node, number), answer))
        if self.world.rank != first:
            self.say(peers)
        return True

    def poll(self) -> bool | None:
        """Advance the attempt. True: `comm` and `nodes` are new. None: not yet.
        False: it failed, or there is none."""
        try:
            if self.posted and all(request.Test() for request, _ in self.posted):
                answers, self.posted = {answer[0] for _, answer in self.posted}, []
                if answers == {self.made_by}:  # else an earlier attempt ended well for some of them only
                    if self.world.rank == self.members[0]:
                        self.say(self.members[1:])
                    self.maker = threading.Thread(target=self.make, daemon=True)
                    self.maker.start()
                    self.maker.join(PATIENCE_S)
        except self.MPI.Exception:  # a member died
            self.give_up()
        return None if self.posted else self.take()

    def give_up(self) -> None:
        """Abandon the attempt.
        A thread that still makes one is left behind; `begin` may take its result later."""
        for request, _ in self.posted:
            if request != self.MPI.REQUEST_NULL:  # its answer came
                request.Cancel()
        self.posted = []
        if self.maker and self.maker.is_alive():
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self.maker.native_id or 0, LOWEST_PRIORITY)

    def say(self, nodes: Sequence[int]) -> None:
        word = array.array("q", [self.made_by])
        self.sends = [(self.talk.Isend([word, self.MPI.INT64_T], node, self.number), word) for node in nodes]

    def make(self) -> None:
        """Make the communicator, in the thread."""
        with contextlib.suppress(self.MPI.Exception):
            if self.certain:
                comm = self.comm.Shrink()
            else:
                ranks = [self.nodes.index(node) for node in self.members]
                comm = self.comm.Create_group(self.comm.group.Incl(ranks))
            comm.Set_errhandler(self.MPI.ERRORS_RETURN)
            ranks = list(range(comm.size))
            self.made = comm, self.MPI.Group.Translate_ranks(comm.group, ranks, self.world.group)

    def take(self) -> bool | None:
        if self.maker is None:
            return False
        if self.maker.is_alive():
            return None
        self.maker, made, self.made = None, self.made, None
        if made:
            (self.comm, nodes), self.made_by = made, self.number
            self.nodes = list(nodes)
        return bool(made)
