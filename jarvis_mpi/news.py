"""What the person is told of faults: said of what was really run, not of what was meant to be."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

from .common.layers import Block, mask, named
from .crew import Crew, Hop, Sign
from .harm import NOTHING_KNOWN, Harm
from .wire import Run


@dataclass(frozen=True)
class Change:
    """From `step` on, `block` is run by another node than before, or by none."""

    step: int
    block: Block
    node: int  # whose block it was until now; its owner if nobody's
    sign: Sign  # the last one seen of that node, or of its owner
    to: int | None  # who runs it now; None: it is patched or skipped
    inexact: bool  # layers before it are or were missing: its cache is not what it would have been
    patched_by: int | None = None  # the node before the hole
    loss: str = ""  # what is expected of the hole

    def __str__(self) -> str:
        if self.to is None:
            patched = self.patched_by is not None
            what = (
                f"{named(self.block)} {'patched' if patched else 'skipped'}{self.loss and f': {self.loss}'}"
            )
        elif self.to == self.node:
            what = f"{named(self.block)} on it again"
        else:
            what = f"{named(self.block)} from the copy on {f'node {self.to}' if self.to else 'the end user'}"
        inexact = ", inexact for what was skipped before" if self.inexact and self.to is not None else ""
        return f"node {self.node} {self.sign.value} at step {self.step}: {what}{inexact}"


class Hears(Protocol):
    """Who is told of faults: the record and the screen."""

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None: ...
    def route(self, at_s: float, step: int, epoch: int, route: tuple[Hop, ...]) -> None: ...
    def change(self, at_s: float, change: Change) -> None: ...
    def copy(self, at_s: float, step: int, node: int, block: Block) -> None: ...
    def words(self, at_s: float, step: int, node: int, words: str) -> None: ...
    def shrunk(self, at_s: float, step: int, nodes: Sequence[int]) -> None: ...
    def offset(self, at_s: float, node: int, offset_s: float, uncertainty_s: float) -> None: ...


class News:
    """Tells where a step of a sequence was run otherwise than the one before it."""

    def __init__(self, crew: Crew, harm: Harm = NOTHING_KNOWN):
        self.owners, self.harm = dict(crew.blocks()), harm
        self.served: dict[Block, int | None] = dict(self.owners)
        self.patched: dict[Block, Run] = {}  # by which patch
        self.last_sign: dict[int, Sign] = {}
        self.ever_missing: set[int] = set()  # layers that some position lacks, at some stage

    def of_another(self) -> "News":
        """Of another sequence, which goes on from what was told last: what it lacks is what is skipped now."""
        news = copy(self)
        news.served, news.patched = dict(self.served), dict(self.patched)
        news.ever_missing = {layer for block, node in self.served.items() if node is None for layer in block}
        return news

    def seen(self, node: int, sign: Sign) -> None:
        self.last_sign[node] = sign

    def changes(self, step: int, runs: Iterable[Run], lacks: int) -> list[Change]:
        """What is new in how `step` was run, and in what the stages' positions so far lack (see wire.Message).

        A stage may have run positions over a hole that was mended before the step came home by another way: the
        text so far is whole, but what that stage says from now on is not what it would have been.
        """
        runs = list(runs)
        now = {run.block: run.node for run in runs if not run.patch}
        patched = {
            block: run for run in runs if run.patch for block in self.owners if set(block) <= set(run.block)
        }
        later = {
            block for block in now if lacks and mask(block) & lacks and not self.ever_missing & set(block)
        }
        self.ever_missing.update(layer for block in later for layer in block)
        changes = []
        for block, before in self.served.items():
            span, span_before = (
                each[block].block if block in each else None for each in (patched, self.patched)
            )
            if now.get(block) == before and span == span_before and block not in later:
                continue
            owner, to = self.owners[block], now.get(block)
            node = owner if before is None or to == owner else before
            inexact = any(layer < block.stop for layer in self.ever_missing)
            sign = self.last_sign.get(node, Sign.LOST)
            loss = self.harm.words(block, span) if to is None else ""
            by = patched[block].node if span else None
            changes.append(Change(step, block, node, sign, to, inexact, by, loss))
        self.patched = patched
        for block in self.served:
            self.served[block] = now.get(block)
            if block not in now:
                self.ever_missing.update(block)
        return changes
