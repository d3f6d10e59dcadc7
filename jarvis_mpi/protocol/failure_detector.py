"""From what was heard, and when, to signs: life and work are told apart.

A *beat* proves that a node lives (it goes on while the node computes); so does its work when it returns.
How long it has worked on one step, by its own clock, is held against a *progress deadline* made of
the node's own measured times. No clock here: every call is told the time, in seconds of one monotonic clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..common.layers import END_USER
from .cluster import Cluster
from .node_state import Sign, State
from .steps_in_flight import INFINITY, Pace, Patience, StepInFlight, StepsInFlight
from .wire import Beat, Reached

RESENDS = 2  # of one step to a node that says it never got it, before it is held to be out of reach
MOST_GARBLED = 3  # messages of one node that cannot be read, until it is not used again
HELD_BACK_S = 10.0  # a node out of another's reach is not used again before that


@dataclass
class Liveness:
    """What is known of one node."""

    alive_at: float  # when it last gave a sign of life
    outage_at: float = 0.0  # when it last ceased to be UP
    held_back_until: float = 0.0  # if it comes back again and again
    outages: int = 0  # how often it ceased to be UP
    beat: Beat | None = None  # the last one, if it came after the last work of the node that returned
    beat_at: float = 0.0
    garbled: int = 0  # messages that could not be read

    @property
    def busy_s(self) -> float:
        return self.beat.busy_s if self.beat else 0.0


class Notice(NamedTuple):
    """A sign of a node; MISSING is about one sequence's step."""

    node: int
    sign: Sign
    sequence: int = -1


