"""From what was heard, and when, to signs: life and work are told apart.

A *beat* proves that a node lives (it goes on while the node computes); so does its work when it comes
home. How long it has worked on one step, by its own clock, is held against a *progress deadline* made of
the node's own measured times. No clock here: every call is told the time, in seconds of one monotonic clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..common.layers import END_USER
from .cluster import Crew, Hop
from .node_state import Sign, State
from .wire import Beat, Reached

INFINITY = float("inf")
RESENDS = 2  # of one step to a node that says it never got it, before it is held to be out of reach
HELD_BACK_S = 10.0  # a node out of another's reach is not used again for so long
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


@dataclass
class Seen:
    """What is known of one node."""

    alive_at: float  # when it last gave a sign of life
    left_at: float = 0.0  # when it last ceased to be WELL
    held_back_until: float = 0.0  # if it comes back again and again
    departures: int = 0  # how often it ceased to be WELL
    beat: Beat | None = None  # the last one, if it came after the last work of the node that came home
    beat_at: float = 0.0

    @property
    def busy_s(self) -> float:
        return self.beat.busy_s if self.beat else 0.0


@dataclass
class UnderWay:
    """A sequence's step, as the watch sees it."""

    hops: tuple[Hop, ...] = ()  # the workers' alone
    epoch: int = 0
    end: int = 0  # of its last piece that has left
    departure: int = 0  # of all departures
    rows: int = 0  # that left with it
    resends: int = 0
    left_at: float = 0.0
    moved_at: float = 0.0
    overtaken_at: float = INFINITY  # when what left later was home first
    allowed_s: dict[int, float] = field(default_factory=dict)


class Notice(NamedTuple):
    """A sign of a node; MISSING is about one sequence's step."""

    node: int
    sign: Sign
    sequence: int = -1


