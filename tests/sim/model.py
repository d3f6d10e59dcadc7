"""A model whose every mistake shows: a row depends on all rows before it, and carries the layers that were
really run on it."""

import random
import struct
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from jarvis_mpi.common.layers import Block, mask
from jarvis_mpi.protocol.cluster import Cluster
from jarvis_mpi.protocol.placement import place
from jarvis_mpi.protocol.speculation import NoProposals

from .story import Story, turns

ROW = struct.Struct("<QQQ")  # value, the layers that were run on it (a bit each), those that were patched
BITS = 2**64 - 1
SEED, FACTOR, TERM = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of SplitMix64


class Wrong(AssertionError):
    """A rule is broken."""


def mix(*numbers: int) -> int:
    value = SEED
    for number in numbers:
        value = ((value ^ number) * FACTOR + TERM) & BITS
        value ^= value >> 29
    return value


class SimHead:
    def embed(self, ids, start: int) -> bytes:
        return b"".join(ROW.pack(mix(token, start + i), 0, 0) for i, token in enumerate(ids))

    def rows_logits(self, body, first: int, end=None) -> list[tuple[int, ...]]:
        return list(ROW.iter_unpack(body))[first:end]


class SimStage:
    """Layers whose output depends on every row before."""

    def __init__(self, block: Block, busy=lambda rows: None):
        self.block, self.busy = block, busy
        self.caches: dict[int, list[int]] = {}
        self.bits = mask(block)
        # How often a sequence was: more than once only if it was forgotten.
        self.began: Counter[int] = Counter()

    def run(self, body, start: int, sequence: int) -> bytes:
        if start == 0:
            self.caches[sequence] = [mix(self.block.start)]
            self.began[sequence] += 1
        cache, first = self.caches[sequence], self.block.start
        if len(cache) - 1 != start:
            raise Wrong(f"rule 3: layers {self.block} have run {len(cache) - 1} positions, not {start}")
        out, last, bits = [], cache[-1], self.bits
        for value, ran, patched in ROW.iter_unpack(body):
            if (ran | patched) >> first:
                raise Wrong(f"rule 1: layers {self.block} are run after {ran | patched:b}")
            # last = mix(last, value), and the row has mix(value, last): written out, since most of the time
            # goes here
            mixed = ((SEED ^ last) * FACTOR + TERM) & BITS
            mixed = (((mixed ^ (mixed >> 29)) ^ value) * FACTOR + TERM) & BITS
            last = mixed ^ (mixed >> 29)
            cache.append(last)
            mixed = ((SEED ^ value) * FACTOR + TERM) & BITS
            mixed = (((mixed ^ (mixed >> 29)) ^ last) * FACTOR + TERM) & BITS
            out.append(ROW.pack(mixed ^ (mixed >> 29), ran | bits, patched))
        self.busy(len(out) * len(self.block))
        return b"".join(out)

    def crop(self, sequence: int, end: int) -> bool:
        del self.caches[sequence][end + 1 :]
        return True

    def forget(self, sequence: int) -> None:
        self.caches.pop(sequence, None)


class SimDrafts(NoProposals):
    """Knows what one machine says, and guesses it right so often."""

    def __init__(self, story: Story):
        self.dice, self.right = random.Random(story.seed + 5), story.guessed
        self.texts = whole_texts(story) if self.right else []

    def propose(self, sequence: int, ids, most: int):
        if not self.right:
            return ()
        coming = self.texts[sequence][len(ids) :][: min(most, self.dice.choice((0, 1, 2, 5)))]
        return [token if self.dice.random() < self.right else token + 1 for token in coming]


def put_patch(hole: Block, body, start: int) -> bytes:
    out = []
    for value, ran, patched in ROW.iter_unpack(body):
        if (ran | patched) >> hole.start:
            raise Wrong(f"rule 1: layers {hole} are patched after {ran | patched:b}")
        out.append(ROW.pack(mix(value, hole.start, len(hole)), ran, patched | mask(hole)))
    return b"".join(out)


def choose(logits: tuple[int, ...], text: Sequence[int], sequence: int = 0) -> int:
    return logits[0] % 1009


@lru_cache(maxsize=2)
def whole_texts(story: Story) -> list[list[int]]:
    """What one machine says: each sequence, prompts and answers."""
    head, texts = SimHead(), []
    held = Cluster(
        place(story.layers, story.workers, split="even", end_user_layers=story.end_user_layers)
    ).blocks()
    for part in turns(story):
        if part.new_text or not texts:
            stages, ids, start = [SimStage(block) for block, _ in held], [], 0
            texts.append(ids)
        ids += part.asked
        for _ in range(part.tokens):
            body = head.embed(ids[start:], start)
            for stage in stages:
                body = stage.run(body, start, 0)
            start = len(ids)
            ids.append(choose(head.rows_logits(body, -1)[0], ids))
    return texts
