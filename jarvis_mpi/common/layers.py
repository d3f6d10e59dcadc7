"""Blocks of decoder layers, and their names."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

Case = frozenset[int]  # layers left out, counted from 0


END_USER = 0  # the node that asks: rank 0 at launch


Block = range  # a run of decoder layers, counted from 0


def is_whole(blocks: Sequence[Block]) -> bool:
    """Return whether the blocks follow one another without a layer between them."""
    return all(a.stop == b.start for a, b in pairwise(blocks))


def layers(block: Block) -> str:
    """Write a block for people: '4-7', or '4' for a single layer."""
    return f"{block[0]}-{block[-1]}" if len(block) > 1 else f"{block[0]}"


def runs(numbers: Iterable[int]) -> list[Block]:
    """Group layers to blocks of neighbours."""
    blocks: list[Block] = []
    for layer in sorted(numbers):
        if blocks and blocks[-1].stop == layer:
            blocks[-1] = range(blocks[-1].start, layer + 1)
        else:
            blocks.append(range(layer, layer + 1))
    return blocks


def block_of(words: str) -> Block:
    """Parse '4-7' or '4', as `layers` writes it."""
    first, _, last = words.partition("-")
    return range(int(first), int(last or first) + 1)


def named(block: Block) -> str:
    """Return 'layers 4-7' or 'layer 4'."""
    return f"layer{'s' if len(block) > 1 else ''} {layers(block)}"


def mask(layers: Iterable[int]) -> int:
    """Return layers as the bits of a number."""
    return sum(1 << layer for layer in layers)