class Watch:
    def __init__(
        self, nodes: Iterable[int], patience: Patience, pace: Mapping[int, Pace], now: float, row_s: float
    ):
        """`row_s`: how long a row may be on its way over the slowest link."""
        self.patience, self.pace = patience, pace
        self.seen = {node: Seen(now, left_at=now) for node in nodes if node != END_USER}
        self.looked_at, self.row_s = now, row_s
        self.under_way: dict[int, UnderWay] = {}  # sequence -> its step
        self.departures = 0

    @property
    def rows(self) -> int:
        """All that is under way."""
        return sum(step.rows for step in self.under_way.values())

    # -- what happens

    def left(
        self, sequence: int, hops: Iterable[Hop], epoch: int, end: int, now: float, more: bool, again: bool
    ) -> None:
        """The positions up to `end` of a sequence have left over `hops`. `more`: behind another piece of the same step;
        `again`: the step had left before."""
        before = self.under_way.get(sequence) or UnderWay(left_at=now)
        step = self.under_way[sequence] = before if more else UnderWay(left_at=now)
        if again:
            step.resends, step.left_at = before.resends, before.left_at
        self.departures += 1
        step.hops = tuple(hop for hop in hops if hop.node != END_USER)
        # One piece queues up behind the other.
        step.rows += max((end - hop.since for hop in step.hops), default=0)
        step.epoch, step.end, step.moved_at, step.departure = epoch, end, now, self.departures
        allowed_s: dict[int, float] = {}
        for hop in step.hops:
            pace, rows = self.pace.get(hop.node, Pace()), end - hop.since
            run = 0 if hop.patch else len(hop.block)
            expected_s = run * (pace.one_s + (rows - 1) * pace.row_s)
            expected_s += run * pace.first_s * (rows > 1 and hop.since == 0)
            allowed_s.setdefault(hop.node, self.patience.progress_s)
            allowed_s[hop.node] += SLOWER * expected_s
        for node, seconds in allowed_s.items():
            step.allowed_s[node] = max(seconds, step.allowed_s.get(node, 0.0))

    def came_home(self, sequence: int, nodes: Iterable[int], now: float, whole: bool) -> None:
        """Work of these nodes came home; `whole`: all that left with the step."""
        for node in nodes:
            if node != END_USER:
                self.seen[node].alive_at, self.seen[node].beat = now, None
        step = self.under_way[sequence]
        step.moved_at = now
        if whole:
            del self.under_way[sequence]
            for other in self.under_way.values():
                # All that goes one way keeps its order; another way may be a shorter one.
                same = [hop[:2] for hop in other.hops] == [hop[:2] for hop in step.hops]
                if same and other.departure < step.departure:
                    other.overtaken_at = min(other.overtaken_at, now)

    def rest(self) -> None:
        """No step is wanted: none can be missing."""
        for step in self.under_way.values():
            step.hops, step.rows = (), 0

    def over(self, sequence: int) -> None:
        self.under_way.pop(sequence, None)

    def heard(self, beat: Beat, now: float) -> None:
        seen = self.seen[beat.node]
        if beat.busy_s or not seen.beat or beat.reached != seen.beat.reached:
            for step in self.under_way.values():  # whoever works is judged by its own deadline
                if any(hop.node == beat.node for hop in step.hops):
                    step.moved_at = now
        seen.alive_at = seen.beat_at = now
        seen.beat = beat

    # -- what follows from it

    def look_again_s(self, now: float) -> float:
        """How long nothing can become due; 0: it is time, once all that has arrived is heard."""
        silent_at = (each.alive_at + self.patience.silence_s + 1e-3 for each in self.seen.values())
        due_at = min((at for at in silent_at if at > self.looked_at), default=now + self.patience.beat_s)
        return max(0.0, min(due_at, self.looked_at + self.patience.beat_s) - now)

    def signs(self, crew: Crew, now: float) -> list[Notice]:
        """What is to be noticed now, everything that arrived having been heard."""
        away_s = now - self.looked_at - self.patience.beat_s
        if away_s > self.patience.beat_s:  # the end user was busy or stopped itself: that is nobody's silence
            for each in self.seen.values():
                each.alive_at = min(now, each.alive_at + away_s)
            for step in self.under_way.values():
                step.moved_at = min(now, step.moved_at + away_s)
        self.looked_at = now
        signs = [
            Notice(node, sign) for node in self.seen if (sign := self.sign_of(node, crew.state(node), now))
        ]
        return signs or [
            notice for sequence in self.under_way for notice in self.missing(sequence, crew, now)
        ]

    def sign_of(self, node: int, state: State, now: float) -> Sign | None:
        seen, quiet_s = self.seen[node], now - self.seen[node].alive_at
        borne_s = self.patience.silence_s + self.rows * self.row_s  # a beat queues up behind rows
        idle = seen.beat is not None and seen.beat_at > seen.left_at and not seen.busy_s
        worked = seen.beat is None and seen.alive_at > seen.left_at
        back = (idle or worked) and quiet_s <= self.patience.silence_s and now >= seen.held_back_until
        match state:
            case State.WELL if quiet_s > borne_s:
                return self.leaving(seen, Sign.SILENT, now)
            case State.STALLED if quiet_s > self.patience.silence_s:
                return Sign.SILENT
            case State.WELL if seen.busy_s > self.allowed_s(node):
                return self.leaving(seen, Sign.STALLED, now)
            case State.STALLED if seen.busy_s > self.patience.stall_timeout_s:
                return Sign.STUCK
            case State.STALLED | State.SILENT if back:
                return Sign.BACK
            case State.SILENT if quiet_s > self.patience.give_up_s:
                return Sign.GIVEN_UP
        return None

    def leaving(self, seen: Seen, sign: Sign, now: float) -> Sign:
        """`sign` ends a node's being WELL: the first time it may come back at once, then after 1 s, 2 s, 4 s, ..."""
        if seen.departures:
            wait_s = min(2.0 ** (seen.departures - 1), self.patience.give_up_s)
            seen.held_back_until = max(seen.held_back_until, now + wait_s)
        seen.departures += 1
        seen.left_at = now
        return sign

    def allowed_s(self, node: int) -> float:
        """How long it may work on one message."""
        allowed_s = (step.allowed_s.get(node, 0.0) for step in self.under_way.values())
        return max(self.patience.progress_s, *allowed_s, 0.0)

    def missing(self, sequence: int, crew: Crew, now: float) -> list[Notice]:
        """Of a step that nobody works on, though all say that they could: it has been lost."""
        step = self.under_way[sequence]
        borne_s = self.patience.progress_s + self.rows * self.row_s
        node = END_USER if now - step.overtaken_at > borne_s else None
        if node is None and now - step.moved_at >= borne_s:
            node = self.stranded_at(sequence, step)
        if node is None or not step.hops:
            return []
        step.moved_at, step.overtaken_at = now, INFINITY
        step.resends += 1
        again = Notice(node, Sign.MISSING, sequence)
        if node == END_USER or step.resends <= RESENDS:
            return [again]
        seen = self.seen[node]
        if crew.state(node) is State.WELL:
            self.leaving(seen, Sign.STALLED, now)
            seen.held_back_until = max(seen.held_back_until, now + HELD_BACK_S)
            return [Notice(node, Sign.STALLED), again]
        if crew.state(node) is State.STALLED and now - step.left_at > self.patience.stall_timeout_s:
            return [Notice(node, Sign.STUCK), again]
        return [again]

    def stranded_at(self, sequence: int, step: UnderWay) -> int | None:
        """The first node of the route that waits and has not run the step; None while anybody may be at it."""
        before: Beat | None = None
        for hop in step.hops:
            seen = self.seen[hop.node]
            if seen.beat is None or seen.beat_at <= step.moved_at or seen.busy_s:
                return None  # it has not said so yet: it is silent, or its word is under way
            reached = seen.beat.reached.get(sequence, Reached(0, 0, 0))
            if (reached.epoch, reached.end) != (step.epoch, step.end) or reached.layer < hop.block.stop:
                return None if before and before.sending else hop.node
            before = seen.beat
        return None if before and before.sending else END_USER
