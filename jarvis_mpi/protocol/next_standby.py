"""Has another node stand by where none does: it loads what that takes, and is brought up to what the end user
knows."""

from collections.abc import Callable

from .cluster import Cluster
from .election import NOBODY
from .node_state import GONE, Sign, State
from .notes import Sendable, StandBy, StandsBy
from .reserves import successor
from .transcript import Replication

ORDER_AGAIN_S = 20.0  # between two orders while none is answered


class NextStandby:
    """`replication`: to the present one, or to the one that is brought up."""

    def __init__(
        self, replication: Replication, send: Callable[[int, Sendable], None], clock: Callable[[], float],
        prepared: set[int],
    ):  # fmt: skip
        self.replication, self.send, self.clock = replication, send, clock
        self.prepared = prepared  # nodes that have loaded what that takes
        self.ordered, self.ordered_at = NOBODY, 0.0  # who is to make ready
        self.unable: set[int] = set()  # that have said so
        self.without: Cluster | None = None  # the cluster in which no node can

    def order(self, cluster: Cluster) -> None:
        """Have a node make ready; one that does not answer is asked again."""
        if self.replication.to != NOBODY or not self.replication.is_wanted or cluster is self.without:
            return
        now, waits = self.clock(), self.ordered != NOBODY and cluster.state(self.ordered) is State.UP
        if waits and now - self.ordered_at < ORDER_AGAIN_S:
            return
        self.ordered, self.ordered_at = successor(cluster, self.prepared, self.unable), now
        self.without = cluster if self.ordered == NOBODY else None
        if self.ordered != NOBODY:
            self.send(self.ordered, StandBy([*cluster.end_users_blocks]))

    def answered(self, note: StandsBy) -> None:
        """A node that is well answers the order."""
        self.ordered, self.without = NOBODY, None
        if not note.able:
            self.unable.add(note.node)
            return
        self.prepared.add(note.node)
        if self.replication.to == NOBODY:  # it stands by once it has all that is known: Tenure.note_came
            self.replication.begin(note.node)

    def sign_seen(self, node: int, sign: Sign) -> None:
        """Of a node that does not stand by, but may be about to."""
        if node == self.replication.to and (sign is Sign.LOST or sign in GONE):
            self.replication.begin(NOBODY)
