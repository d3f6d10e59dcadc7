"""Ranks 1..N: receive, run, pass on. A worker decides nothing."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from ..common.errors import Unservable
from ..common.layers import Block, named
from .election import FIRST, NOBODY, Term, since_of
from .journal import Behind, Journalled
from .link import Link, Lost, Silence
from .notes import (
    Claim,
    CopyLoaded,
    CopyRefused,
    ForgetSequence,
    LoadCopy,
    Ping,
    Pong,
    Sendable,
    Shrink,
    StageBehind,
    Vote,
    read,
)
from .transcript import Ran
from .wire import APART, Beat, Garbled, Kind, Message, Reached, StageRun, Vitals

SUCCESSION_S = 15.0  # longest wait for the standby once the end user is gone
SEND_S = 0.05  # longest wait for a message to be under way; it goes on by itself meanwhile

Clock = Callable[[], float]  # seconds, monotonic
Stages = dict[Block, Journalled]
# S rows before a hole, from a position on -> after it.
Patch = Callable[[Block, bytes | memoryview, int], bytes]


def no_patch(block: Block, body: bytes | memoryview, start: int) -> bytes:
    raise Unservable(f"no patch is held of {named(block)}")


class Ended(Enum):
    """How a worker's service ends."""

    GOODBYE = "goodbye"
    APART = "given up: nobody waits for its farewell"
    TAKES_OVER = "it is the end user now"


