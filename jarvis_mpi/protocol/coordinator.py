"""Rank 0: a prompt in, tokens out. READ THIS FIRST.

A token's way: embed it, send the activation round the route (each node runs its layers and passes it
on), turn what comes home into logits, choose the next token. If a node fails on the way, the same step
leaves again over another route, and whoever has done its part already only sends it once more.

Several answers may be in flight: while one node works on a step of one of them, the next node does on another's.
And a step may carry drafts behind its token, guesses of the tokens to come: one way round tells for each whether it is right.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, Protocol

from ..common.errors import Unservable, concerns
from ..common.layers import END_USER, Block
from .cluster import Crew, Hop
from .events import Hears, Token
from .expected_loss import NOTHING_KNOWN, Harm
from .failure_detector import Notice, Pace, Patience, Watch
from .journal import Behind, Journalled
from .link import Link, Lost, Silence
from .maintenance import Upkeep
from .node_state import Sign, State
from .request import Flight, Trip, pieces
from .route_changes import News
from .speculation import NO_DRAFTS, Drafts
from .wire import APART, Beat, Kind, Message, Run, Vitals, note, read_note
from .worker import Clock, Patch, Stages, no_patch, run_own_hops

PATIENCE = Patience()
CLOCK_TRIPS, CLOCK_TRIP_S = 5, 0.2  # to each worker at the start, and the longest wait for one
ATTEMPTS = 300  # of one step: each fault costs one, and one for every stage that has to run anew

Choose = Callable[[Any, Sequence[int], int], int]  # logits, the text so far, its sequence -> token id


class Embeds(Protocol):
    """What the head does, here."""

    def embed(self, ids: Sequence[int], start: int) -> bytes: ...
    def rows_logits(self, body: bytes | memoryview, first: int, end: int | None) -> Iterable[Any]: ...


class EndUser:
    """Everything rank 0 needs to ask. `sequence` is the text that `generate` goes on with."""

    def __init__(
        self, link: Link, crew: Crew, head: Embeds, stages: Stages, choose: Choose, clock: Clock,
        *, prefill_rows: int, load: Callable[[Block], Journalled], hears: Hears,
        patience: Patience = PATIENCE, pace: dict[int, Pace] | None = None, speak_s: float = 10.0,
        row_s: float = 0.0, vitals: Callable[[], Vitals] = Vitals, patch: Patch = no_patch,
        harm: Harm = NOTHING_KNOWN, drafts: Drafts = NO_DRAFTS,
    ):  # fmt: skip
        self.link, self.crew, self.head, self.choose, self.clock = link, crew, head, choose, clock
        self.stages, self.patch = stages, patch  # the end user's own layers, its copies, its patches
        self.prefill_rows, self.hears, self.vitals, self.drafts = prefill_rows, hears, vitals, drafts
        self.watch = Watch(crew.holds, patience, pace or {}, clock(), row_s)
        self.news = News(crew, harm)  # what was told last
        self.epoch = self.sequence = self.step = 0
        self.route: tuple[Hop, ...] = ()
        self.flights: dict[int, Flight] = {}  # sequence -> its answer
        self.whole: deque[Flight] = deque()  # those whose step is home
        self.upkeep = Upkeep(link, stages, load, self.send, hears, clock, speak_s)
        self.lost: set[int] = set()  # noticed while sending, not yet acted upon

    def generate(
        self,
        text: Sequence[int],
        max_new_tokens: int,
        end_ids: Set[int],
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[Token]:
        """Yield the answer's tokens, the end token included. Raises Unservable if too little is left.

        `text` is all of the sequence so far: if it goes on from an earlier answer, only what is new is run. Where no
        more is `wanted`, a step is not waited for.
        """
        self.take_off(self.sequence, text, max_new_tokens, end_ids)
        yield from self.tokens(wanted)

    def take_off(self, sequence: int, text: Sequence[int], max_new_tokens: int, end_ids: Set[int]) -> None:
        """An answer begins, beside those that are in flight: `tokens` yields theirs and its own."""
        if sequence not in self.flights:
            self.flights[sequence] = Flight(sequence, self.news.of_another())
        flight = self.flights[sequence]
        self.not_whole(flight)
        flight.goes_on_with(text)
        flight.left, flight.end_ids, flight.chosen_at = max_new_tokens, end_ids, self.clock()
        self.depart(flight, self.next_trip(flight))

    def tokens(self, wanted: Callable[[], bool] = lambda: True) -> Iterator[Token]:
        """Yield what comes of all answers in flight, until none is under way; see `generate`. Raises Unanswerable of one
        of them, which is then to be told that it is `over`; asked again, it yields what comes of the others.

        The next token's activation leaves before a token is yielded: it travels while that one is shown.
        """
        while flight := self.next_home(wanted):
            assert flight.trip
            yield from self.chosen(flight, flight.trip)

    def chosen(self, flight: Flight, trip: Trip) -> list[Token]:
        """What a step that is home says: a token, and one more for each of its drafts that was right. The next step leaves."""
        home_at, asked = self.clock(), len(trip.drafts) + 1
        tokens = []
        with concerns(flight.sequence):
            rows = self.head.rows_logits(trip.home[-1].body, -asked, None)
        for row, logits in enumerate(rows):
            with concerns(flight.sequence):
                token = self.choose(logits, flight.ids, flight.sequence)
            now = self.clock()
            tokens.append(Token(
                flight.sequence, trip.step, len(flight.ids), token, now, now - flight.chosen_at,
                trip.embed_s + now - home_at if row == 0 else now - flight.chosen_at,
                tuple(trip.home) if row == 0 else (),
            ))  # fmt: skip
            flight.chosen_at = now
            flight.ids.append(token)
            flight.left -= 1
            ended = token in flight.end_ids or not flight.left
            if ended or row == len(trip.drafts) or token != trip.drafts[row]:
                break
        flight.ran = len(flight.ids) - 1
        if trip.drafts:
            flight.ledger.crop(flight.ran)
        self.drafts.seen(flight.sequence, asked - 1, len(tokens) - 1, home_at - trip.left_at)
        flight.trip = None
        if not ended:
            self.depart(flight, self.next_trip(flight))
        return tokens

    def next_trip(self, flight: Flight) -> Trip:
        """Of what is not run yet, and of drafts of what may follow."""
        drafts = self.drafts.of(flight.sequence, flight.ids, flight.left - 1)
        trip = Trip(self.step, flight.ran, len(flight.ids) + len(drafts), drafts)
        self.step += 1
        return trip

    def begin_anew(self) -> None:
        """What comes next is another text, a new sequence."""
        self.over(self.sequence)
        self.sequence += 1

    def over(self, sequence: int) -> None:
        """It does not go on: it is forgotten everywhere, and what is under way of it is late."""
        if flight := self.flights.pop(sequence, None):
            self.not_whole(flight)
        self.watch.over(sequence)
        self.drafts.over(sequence)
        for stage in self.stages.values():
            stage.forget(sequence)
        for node in self.crew.holds:
            if node != END_USER and self.crew.state(node) is not State.GONE:
                self.send(node, note(over=sequence))

    def not_whole(self, flight: Flight) -> None:
        """What is home of it is not wanted."""
        self.whole = deque(other for other in self.whole if other is not flight)

    def rest(self) -> None:
        """While no text is wanted: hear what becomes of the others."""
        self.upkeep.speak(self.crew)
        self.break_off()
        heard_all = False
        while not heard_all:
            heard_all = self.listen(0.0)
        self.crew = self.upkeep.order_copies(self.crew, self.step)

    def break_off(self) -> None:
        """What is under way is not waited for any more."""
        self.watch.rest()
        self.whole.clear()
        for flight in self.flights.values():
            flight.trip = None

    def listen(self, wait_s: float) -> bool:
        """Hear one message while no step is under way. -> whether all that has arrived is heard."""
        notices, heard_all = self.hear(wait_s)
        self.broken(notices)
        return heard_all

    def compare_clocks(self) -> None:
        """At the start, while nobody works: the best of a few round trips to each worker."""
        for node in self.crew.holds.keys() - {END_USER}:
            for _ in range(CLOCK_TRIPS):
                self.upkeep.ask_clocks([node])
                end = self.clock() + CLOCK_TRIP_S
                while node in self.upkeep.asked_clock and self.clock() < end:
                    self.listen(max(0.0, end - self.clock()))
                if self.clock() >= end:
                    break  # it is slow, or not there

    # -- a step's way

    def depart(self, flight: Flight, trip: Trip, again: bool = False) -> None:
        """Embed what is to be run and send it on its way.

        A prompt travels in pieces, one behind the other, so that while one node works on a piece the
        next works on the piece before; beside other answers the next when one comes home, so that those do not wait
        for all of it. What leaves `again` goes as one.
        """
        route = self.crew.route()
        if again or route != self.route:
            self.epoch, self.route = self.epoch + 1, route
            self.hears.route(self.clock(), trip.step, self.epoch, route)
        flight.trip, trip.epoch, trip.route = trip, self.epoch, route
        trip.since = self.clock()
        trip.left_at = trip.left_at or trip.since
        flight.ran = trip.end - len(trip.drafts)
        alone = all(other.trip is None for other in self.flights.values() if other is not flight)
        sure = flight.ran - trip.start
        sizes = [sure] if again else pieces(sure, self.prefill_rows, self.link.size - 1)
        sizes[-1] += len(trip.drafts)
        trip.to_leave = [trip.start + sum(sizes[: piece + 1]) for piece in range(len(sizes))]
        trip.awaited = set(trip.to_leave)
        left = self.leave(flight, trip, again=again)
        while left and alone and trip.to_leave:
            left = self.leave(flight, trip, more=True)
        if not left:
            self.depart_again(flight, trip)

    def leave(self, flight: Flight, trip: Trip, more: bool = False, again: bool = False) -> bool:
        """The step's next piece. -> as pass_on."""
        end = trip.to_leave.pop(0)
        drafted = len(trip.drafts) if end == trip.end else 0
        hops = flight.ledger.hops(trip.route, end - 1 - drafted)
        flight.ledger.left(hops, end)
        self.watch.left(flight.sequence, hops, trip.epoch, end, self.clock(), more, again)
        start, begun = hops[0].since, self.clock()
        ids = [*flight.ids[start : end - drafted], *trip.drafts[:drafted]]
        body = self.head.embed(ids, start)
        trip.embed_s += self.clock() - begun
        message = Message(
            Kind.STEP, flight.sequence, trip.epoch, trip.step, start, end - start, trip.start, drafted, flight.branch,
            hops, body=body,
        )  # fmt: skip
        return self.pass_on(message, flight, trip, 0)

    def depart_again(self, flight: Flight, trip: Trip) -> None:
        trip.attempts += 1
        if trip.attempts > ATTEMPTS:
            raise Unservable(f"step {trip.step} left {ATTEMPTS} times and did not come home")
        flight.ledger.only_known()
        self.depart(flight, trip, again=True)

    def pass_on(self, message: Message, flight: Flight, trip: Trip, received_bytes: int) -> bool:
        """Run the end user's own hops next on the way, then send on, or take in what is home.

        -> False if one of its stages has forgotten what it sent, and must run it again.
        """
        arrival = Run(
            self.link.me,
            range(0),
            0,
            self.clock() - trip.since,
            0.0,
            0.0,
            received_bytes,
            vitals=self.vitals(),
        )
        try:
            message = run_own_hops(arrival, self.stages, self.patch, message, self.clock)
        except Behind as behind:
            flight.ledger.behind(END_USER, behind.block, behind.have)
            return False
        if message.ahead:
            trip.since = self.clock()
            self.send(message.ahead[0].node, message)
            return True
        trip.awaited.discard(message.end)
        trip.home.append(message)
        trip.since = self.clock()
        flight.ledger.came_home(trip.route, message.end)
        nodes = {hop.node for hop in trip.route}
        self.watch.came_home(flight.sequence, nodes, trip.since, not trip.awaited)
        if not trip.awaited:
            self.whole.append(flight)
        return not trip.to_leave or self.leave(flight, trip, more=True)

    def next_home(self, wanted: Callable[[], bool]) -> Flight | None:
        """Wait until all of a step has been everywhere, and mend routes where that is needed.

        -> None where no step is under way, or none is wanted any more.
        """
        heard_all = False
        while not (self.whole and heard_all):
            if not self.whole and (not wanted() or all(each.trip is None for each in self.flights.values())):
                return None
            at_once = self.whole or self.drafts.ahead()
            wait_s = 0.0 if at_once else self.watch.look_again_s(self.clock())
            notices, heard_all = self.hear(wait_s)
            for flight in self.broken(notices):
                if flight.trip and flight.trip.awaited:
                    self.depart_again(flight, flight.trip)
                self.crew = self.upkeep.order_copies(self.crew, self.step)  # while the others mend the step
        flight = self.whole.popleft()
        trip = flight.trip
        assert trip
        trip.home.sort(key=lambda message: message.end)
        for change in flight.news.changes(trip.step, trip.home[-1].runs, trip.home[-1].lacks):
            self.hears.change(self.clock(), change)
        self.news = flight.news
        self.crew = self.upkeep.order_copies(self.crew, trip.step)
        self.upkeep.drop_gone(self.crew, self.news.last_sign, trip.step)
        self.upkeep.speak(self.crew)
        return flight

    def send(self, node: int, message: Message) -> None:
        try:
            self.link.send(node, message.pack())
        except Lost as lost:
            self.lost |= set(lost.nodes)

    # -- signs

    def hear(self, wait_s: float) -> tuple[list[Notice], bool]:
        """What the next message, or its absence, is a sign of, and whether all that has arrived is heard."""
        if self.lost:
            lost, self.lost = self.lost, set()
            return [Notice(node, Sign.LOST) for node in lost], False
        try:
            return self.take_in(Message.unpack(data := self.link.receive(wait_s)), len(data)), False
        except Silence:
            return self.watch.signs(self.crew, self.clock()), True
        except Lost as lost:
            return [Notice(node, Sign.LOST) for node in lost.nodes], False

    def take_in(self, message: Message, received_bytes: int) -> list[Notice]:
        """What came: of a step, of a node's life, or a note. MISSING asks for the step to leave again."""
        match message.kind:
            case Kind.BEAT:
                self.watch.heard(Beat.of(message), self.clock())
            case Kind.NOTE:
                return self.read(read_note(message))
            case Kind.STEP:
                flight, trip = self.under_way(message.sequence, message.epoch)
                if not (flight and trip and message.step == trip.step and message.end in trip.awaited):
                    return []  # late or doubled: it changes nothing
                if not self.pass_on(message, flight, trip, received_bytes):
                    return [Notice(END_USER, Sign.MISSING, message.sequence)]
        return []

    def under_way(self, sequence: int, epoch: int) -> tuple[Flight, Trip] | tuple[None, None]:
        """The step of that sequence, if it left last at that epoch."""
        flight = self.flights.get(sequence)
        if flight and flight.trip and flight.trip.epoch == epoch:
            return flight, flight.trip
        return None, None

    def read(self, said: dict[str, Any]) -> list[Notice]:
        """A worker's note."""
        node = said["node"]
        if "behind" in said:
            flight, _ = self.under_way(said["sequence"], said["epoch"])
            if flight:
                flight.ledger.behind(node, range(*said["behind"]), said["have"])
                return [Notice(node, Sign.MISSING, said["sequence"])]
        if "pong" in said:
            self.upkeep.told_clock(node, said)
        if "loaded" in said:
            self.crew = self.upkeep.has_copy(self.crew, node, range(*said["loaded"]), self.step)
        if "cannot_load" in said:
            self.upkeep.cannot_copy(node, range(*said["cannot_load"]))
        if "failed" in said:  # and dies, of which MPI tells
            self.hears.words(self.clock(), self.step, node, said["failed"])
        if "gives_up" in said:
            self.hears.words(self.clock(), self.step, node, said["gives_up"])
            return [Notice(node, Sign.LOST)]
        return []

    def broken(self, notices: Sequence[Notice]) -> list[Flight]:
        """Whose step must leave again, after these signs."""
        missing = {notice.sequence for notice in notices if notice.sign is Sign.MISSING}
        for node, sign, sequence in notices:
            before, self.crew = self.crew, self.crew.after(node, sign)
            if self.crew is not before or sign is Sign.MISSING:
                self.hears.sign(self.clock(), self.step_of(sequence), node, sign)
                self.news.seen(node, sign)
            if sign is Sign.GIVEN_UP:  # should it ever wake up
                self.send(node, Message(Kind.GOODBYE, body=APART))
        if not notices:
            return []
        return [
            flight
            for flight in self.flights.values()
            if flight.trip and flight.trip.awaited
            if flight.sequence in missing or self.is_ill(flight.trip)
        ]

    def is_ill(self, trip: Trip) -> bool:
        """Whether somebody on its way is not well, and there is a better one."""
        ill = any(self.crew.state(hop.node) is not State.WELL for hop in trip.route)
        return ill and self.crew.route() != trip.route

    def step_of(self, sequence: int) -> int:
        """The sequence's step under way; else the oldest of all."""
        steps = {flight.sequence: flight.trip.step for flight in self.flights.values() if flight.trip}
        return steps.get(sequence, min(steps.values(), default=self.step))
