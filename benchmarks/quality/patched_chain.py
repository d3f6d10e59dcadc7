"""A whole model in one process whose nodes can be dead, and what a text loses when they are."""

import argparse
import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from jarvis_mpi.common.layers import END_USER, Block
from jarvis_mpi.model import checkpoint, patch
from jarvis_mpi.model.activations import from_bytes
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.protocol import placement
from jarvis_mpi.protocol.cluster import Cluster, Hop, Policy
from jarvis_mpi.protocol.node_state import State
from jarvis_mpi.study import patch_fitting
from jarvis_mpi.study.corpus import windows_of
from jarvis_mpi.study.scorer import Scorer, nats

WINDOW = 256
DRAWN = 10  # of each number of dead nodes
HOW = ("skip", "repeat", "gain", "patch")
At = TypeVar("At")  # activations, however they are kept


class Chain:
    """A whole model whose nodes can be dead."""

    def __init__(self, scorer: Scorer, asked: argparse.Namespace, told: patch.PatchInfo):
        self.scorer = scorer
        self.placement = placement.place(
            scorer.depth, asked.workers, split=asked.split, end_user_layers=asked.end_user_layers
        )
        self.owned = [
            block for node in sorted(self.placement) if node != END_USER for block in self.placement[node]
        ]
        self.told = told
        self.puts: dict[str, Callable[[Block, bytes, int], bytes]] = {}

    def hops(self, dead: Sequence[int], how: str, copies: int = 0) -> tuple[Hop, ...]:
        """`how`: of HOW; every block is taken to have a gain."""
        known = self.told.patched if how == "patch" else frozenset(self.owned)
        cluster = Cluster(
            self.placement, placement.copies(self.placement, copies),
            Policy(("copy", "skip") if how == "skip" else ("copy", "patch", "skip")),
            patches=known, patchers=frozenset(self.placement), states=dict.fromkeys(dead, State.LOST),
        )  # fmt: skip
        return cluster.route()

    def through(
        self, hops: Sequence[Hop], how: str, before: Sequence[At],
        run: Callable[[int, At], At], put: Callable[[Block, At], At],
    ) -> At:  # fmt: skip
        """`before`: what comes before each layer of the whole model, and after the last one: what is known is
        not run again."""
        there = {layer for hop in hops if not hop.patch for layer in hop.block}
        first = next((layer for layer in range(self.scorer.depth) if layer not in there), self.scorer.depth)
        state, earlier = before[first], range(0)
        for hop in hops:
            if hop.patch and how == "repeat":
                for layer in earlier:
                    state = run(layer, state)
            elif hop.patch:
                state = put(hop.block, state)
            else:
                for layer in hop.block:
                    state = run(layer, state) if layer >= first else state
                earlier = hop.block
        return state


def gains(
    path: Path, fit_text: Path, text: Text, chain: Chain, folder: Path, dtype: torch.dtype
) -> patch.Patches:
    """A gain and a shift a channel of every block, from a third of the text that a fit uses."""
    ids = torch.tensor(windows_of(fit_text.read_text(), text, 32 * (WINDOW - 1), WINDOW, print)[:-1])
    sums = patch_fitting.Sums()
    for window in ids.tolist():
        before = [from_bytes(body, chain.scorer.head.width, dtype) for body in chain.scorer.states_of(window)]
        at = {end: before[end] for block in chain.owned for end in (block.start, block.stop)}
        ends = [(block.start, block.stop) for block in chain.owned]
        sums.add(at, [*ends, *((end, end) for end in at)])
    made = {block: patch_fitting.gain(sums, block.start, block.stop) for block in chain.owned}
    said = {block: {"skipped": 0.0, "patched": 0.0, "how": "gain"} for block in made}
    patch.write(path, made, patch.PatchInfo(checkpoint.fingerprint(folder), "gains", said))
    return patch.Patches(path, dtype)


class Losses:
    """Nats a token over the whole model, of a text."""

    def __init__(self, chain: Chain, windows: Sequence[Sequence[int]]):
        self.chain, self.windows = chain, windows
        self.before = [chain.scorer.states_of(window) for window in windows]
        self.tokens = sum(len(window) - 1 for window in windows)
        self.known: dict[tuple, float] = {}
        self.whole = self.nats((), "skip")

    def nats(self, hops: Sequence[Hop], how: str) -> float:
        scorer = self.chain.scorer
        total = 0.0
        for window, before in zip(self.windows, self.before, strict=True):
            body = before[-1]
            if hops:
                body = self.chain.through(
                    hops, how, before, scorer.run, lambda hole, x: self.chain.puts[how](hole, x, 0)
                )
            total += nats(scorer.head, body, window)
        return total / self.tokens

    def of(self, dead: Sequence[int], how: str, copies: int = 0) -> float:
        hops = self.chain.hops(dead, how, copies)
        key = (tuple((hop.block, hop.patch) for hop in hops), how)
        if key not in self.known:
            self.known[key] = self.nats(hops, how) - self.whole
        return self.known[key]


def deaths(chain: Chain, most: int) -> list[list[tuple[int, ...]]]:
    nodes = [node for node in chain.placement if node != END_USER and chain.placement[node]]
    dice = random.Random(7)
    all_of = [list(itertools.combinations(nodes, count)) for count in range(most + 1)]
    return [choices if count < 2 else dice.sample(choices, DRAWN) for count, choices in enumerate(all_of)]
