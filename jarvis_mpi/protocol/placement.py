"""Which layers each node holds: an even split, one by hand, or one by free memory.

A placement maps every node to its blocks, in the order of the layers. By default the first and
the last layer stay with the end user: losing them costs most, and so no worker's death does.
"""

from collections.abc import Container, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from ..common.errors import Unservable
from ..common.layers import END_USER, Block

Placement = Mapping[int, tuple[Block, ...]]
MOST_DIGITS = 9  # of a number of layers


def place(
    layers: int, workers: int, *, split: str, end_user_layers: str,
    free_bytes: Mapping[int, float] = MappingProxyType({}), missing: Container[int] = (),
) -> Placement:  # fmt: skip
    """Blocks for nodes 0..workers, made from the user's words.

    `split` is 'even', 'memory' or the workers' layer counts ('2,3,3'); `end_user_layers` is 'none'
    or any of 'first,last'; `free_bytes` is what each node may use, for 'memory' only. Nodes that are
    `missing` get nothing, unless the counts are by hand. Raises Unservable where they do not fit the model.
    """
    if workers < 1:
        raise Unservable("there is no worker: start at least two ranks (mpirun -n 2 or more)")
    edges = edge_layers(end_user_layers)
    first, last = int("first" in edges), layers - int("last" in edges)
    if last - first < 1:
        raise Unservable(
            f"the model has {layers} layers and --end-user-layers {end_user_layers} leaves none to the "
            "workers: use --end-user-layers none"
        )
    nodes = [node for node in range(1, workers + 1) if node not in missing or split not in ("even", "memory")]
    counts = layer_counts(last - first, len(nodes), split, [free_bytes.get(node, 0.0) for node in nodes])
    placement: dict[int, tuple[Block, ...]] = dict.fromkeys(range(workers + 1), ())
    start = first
    for node, count in zip(nodes, counts, strict=True):
        placement[node] = (range(start, start + count),) if count else ()
        start += count
    if first:
        placement[END_USER] += (range(0, 1),)
    if last < layers:
        placement[END_USER] += (range(last, layers),)
    return placement


def copies(placement: Placement, number: int) -> dict[Block, tuple[int, ...]]:
    """`number` further holders of every worker's block, the node before its owner first.

    A copy there takes over without the network: what it must catch up on is in that node's own journal.
    """
    owned = sorted(
        ((block, node) for node, blocks in placement.items() if node != END_USER for block in blocks),
        key=lambda each: each[0].start,
    )
    chain = list(dict.fromkeys([END_USER, *(node for _, node in owned)]))
    before = {node: chain[max(0, place - number) : place][::-1] for place, node in enumerate(chain)}
    return {block: tuple(before[node]) for block, node in owned}


def without(placement: Placement, left_out: Container[int]) -> Placement:
    """`placement` less some layers: what is left of a block may be several."""
    return {
        node: tuple(part for block in held for part in parts(block, left_out))
        for node, held in placement.items()
    }


def parts(block: Block, left_out: Container[int]) -> list[Block]:
    """The runs of layers of `block` between those that are left out."""
    ends = [-1 + block.start, *(layer for layer in block if layer in left_out), block.stop]
    return [range(a + 1, b) for a, b in pairwise(ends) if b - a > 1]


def count_of(word: str) -> int:
    """Raises ValueError where it is no number, or has more digits than any model's layers."""
    if len(word) > MOST_DIGITS:
        raise ValueError(word)
    return int(word)


def counted_from_1(words: str, depth: int) -> frozenset[int]:
    """'5,6,10' -> layers 4, 5 and 9. Raises Unservable."""
    try:
        numbers = [count_of(word) for word in words.split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(not 1 <= number <= depth for number in numbers):
        raise Unservable(f"--skip-layers {words!r} is not layers from 1 to {depth}, such as 5,6,10")
    if len(set(numbers)) == depth:
        raise Unservable(f"--skip-layers {words!r} leaves no layer")
    return frozenset(number - 1 for number in numbers)


def layers_named(words: str, depth: int) -> frozenset[int]:
    """'first,last' or '0,1,17' or 'none' -> layers of a model with `depth` of them."""
    names = {"first": 0, "last": depth - 1}
    try:
        numbers = [
            names[word] if word in names else count_of(word) for word in words.split(",") if word != "none"
        ]
    except ValueError:
        numbers = [-1]
    if any(not 0 <= number < depth for number in numbers):
        raise Unservable(
            f"--never-skip {words!r} is not 'none', 'first,last' or layers from 0 to {depth - 1}"
        )
    return frozenset(numbers)


def edge_layers(words: str) -> set[str]:
    """'first,last' -> {'first', 'last'}; 'none' -> {}."""
    edges = {word.strip() for word in words.split(",")}
    if not edges <= {"first", "last", "none"} or ("none" in edges and len(edges) > 1):
        raise Unservable(f"--end-user-layers {words!r} is not one of: first,last  first  last  none")
    return edges - {"none"}


def layer_counts(layers: int, workers: int, split: str, free_bytes: Sequence[float] = ()) -> list[int]:
    """How many of `layers` each of `workers` holds; 0 makes a spare."""
    if split == "even":
        share, more = divmod(layers, workers)
        return [share + (worker < more) for worker in range(workers)]
    if split == "memory":
        return in_proportion(layers, free_bytes)
    try:
        counts = [count_of(word) for word in split.split(",")]
    except ValueError:
        raise Unservable(f"--split {split!r} is not 'even', 'memory' or layer counts such as 2,3,3") from None
    if min(counts) < 0:
        raise Unservable(
            f"--split {split} gives a worker {min(counts)} layers: 0 makes it a spare, and none has fewer"
        )
    if len(counts) > workers or sum(counts) != layers:
        raise Unservable(
            f"--split {split} names {len(counts)} workers and {sum(counts)} layers, but there are"
            f" {workers} workers for {layers} layers (the end user keeps the others: --end-user-layers)"
        )
    return counts + [0] * (workers - len(counts))


def in_proportion(layers: int, weights: Sequence[float]) -> list[int]:
    """`layers` shared out in proportion to `weights`, one at least to each while they last."""
    workers = len(weights)
    if layers <= workers:  # the roomiest hold one each, the rest are spares
        roomiest = sorted(range(workers), key=lambda worker: -weights[worker])[:layers]
        return [int(worker in roomiest) for worker in range(workers)]
    counts = [1] * workers
    for _ in range(layers - workers):  # each next layer to whom it weighs least on
        lightest = min(range(workers), key=lambda worker: (counts[worker] + 1) / max(weights[worker], 1e-9))
        counts[lightest] += 1
    return counts
