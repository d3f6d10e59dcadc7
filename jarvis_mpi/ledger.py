"""How far each stage has run, as the end user knows it: from which position on it must be sent rows.

`known` is what came home and is never too much; `expected` adds what is under way. A stage that has run
more than is known loses nothing: it runs what is new and sends the rest from its journal.
"""

from collections.abc import Iterable

from .crew import Block, Hop


class Ledger:
    def __init__(self) -> None:
        self.known: dict[tuple[int, Block], int] = {}
        self.expected: dict[tuple[int, Block], int] = {}

    def hops(self, route: Iterable[Hop], end: int) -> tuple[Hop, ...]:
        """The route for the positions before `end`: every hop is sent what it lacks, and one row at least.

        A patch keeps nothing: it is sent what the hop behind it lacks.
        """
        hops: list[Hop] = []
        since = end - 1  # home needs the last row alone
        for hop in reversed(list(route)):
            if not hop.patch:
                since = min(self.expected.get((hop.node, hop.block), 0), end - 1)
            hops.append(hop._replace(since=since))
        return tuple(reversed(hops))

    def left(self, hops: Iterable[Hop], end: int) -> None:
        self.expected.update({(hop.node, hop.block): end for hop in hops if not hop.patch})

    def came_home(self, hops: Iterable[Hop], end: int) -> None:
        for hop in hops:
            if hop.patch:
                continue
            key = (hop.node, hop.block)
            self.known[key] = max(end, self.known.get(key, 0))
            self.expected[key] = max(self.known[key], self.expected.get(key, 0))

    def behind(self, node: int, block: Block, have: int) -> None:
        """The stage itself says that it has run no more than `have`."""
        self.known[node, block] = have

    def only_known(self) -> None:
        """What was under way may be lost."""
        self.expected = dict(self.known)
