"""The steps under way, each with the time that every node on its route may take for it.

No clock here: every call is told the time, in seconds of one monotonic clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .cluster import Hop

INFINITY = float("inf")
SLOWER = 3.0  # than measured at the start: what a stage may be before it is over its deadline


@dataclass(frozen=True)
class Patience:
    """How long each wait may be, in seconds; see common/settings.py."""

    beat_s: float = 0.25
    silence_s: float = 1.0
    progress_s: float = 1.0
    stall_timeout_s: float = 30.0
    give_up_s: float = 60.0


class Pace(NamedTuple):
    """What a node measured at its start, a layer."""

    one_s: float = 0.0  # a step of one row
    row_s: float = 0.0  # each further row of a larger one
    first_s: float = 0.0  # more, for a copy's first use: it is read from the disk then

    def slowed_to(self, one_s: float) -> "Pace":
        """Of a slower machine, on which rows cost as much beside one another as here."""
        return self._replace(one_s=one_s, row_s=one_s * self.row_s / self.one_s)

    def step_s(self, hop: Hop, rows: int) -> float:
        """How long the node of `hop` should work on `rows` rows."""
        layers = 0 if hop.patch else len(hop.block)
        expected_s = layers * (self.one_s + (rows - 1) * self.row_s)
        return expected_s + layers * self.first_s * (rows > 1 and hop.since == 0)


@dataclass
class StepInFlight:
    """A sequence's step, as the failure detector sees it."""

    hops: tuple[Hop, ...] = ()  # the workers' alone
    epoch: int = 0
    end: int = 0  # of its last piece that was sent
    number: int = 0  # of all that were sent
    rows: int = 0  # that were sent with it
    resends: int = 0
    sent_at: float = 0.0
    moved_at: float = 0.0
    overtaken_at: float = INFINITY  # when what was sent later returned first
    allowed_s: dict[int, float] = field(default_factory=dict)


class StepsInFlight:
    def __init__(self, patience: Patience, pace: Mapping[int, Pace], me: int):
        self.patience, self.pace, self.me = patience, pace, me
        self.by_sequence: dict[int, StepInFlight] = {}
        self.sends = 0

    @property
    def rows(self) -> int:
        """All that is under way."""
        return sum(step.rows for step in self.by_sequence.values())

    def sent(
        self, sequence: int, hops: Iterable[Hop], epoch: int, end: int, now: float, more: bool, again: bool
    ) -> None:
        """The positions up to `end` of a sequence were sent over `hops`.
        `more`: behind another piece of the same step; `again`: the step had been sent before."""
        before = self.by_sequence.get(sequence) or StepInFlight(sent_at=now)
        step = self.by_sequence[sequence] = before if more else StepInFlight(sent_at=now)
        if again:
            step.resends, step.sent_at = before.resends, before.sent_at
        self.sends += 1
        step.hops = tuple(hop for hop in hops if hop.node != self.me)
        # One piece queues up behind the other.
        step.rows += max((end - hop.since for hop in step.hops), default=0)
        step.epoch, step.end, step.moved_at, step.number = epoch, end, now, self.sends
        allowed_s: dict[int, float] = {}
        for hop in step.hops:
            expected_s = self.pace.get(hop.node, Pace()).step_s(hop, end - hop.since)
            allowed_s.setdefault(hop.node, self.patience.progress_s)
            allowed_s[hop.node] += SLOWER * expected_s
        for node, seconds in allowed_s.items():
            step.allowed_s[node] = max(seconds, step.allowed_s.get(node, 0.0))

    def returned(self, sequence: int, now: float, whole: bool) -> None:
        """A piece of the sequence's step returned; `whole`: all that was sent with it."""
        step = self.by_sequence[sequence]
        step.moved_at = now
        if whole:
            del self.by_sequence[sequence]
            for other in self.by_sequence.values():
                # All that goes one way keeps its order; another way may be a shorter one.
                same = [hop[:2] for hop in other.hops] == [hop[:2] for hop in step.hops]
                if same and other.number < step.number:
                    other.overtaken_at = min(other.overtaken_at, now)

    def worked_on(self, node: int, now: float) -> None:
        """The node is at work: it is judged by its own deadline, and no step that passes it is missing
        yet."""
        for step in self.by_sequence.values():
            if any(hop.node == node for hop in step.hops):
                step.moved_at = now

    def postpone(self, seconds: float, now: float) -> None:
        """Nobody could have been heard for these `seconds`."""
        for step in self.by_sequence.values():
            step.moved_at = min(now, step.moved_at + seconds)

    def pause(self) -> None:
        """No step is wanted: none can be missing."""
        for step in self.by_sequence.values():
            step.hops, step.rows = (), 0

    def drop(self, sequence: int) -> None:
        self.by_sequence.pop(sequence, None)

    def allowed_s(self, node: int) -> float:
        """How long it may work on one message."""
        allowed_s = (step.allowed_s.get(node, 0.0) for step in self.by_sequence.values())
        return max(self.patience.progress_s, *allowed_s, 0.0)
