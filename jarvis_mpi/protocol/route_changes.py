"""What the person is told of faults: it follows from what was really run, not from what was planned."""

from collections.abc import Iterable
from copy import copy

from ..common.layers import Block, mask
from .cluster import Cluster
from .events import Change
from .expected_loss import NO_LOSS_KNOWN, ExpectedLoss
from .node_state import Sign
from .wire import StageRun


class RouteChanges:
    """Tells where a step of a sequence was run otherwise than the one before it."""

    def __init__(self, cluster: Cluster, expected_loss: ExpectedLoss = NO_LOSS_KNOWN):
        self.owners, self.expected_loss = dict(cluster.blocks()), expected_loss
        self.served: dict[Block, int | None] = dict(self.owners)
        self.patched: dict[Block, StageRun] = {}  # by which patch
        self.last_sign: dict[int, Sign] = {}
        self.ever_missing: set[int] = set()  # layers that some position lacks, at some stage

    def for_another_sequence(self) -> "RouteChanges":
        """Of another sequence, which goes on from what was told last: what it lacks is what is skipped
        now."""
        changes = copy(self)
        changes.served, changes.patched = dict(self.served), dict(self.patched)
        changes.ever_missing = {
            layer for block, node in self.served.items() if node is None for layer in block
        }
        return changes

    def sign_seen(self, node: int, sign: Sign) -> None:
        if self.last_sign.get(node) is not Sign.LOST:  # that is for good
            self.last_sign[node] = sign

    def changes(self, step: int, runs: Iterable[StageRun], lacks: int) -> list[Change]:
        """What is new in how `step` was run, and in what the stages' positions so far lack (see
        wire.Message).

        A stage may have run positions over a hole that was mended before the step returned by another way:
        the text so far is whole, but what that stage says from now on is not what it would have been.
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
            node = owner
            if before is not None and to != owner and self.last_sign.get(before, Sign.BACK) is not Sign.BACK:
                node = before  # else it is well, and makes room for a better place
            inexact = any(layer < block.stop for layer in self.ever_missing)
            sign = self.last_sign.get(node, Sign.BACK if to == node else Sign.LOST)
            loss = self.expected_loss.sentence(block, span) if to is None else ""
            by = patched[block].node if span else None
            changes.append(Change(step, block, node, sign, to, inexact, by, loss))
        self.patched = patched
        for block in self.served:
            self.served[block] = now.get(block)
            if block not in now:
                self.ever_missing.update(block)
        return changes