class FailureDetector:
    def __init__(
        self, nodes: Iterable[int], patience: Patience, pace: Mapping[int, Pace], now: float, row_s: float,
        me: int = END_USER,
    ):  # fmt: skip
        """`row_s`: how long a row may be on its way over the slowest link; `me`: the end user."""
        self.patience, self.steps, self.me = patience, StepsInFlight(patience, pace, me), me
        self.liveness = {node: Liveness(now, outage_at=now) for node in nodes if node != me}
        self.looked_at, self.row_s = now, row_s

    # -- what happens

    def step_returned(self, sequence: int, nodes: Iterable[int], now: float, whole: bool) -> None:
        """Work of these nodes returned; `whole`: all that was sent with the step."""
        for node in nodes:
            if node != self.me:
                self.liveness[node].alive_at, self.liveness[node].beat = now, None
        self.steps.returned(sequence, now, whole)

    def heard(self, beat: Beat, now: float) -> None:
        node = self.liveness[beat.node]
        if beat.busy_s or not node.beat or beat.reached != node.beat.reached:
            self.steps.worked_on(beat.node, now)
        node.alive_at = node.beat_at = now
        node.beat = beat

    def garbled(self, node: int) -> list[Notice]:
        """What it sent cannot be read. Some may be the network's fault; a node that sends more is not used
        again."""
        if seen := self.liveness.get(node):
            seen.garbled += 1
        return [Notice(node, Sign.GARBLED)] if seen and seen.garbled >= MOST_GARBLED else []

    # -- what follows from it

    def look_again_s(self, now: float) -> float:
        """How long nothing can become due; 0: it is time, once all that has arrived is heard."""
        silent_at = (each.alive_at + self.patience.silence_s + 1e-3 for each in self.liveness.values())
        due_at = min((at for at in silent_at if at > self.looked_at), default=now + self.patience.beat_s)
        return max(0.0, min(due_at, self.looked_at + self.patience.beat_s) - now)

    def unheard(self, now: float) -> set[int]:
        """The nodes that will be silent soon, if nothing is heard of them."""
        return {node for node, seen in self.liveness.items() if now - seen.alive_at > 0.5 * self._borne_s()}

    def _borne_s(self) -> float:
        """How long a node may be silent: a beat queues up behind rows."""
        return self.patience.silence_s + self.steps.rows * self.row_s

    def signs(self, cluster: Cluster, now: float) -> list[Notice]:
        """What is to be noticed now, everything that arrived having been heard."""
        away_s = now - self.looked_at - self.patience.beat_s
        if away_s > self.patience.beat_s:  # the end user was busy or stopped itself: that is nobody's silence
            for each in self.liveness.values():
                each.alive_at = min(now, each.alive_at + away_s)
            self.steps.postpone(away_s, now)
        self.looked_at = now
        signs = [
            Notice(node, sign)
            for node in self.liveness
            if (sign := self._sign_of(node, cluster.state(node), now))
        ]
        return signs or [
            notice
            for sequence, step in self.steps.by_sequence.items()
            for notice in self._missing(sequence, step, cluster, now)
        ]

    def _sign_of(self, node: int, state: State, now: float) -> Sign | None:
        seen, quiet_s = self.liveness[node], now - self.liveness[node].alive_at
        idle = seen.beat is not None and seen.beat_at > seen.outage_at and not seen.busy_s
        worked = seen.beat is None and seen.alive_at > seen.outage_at
        back = (idle or worked) and quiet_s <= self.patience.silence_s and now >= seen.held_back_until
        match state:
            case State.UP if quiet_s > self._borne_s():
                return self._begin_outage(seen, Sign.SILENT, now)
            case State.STALLED if quiet_s > self.patience.silence_s:
                return Sign.SILENT
            case State.UP if seen.busy_s > self.steps.allowed_s(node):
                return self._begin_outage(seen, Sign.STALLED, now)
            case State.STALLED if seen.busy_s > self.patience.stall_timeout_s:
                return Sign.STUCK
            case State.STALLED | State.SILENT if back:
                return Sign.BACK
            case State.SILENT if quiet_s > self.patience.give_up_s:
                return Sign.GIVEN_UP
        return None

    def _begin_outage(self, seen: Liveness, sign: Sign, now: float) -> Sign:
        """`sign` ends a node's being UP: the first time it may come back at once, then after 1 s, 2 s, 4 s,
        ..."""
        if seen.outages:
            wait_s = min(2.0 ** (seen.outages - 1), self.patience.give_up_s)
            seen.held_back_until = max(seen.held_back_until, now + wait_s)
        seen.outages += 1
        seen.outage_at = now
        return sign

    def _missing(self, sequence: int, step: StepInFlight, cluster: Cluster, now: float) -> list[Notice]:
        """Of a step that nobody works on, though all say that they could: it has been lost."""
        borne_s = self.patience.progress_s + self.steps.rows * self.row_s
        node = self.me if now - step.overtaken_at > borne_s else None
        if node is None and now - step.moved_at >= borne_s:
            node = self._stranded_at(sequence, step)
        if node is None or not step.hops:
            return []
        step.moved_at, step.overtaken_at = now, INFINITY
        step.resends += 1
        again = Notice(node, Sign.MISSING, sequence)
        if node == self.me or step.resends <= RESENDS:
            return [again]
        seen = self.liveness[node]
        if cluster.state(node) is State.UP:
            self._begin_outage(seen, Sign.STALLED, now)
            seen.held_back_until = max(seen.held_back_until, now + HELD_BACK_S)
            return [Notice(node, Sign.STALLED), again]
        if cluster.state(node) is State.STALLED and now - step.sent_at > self.patience.stall_timeout_s:
            return [Notice(node, Sign.STUCK), again]
        return [again]

    def _stranded_at(self, sequence: int, step: StepInFlight) -> int | None:
        """The first node of the route that waits and has not run the step; None while anybody may be at
        it."""
        before: Beat | None = None
        for hop in step.hops:
            seen = self.liveness[hop.node]
            if seen.beat is None or seen.beat_at <= step.moved_at or seen.busy_s:
                return None  # it has not said so yet: it is silent, or its word is under way
            reached = seen.beat.reached.get(sequence, Reached(0, 0, 0))
            if (reached.epoch, reached.end) != (step.epoch, step.end) or reached.layer < hop.block.stop:
                return None if before and before.sending else hop.node
            before = seen.beat
        return None if before and before.sending else self.me
