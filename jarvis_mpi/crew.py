"""Who is there, and which way a token goes. Every decision about a route is made here.

Rule 1: nothing outside this file decides which node runs a layer.
Rule 2: this file knows no MPI, no clock, no tensor and no file.

A node is named by its rank at launch, for ever: a shrink renumbers ranks, never nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

END_USER = 0  # the node that asks: rank 0 at launch

Block = range  # a run of decoder layers, counted from 0


class Hop(NamedTuple):
    """One stop of a token: `node` runs the layers of `block`."""

    node: int
    block: Block

    def __str__(self) -> str:
        return f"{self.node}[{layers(self.block)}]"


@dataclass(frozen=True)
class Crew:
    """What every node holds."""

    holds: Mapping[int, tuple[Block, ...]]  # node -> its blocks; a spare holds none

    def route(self) -> tuple[Hop, ...]:
        """Every layer once, in order; the end user may be first, last or both."""
        hops = [Hop(node, block) for node, blocks in self.holds.items() for block in blocks]
        return tuple(sorted(hops, key=lambda hop: hop.block.start))

    def spares(self) -> tuple[int, ...]:
        return tuple(node for node, blocks in self.holds.items() if node != END_USER and not blocks)


def layers(block: Block) -> str:
    """'4-7', or '4' for a single layer: how a block is written for people."""
    return f"{block[0]}-{block[-1]}" if len(block) > 1 else f"{block[0]}"