class Worker:
    """`load` makes the stage of a block that is wanted as a copy; every `beat_s` it shows that it lives."""

    def __init__(
        self, link: Link, stages: Stages, clock: Clock, load: Callable[[Block], Journalled], beat_s: float,
        vitals: Callable[[], Vitals] = Vitals, patch: Patch = no_patch, term: Term = FIRST,
    ):  # fmt: skip
        self.link, self.stages, self.clock, self.load, self.beat_s = link, stages, clock, load, beat_s
        self.vitals, self.patch, self.term = vitals, patch, term
        self.succession_by: float | None = None  # once the end user is gone
        self.ended: Ended | None = None
        self.epochs: dict[int, int] = {}  # sequence -> the newest seen: what is of an older epoch is late
        self.over: set[int] = set()  # sequences that do not go on
        self.reached: dict[int, Reached] = {}
        self.busy_since: float | None = None
        self.free_at, self.sent_s = clock(), 0.0
        # Sequence -> its newest step, and when it was done here.
        self.passed_on: dict[int, tuple[int, float]] = {}
        self.heard_of_at = clock()  # by the end user, or later
        self.garbled = 0  # messages that could not be read

    def serve(self, idle_timeout_s: float) -> Ended:
        """Run what comes until the end user says goodbye, or this node takes over from it.

        Raises Silence if nothing comes for `idle_timeout_s`, Lost if the end user is gone and nobody takes
        over.
        """
        while not self.ended:
            try:
                data = self.link.receive(self._wait_s(idle_timeout_s))
            except Lost as lost:
                self.nodes_lost(set(lost.nodes))
                continue
            except Silence:
                if not self._bears_silence(idle_timeout_s):
                    raise
                continue
            try:
                self.take(Message.unpack(data), len(data))
            except Garbled:  # the end user misses what got lost so
                self.garbled += 1
        return self.ended

    def take(self, message: Message, received_bytes: int) -> None:
        """Raises Garbled where it is no message that this node can be sent."""
        is_ordered = self.link.sender == self.term.end_user
        match message.kind:
            case Kind.STEP:
                self.step(message, received_bytes)
            case Kind.NOTE if claim := read(message, Claim):
                self._vote(claim)
            case Kind.NOTE:
                self.obey(message, is_ordered)
            case Kind.GOODBYE if is_ordered:
                self.ended = Ended.APART if message.body == APART else Ended.GOODBYE

    # -- the end user, and who takes over from it

    def _wait_s(self, idle_timeout_s: float) -> float:
        """How long nothing may come."""
        if self.succession_by is None:
            return idle_timeout_s
        return max(0.0, self.succession_by - self.clock())

    def nodes_lost(self, nodes: set[int]) -> None:
        """Of another worker the end user knows too, and decides.
        Raises Lost where the end user is gone, and its standby."""
        if self.term.end_user not in nodes:
            return
        if self.term.standby == NOBODY or self.term.standby in nodes:
            raise Lost(nodes)
        self.succession_by = self.succession_by or self.clock() + SUCCESSION_S

    def _bears_silence(self, idle_timeout_s: float) -> bool:
        """Whether this node goes on though nothing came in time. Raises Lost where nobody has taken over."""
        if self.succession_by is not None:
            raise Lost([self.term.end_user])
        return False

    def _vote(self, claim: Claim) -> None:
        """Answer who wants to be the end user, and obey it. Raises Garbled where it is another's claim."""
        if claim.term.end_user != claim.node or claim.node != self.link.sender:
            raise Garbled(f"node {self.link.sender} claims for node {claim.term.end_user}")
        grants = self.term.grants(claim.term)
        if grants and not claim.trial:
            self.obey_term(claim.term)
        ran = [] if claim.trial else self.ran()
        self.pass_on(claim.node, Vote(self.link.me, claim.term.number, claim.trial, grants, self.term, ran))

    def obey_term(self, term: Term) -> None:
        """All orders come from its end user."""
        before, self.term, self.succession_by = self.term, term, None
        self.link.end_user = term.end_user
        if term.since != before.since:
            self.passed_on.clear()
            for stage in self.stages.values():
                stage.begin_term()

    def ran(self) -> list[Ran]:
        return [
            Ran(sequence, block.start, block.stop, journal.branch, journal.sure)
            for block, stage in self.stages.items()
            for sequence, journal in stage.journals.items()
        ]

    # -- work

    def _is_mine(self, message: Message) -> bool:
        """Whether it comes to this node, for blocks that it holds."""
        own = message.blocks_of(self.link.me)
        to_me = bool(message.ahead) and message.ahead[0][:2] == (self.link.me, *own[:1])
        return to_me and message.rows > 0 and self.stages.keys() >= set(own)

    def step(self, message: Message, received_bytes: int) -> None:
        """Raises Garbled where it is none of this node's."""
        if not self._is_mine(message):
            raise Garbled(f"{message} is no step of node {self.link.me}")
        stage = self.stages[message.ahead[0].block]
        sequence = message.sequence
        if since_of(message.epoch) != self.term.since or sequence in self.over:
            return  # of an end user before, or of a text that has ended
        if message.epoch < self.epochs.get(sequence, 0) or stage.is_late(message):
            return  # late or doubled: it changes nothing
        self.epochs[sequence], self.busy_since = message.epoch, self.clock()
        step, at = self.passed_on.get(sequence, (message.step, 0.0))
        if message.step > step:  # the one before has returned, from us too
            self.heard_of_at = max(self.heard_of_at, at)
        first = StageRun(
            self.link.me, range(0), 0, self.busy_since - self.free_at, 0.0, self.sent_s, received_bytes,
            vitals=self.vitals(),
        )  # fmt: skip
        try:
            ran_to = max(hop.block.stop for hop in message.ahead if hop.node == self.link.me)
            message = run_local_hops(first, self.stages, self.patch, message, self.clock)
            answer: Sendable = message
            to = message.ahead[0].node if message.ahead else self.term.end_user
        except Behind as behind:
            answer = StageBehind(self.link.me, sequence, message.epoch, behind.block, behind.have)
            to, ran_to = self.term.end_user, 0
        done_at = self.clock()
        self.reached[sequence] = Reached(message.epoch, message.end, ran_to)
        self.busy_since = None
        self.pass_on(to, answer)
        self.free_at = self.clock()
        self.sent_s = self.free_at - done_at
        self.passed_on[sequence] = message.step, done_at

    def pass_on(self, node: int, message: Sendable) -> None:
        """A send that stays stuck is left to go on by itself, and one to a dead node is dropped: the end user
        sees to it. Raises Lost as `nodes_lost`."""
        try:
            self.link.send(node, message.pack())
            with contextlib.suppress(Silence):
                self.link.flush(SEND_S)
        except Lost as lost:
            self.nodes_lost(set(lost.nodes))

    def obey(self, message: Message, is_ordered: bool) -> None:
        """What the end user wants of this node; an end user before it hears that it is none."""
        match read(message, Ping, ForgetSequence, Shrink, LoadCopy):
            case None:
                pass
            case _ if not is_ordered:
                self.pass_on(self.link.sender, Vote(self.link.me, 0, False, False, self.term, []))
            case Ping(sent_at):
                self.pass_on(self.term.end_user, Pong(self.link.me, sent_at, self.clock()))
            case ForgetSequence(sequence):
                self.forget(sequence)
            case Shrink(members, attempt, certain):
                self.link.shrink(attempt, members, certain)
            case LoadCopy(block):
                try:
                    if block not in self.stages:
                        self.stages[block] = self.load(block)
                    self.pass_on(self.term.end_user, CopyLoaded(self.link.me, block))
                except Unservable:  # its tensors are not here
                    self.pass_on(self.term.end_user, CopyRefused(self.link.me, block))

    def forget(self, sequence: int) -> None:
        """It does not go on: what is on its way of it comes too late."""
        self.over.add(sequence)
        self.epochs.pop(sequence, None)
        self.reached.pop(sequence, None)
        self.passed_on.pop(sequence, None)
        for stage in self.stages.values():
            stage.forget(sequence)

    def beat(self) -> None:
        """Show the end user that this node lives, unless its work has just returned; also its standby while
        the node works, and so reads no claim. From any thread."""
        now, since = self.clock(), self.busy_since
        if now - self.heard_of_at >= self.beat_s and self.term.end_user != self.link.me:
            busy_s = now - since if since is not None else 0.0
            beat = Beat(self.link.me, busy_s, self.link.sending(), dict(self.reached)).pack()
            self.link.beat(self.term.end_user, beat)
            if busy_s and self.term.standby not in (NOBODY, self.link.me):
                self.link.beat(self.term.standby, beat)


