"""Between two steps: what lets the next fault find a copy again, the communicator without the lost nodes, the
clocks."""

from collections.abc import Callable, Iterable, Mapping

from ..common.layers import Block
from .cluster import Cluster
from .node_state import Sign, State
from .notes import LoadCopy, Ping, Pong, Sendable, Shrink
from .reserves import copies_to_load
from .services import Services

Send = Callable[[int, Sendable], None]


class Maintenance:
    """`send` takes what is for a worker; workers hear every `speak_s` that the run goes on."""

    def __init__(self, services: Services, send: Send, speak_s: float):
        self.link, self.stages, self.load = services.link, services.stages, services.load
        self.observer, self.clock, self.send = services.observer, services.clock, send
        self.ordered: set[tuple[int, Block]] = set()
        self.unable: set[tuple[int, Block]] = set()  # that have said so
        self.copies_ordered_for: Cluster | None = None  # the cluster for which copies were last ordered
        self.members = tuple(self.link.nodes)  # of the communicator
        self.shrinking_to: list[int] = []
        self.attempts = 0  # to shrink it
        self.speak_s, self.spoke_at = speak_s, self.clock()
        self.clocks_asked: set[int] = set()  # and not heard yet

    def order_copies(self, cluster: Cluster, step: int) -> Cluster:
        """What is wanted and not ordered yet. -> the cluster with the copies that are there at once."""
        if cluster is self.copies_ordered_for:
            return cluster
        self.copies_ordered_for = cluster
        for node, block in copies_to_load(cluster, self.ordered, self.unable):
            self.ordered.add((node, block))
            if node == self.link.me:
                self.stages[block] = self.load(block)
                cluster = self.copy_loaded(cluster, node, block, step)
            else:
                self.send(node, LoadCopy(block))
        return cluster

    def copy_loaded(self, cluster: Cluster, node: int, block: Block, step: int) -> Cluster:
        self.ordered.discard((node, block))
        self.observer.copy(self.clock(), step, node, block)
        return cluster.with_copy(node, block)

    def copy_refused(self, node: int, block: Block) -> None:
        """Another is asked next."""
        self.ordered.discard((node, block))
        self.unable.add((node, block))
        self.copies_ordered_for = None

    def shrink_to_those_left(self, cluster: Cluster, last_sign: Mapping[int, Sign], step: int) -> None:
        """Have the communicator shrunk to those that are left, beside the text; not while somebody is
        silent."""
        if tuple(self.link.nodes) != self.members:
            self.members = tuple(self.link.nodes)
            self.observer.shrunk(self.clock(), step, self.members)
        left = [node for node in cluster.holds if cluster.state(node) is not State.LOST]
        dropped = set(self.members) - set(left)
        lost = [node for node in dropped if last_sign.get(node) is Sign.LOST]
        if not dropped or left == self.shrinking_to or len(lost) not in (0, len(dropped)):
            return  # of lost ones and given up ones together no MPI gets rid
        if all(cluster.state(node) is State.UP for node in left):
            self.shrinking_to = left
            self.attempts += 1
            certain = bool(lost) and not self.link.orphaned
            order = Shrink(left, self.attempts, certain)
            for node in left:
                if node != self.link.me:
                    self.send(node, order)
            self.link.shrink(self.attempts, left, certain)

    def speak(self, cluster: Cluster) -> None:
        """Ask all workers for their clocks now and then: one that has nothing to do, and hears nothing, would
        leave."""
        if self.clock() - self.spoke_at > self.speak_s:
            self.spoke_at = self.clock()
            self.ask_clocks(node for node in cluster.holds if cluster.state(node) is not State.LOST)

    def ask_clocks(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            if node != self.link.me:
                self.clocks_asked.add(node)
                self.send(node, Ping(self.clock()))

    def clock_answered(self, pong: Pong) -> None:
        """Its answer was made at some time between the two of ours: NTP's offset, and its bound (RFC 5905,
        section 8)."""
        now, asked_at = self.clock(), pong.asked_at
        self.clocks_asked.discard(pong.node)
        self.observer.offset(now, pong.node, pong.clock_s - (asked_at + now) / 2, (now - asked_at) / 2)
