"""Rank 0: a prompt in, tokens out. READ THIS FIRST.

A token's way: embed it, send the activation round the route (each node runs its layers and passes it
on), turn what comes home into logits, choose the next token. If a node fails on the way, the same step
leaves again over another route, and whoever has done its part already only sends it once more.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

from .crew import END_USER, Block, Crew, Hop, Sign, State
from .harm import NOTHING_KNOWN, Harm
from .journal import Behind, Journalled
from .ledger import Ledger
from .link import Link, Lost, Silence, Unservable
from .news import Hears, News
from .upkeep import Upkeep
from .watch import Pace, Patience, Watch
from .wire import APART, Beat, Kind, Message, Run, Vitals, read_note
from .worker import Clock, Patch, Stages, no_patch, run_own_hops

WORTHWHILE_ROWS = 96  # of a piece of the prompt: 32 rows cost nearly twice as much a row as 128
PATIENCE = Patience()
CLOCK_TRIPS, CLOCK_TRIP_S = 5, 0.2  # to each worker at the start, and the longest wait for one
ATTEMPTS = 300  # of one step: each fault costs one, and one for every stage that has to run anew

Choose = Callable[[Any, Sequence[int], int], int]  # logits, the text so far, its sequence -> token id
Signs = Iterable[tuple[int, Sign]]


class Embeds(Protocol):
    """What the head does, here."""

    def embed(self, ids: Sequence[int], start: int) -> bytes: ...
    def logits(self, body: bytes | memoryview) -> Any: ...


@dataclass(frozen=True)
class Token:
    """One token of an answer, and what it cost."""

    sequence: int
    step: int
    position: int
    id: int
    at_s: float  # when it was chosen, by the end user's clock
    total_s: float  # from the token before it to this one: what was done with that one counts too
    head_s: float  # of that: embedding, logits, choice
    pieces: tuple[Message, ...]  # what came home: their `runs` tell each stage's part


@dataclass
class Trip:
    """One step under way: the positions from `start` to `end`."""

    step: int
    ids: Sequence[int]  # all of the text; it grows while later steps leave
    start: int
    end: int
    epoch: int = 0
    attempts: int = 1
    route: tuple[Hop, ...] = ()
    awaited: set[int] = field(default_factory=set)  # the ends of its pieces that are not home yet
    home: list[Message] = field(default_factory=list)
    embed_s: float = 0.0
    since: float = 0.0  # when it left, or the last piece came home


class EndUser:
    """Everything rank 0 needs to ask."""

    def __init__(
        self, link: Link, crew: Crew, head: Embeds, stages: Stages, choose: Choose, clock: Clock,
        *, prefill_rows: int, load: Callable[[Block], Journalled], hears: Hears,
        patience: Patience = PATIENCE, pace: dict[int, Pace] | None = None, speak_s: float = 10.0,
        row_s: float = 0.0, vitals: Callable[[], Vitals] = Vitals, patch: Patch = no_patch,
        harm: Harm = NOTHING_KNOWN,
    ):  # fmt: skip
        self.link, self.crew, self.head, self.choose, self.clock = link, crew, head, choose, clock
        self.stages, self.patch = stages, patch  # the end user's own layers, its copies, its patches
        self.prefill_rows, self.hears, self.vitals = prefill_rows, hears, vitals
        self.watch = Watch(crew.holds, patience, pace or {}, clock(), row_s)
        self.ledger, self.news = Ledger(), News(crew, harm)
        self.epoch = self.sequence = self.step = 0
        self.ran = 0  # positions of the sequence that every stage has run, or has under way
        self.route: tuple[Hop, ...] = ()
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

        `text` is all of the sequence so far: if it goes on from an earlier answer, only what is new is run.
        The next token's activation leaves before a token is yielded: it travels while that one is shown. Where no
        more is `wanted`, a step is not waited for.
        """
        ids = list(text)
        self.ledger.only_known()  # a step that was broken off did not come home
        chosen_at = self.clock()
        trip = self.depart(Trip(self.step, ids, min(self.ran, len(ids) - 1), len(ids)))
        for number in range(max_new_tokens):
            self.come_home(trip, wanted)
            if trip.awaited:
                return
            home_at = self.clock()
            token = self.choose(self.head.logits(trip.home[-1].body), ids, self.sequence)
            now = self.clock()
            chosen = Token(
                self.sequence, trip.step, len(ids), token, now, now - chosen_at, trip.embed_s + now - home_at,
                tuple(trip.home),
            )  # fmt: skip
            chosen_at = now
            ids.append(token)
            self.step += 1
            last = token in end_ids or number + 1 == max_new_tokens
            if not last:
                trip = self.depart(Trip(self.step, ids, len(ids) - 1, len(ids)))
            yield chosen
            if last:
                return

    def begin_anew(self) -> None:
        """What comes next is another text, a new sequence: the caches of this one are forgotten everywhere."""
        self.sequence, self.epoch = self.sequence + 1, self.epoch + 1
        self.ran, self.ledger = 0, Ledger()
        self.route = ()  # so that a new epoch begins: what is under way is late
        self.news.begin_anew()
        for stage in self.stages.values():
            stage.forget_but(self.sequence)

    def rest(self) -> None:
        """While no text is wanted: hear what becomes of the others."""
        self.upkeep.speak(self.crew)
        self.watch.rest()
        heard_all = False
        while not heard_all:
            heard_all = self.listen(0.0)
        self.crew = self.upkeep.order_copies(self.crew, self.step)

    def listen(self, wait_s: float) -> bool:
        """Hear one message while no step is under way. -> whether all that has arrived is heard."""
        nothing = Trip(self.step, (), 0, 0, self.epoch)
        signs, heard_all = self.hear(nothing, wait_s)
        self.is_broken(nothing, signs)
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

    def depart(self, trip: Trip, again: bool = False) -> Trip:
        """Embed what is to be run and send it on its way.

        A prompt travels in pieces, one behind the other, so that while one node works on a piece the
        next works on the piece before. What leaves `again` goes as one.
        """
        route = self.crew.route()
        if again or route != self.route:
            self.epoch, self.route = self.epoch + 1, route
            self.hears.route(self.clock(), trip.step, self.epoch, route)
        trip.epoch, trip.route, trip.since = self.epoch, route, self.clock()
        self.ran = trip.end
        rows = trip.end - trip.start
        sizes = [rows] if again else pieces(rows, self.prefill_rows, self.link.size - 1)
        ends = [trip.start + sum(sizes[: piece + 1]) for piece in range(len(sizes))]
        trip.awaited, self.watch.rows = set(ends), 0
        for piece_end in ends:
            hops = self.ledger.hops(route, piece_end)
            self.ledger.left(hops, piece_end)
            self.watch.left(hops, self.epoch, piece_end, self.clock(), again)
            start, begun = hops[0].since, self.clock()
            body = self.head.embed(trip.ids[start:piece_end], start)
            trip.embed_s += self.clock() - begun
            message = Message(
                Kind.STEP, self.sequence, self.epoch, trip.step, start, piece_end - start, hops, body=body
            )
            if not self.pass_on(message, trip, 0):
                return self.depart_again(trip)
        return trip

    def depart_again(self, trip: Trip) -> Trip:
        trip.attempts += 1
        if trip.attempts > ATTEMPTS:
            raise Unservable(f"step {trip.step} left {ATTEMPTS} times and did not come home")
        self.ledger.only_known()
        return self.depart(trip, again=True)

    def pass_on(self, message: Message, trip: Trip, received_bytes: int) -> bool:
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
            self.ledger.behind(END_USER, behind.block, behind.have)
            return False
        if message.ahead:
            self.send(message.ahead[0].node, message)
            return True
        trip.awaited.discard(message.end)
        trip.home.append(message)
        trip.since = self.clock()
        self.ledger.came_home(trip.route, message.end)
        self.watch.came_home({hop.node for hop in trip.route}, trip.since)
        return True

    def come_home(self, trip: Trip, wanted: Callable[[], bool]) -> None:
        """Wait until all of the step has been everywhere, and mend its route where that is needed."""
        heard_all = False
        while trip.awaited or not heard_all:
            if trip.awaited and not wanted():
                return
            signs, heard_all = self.hear(trip, self.watch.look_again_s(self.clock()) if trip.awaited else 0.0)
            if self.is_broken(trip, signs):
                self.depart_again(trip)
                self.crew = self.upkeep.order_copies(self.crew, trip.step)  # while the others mend the step
        trip.home.sort(key=lambda message: message.end)
        for change in self.news.changes(trip.step, trip.home[-1].runs, trip.home[-1].lacks):
            self.hears.change(self.clock(), change)
        self.crew = self.upkeep.order_copies(self.crew, trip.step)
        self.upkeep.drop_gone(self.crew, self.news.last_sign, trip.step)
        self.upkeep.speak(self.crew)

    def send(self, node: int, message: Message) -> None:
        try:
            self.link.send(node, message.pack())
        except Lost as lost:
            self.lost |= set(lost.nodes)

    # -- signs

    def hear(self, trip: Trip, wait_s: float) -> tuple[Signs, bool]:
        """What the next message, or its absence, is a sign of, and whether all that has arrived is heard."""
        if self.lost:
            lost, self.lost = self.lost, set()
            return [(node, Sign.LOST) for node in lost], False
        try:
            return self.take_in(Message.unpack(data := self.link.receive(wait_s)), len(data), trip), False
        except Silence:
            return self.watch.signs(self.crew, self.clock()), True
        except Lost as lost:
            return [(node, Sign.LOST) for node in lost.nodes], False

    def take_in(self, message: Message, received_bytes: int, trip: Trip) -> Signs:
        """What came: of the step, of a node's life, or a note. MISSING asks for the step to leave again."""
        match message.kind:
            case Kind.BEAT:
                self.watch.heard(Beat.of(message), self.clock())
            case Kind.NOTE:
                return self.read(read_note(message), trip)
            case Kind.STEP if message.epoch == trip.epoch and message.end in trip.awaited:
                if not self.pass_on(message, trip, received_bytes):
                    return [(END_USER, Sign.MISSING)]
        return []

    def read(self, said: dict[str, Any], trip: Trip) -> Signs:
        """A worker's note."""
        node = said["node"]
        if "behind" in said and said["epoch"] == trip.epoch:
            self.ledger.behind(node, range(*said["behind"]), said["have"])
            return [(node, Sign.MISSING)]
        if "pong" in said:
            self.upkeep.told_clock(node, said)
        if "loaded" in said:
            self.crew = self.upkeep.has_copy(self.crew, node, range(*said["loaded"]), trip.step)
        if "cannot_load" in said:
            self.upkeep.cannot_copy(node, range(*said["cannot_load"]))
        if "failed" in said:  # and dies, of which MPI tells
            self.hears.words(self.clock(), trip.step, node, said["failed"])
        if "gives_up" in said:
            self.hears.words(self.clock(), trip.step, node, said["gives_up"])
            return [(node, Sign.LOST)]
        return []

    def is_broken(self, trip: Trip, signs: Signs) -> bool:
        """Whether the step must leave again, after these signs."""
        missing = False
        for node, sign in signs:
            before, self.crew = self.crew, self.crew.after(node, sign)
            missing |= sign is Sign.MISSING
            if self.crew is not before or missing:
                self.hears.sign(self.clock(), trip.step, node, sign)
                self.news.seen(node, sign)
            if sign is Sign.GIVEN_UP:  # should it ever wake up
                self.send(node, Message(Kind.GOODBYE, body=APART))
        if not signs or not trip.awaited:
            return False
        ill = any(self.crew.state(hop.node) is not State.WELL for hop in trip.route)
        return missing or (ill and self.crew.route() != trip.route)


def pieces(rows: int, most: int, workers: int) -> list[int]:
    """How a prompt of `rows` positions is cut: into pieces of about one size, `most` at the most; one for every
    worker to be busy with, unless that makes them so small that reading weights outweighs the work."""
    count = max(-(-rows // most), min(workers, rows // WORTHWHILE_ROWS))
    return [rows // count + (piece < rows % count) for piece in range(count)]