def run_local_hops(first: StageRun, stages: Stages, patch: Patch, message: Message, clock: Clock) -> Message:
    """The message after the hops ahead of it that are this node's; `first` says how it came here.

    Raises Behind if one of the stages lacks positions before those of the message.
    """
    while message.ahead and message.ahead[0].node == first.node:
        hop, *rest = message.ahead
        begun = clock()
        since = rest[0].since if rest else message.since_home
        if hop.patch:  # of all its rows: `since` is the same
            body = patch(hop.block, message.body, message.start)
            run = first._replace(
                block=hop.block, rows=message.rows, compute_s=clock() - begun, at_s=begun, patch=True
            )
            message = replace(message, ahead=tuple(rest), runs=(*message.runs, run), body=body)
            first = next_arrival(first, hop.block)
            continue
        body, new = stages[hop.block].run(message, since)
        journal = stages[hop.block].journals[message.sequence]
        if new:
            run = first._replace(block=hop.block, rows=new, compute_s=clock() - begun, at_s=begun)
            journal.runs = (*message.runs, run)
        message = replace(
            message, start=since, rows=message.end - since, ahead=tuple(rest), runs=journal.runs,
            lacks=journal.lacks, body=body,
        )  # fmt: skip
        first = next_arrival(first, hop.block)
    return message


def next_arrival(run: StageRun, block: Block) -> StageRun:
    """From one own hop, that of `block`, to the next nothing travels."""
    return StageRun(run.node, block, 0, 0.0, 0.0, 0.0, 0, vitals=run.vitals)
