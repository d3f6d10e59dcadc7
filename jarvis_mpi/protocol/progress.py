"""How far each stage has run, as the end user knows it: from which position on it must be sent rows.

As etcd's raft tracks a follower: `match` is what has returned and is never too much, `next` adds what is
under way. A stage that has run more than `match` loses nothing: it runs what is new and sends the rest from
its journal.
"""

from collections.abc import Iterable

from ..common.layers import Block
from .cluster import Hop


class Progress:
    def __init__(self) -> None:
        self.match: dict[tuple[int, Block], int] = {}
        self.next: dict[tuple[int, Block], int] = {}

    def hops(self, route: Iterable[Hop], since_home: int) -> tuple[Hop, ...]:
        """The route of rows that home needs from `since_home` on: every hop is sent what it lacks, those rows
        at least.

        A patch keeps nothing: it is sent what the hop behind it lacks.
        """
        hops: list[Hop] = []
        since = since_home
        for hop in reversed(list(route)):
            if not hop.patch:
                since = min(self.next.get((hop.node, hop.block), 0), since_home)
            hops.append(hop._replace(since=since))
        return tuple(reversed(hops))

    def sent(self, hops: Iterable[Hop], end: int) -> None:
        self.next.update({(hop.node, hop.block): end for hop in hops if not hop.patch})

    def returned(self, hops: Iterable[Hop], end: int) -> None:
        for hop in hops:
            if hop.patch:
                continue
            key = (hop.node, hop.block)
            self.match[key] = max(end, self.match.get(key, 0))
            self.next[key] = max(self.match[key], self.next.get(key, 0))

    def behind(self, node: int, block: Block, have: int) -> None:
        """The stage itself says that it has run no more than `have`."""
        self.match[node, block] = have

    def crop(self, end: int) -> None:
        """The positions from `end` on were drafts that were not taken."""
        self.match = {stage: min(have, end) for stage, have in self.match.items()}
        self.forget_in_flight()

    def forget_in_flight(self) -> None:
        """What was under way may be lost."""
        self.next = dict(self.match)
