"""The real generate, serve and crew over a network in memory, on a virtual clock: one seed, one story.

Every node is a greenlet; a heap of (time, what) moves them on. A story's faults (who is killed, stopped,
stalled, cut off or slow, and which messages are late, doubled, lost or out of order) are drawn from its seed.

The simulated stage's output depends on the layers run, on their order and on all rows before, so a wrong
repair shows in the text; a row also carries the layers that were really run on it.
"""

import heapq
import random
import struct
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise

from greenlet import greenlet

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.layers import END_USER, Block, mask
from jarvis_mpi.protocol import placement as blocks
from jarvis_mpi.protocol.cluster import Crew, Policy
from jarvis_mpi.protocol.coordinator import Coordinator
from jarvis_mpi.protocol.events import Token
from jarvis_mpi.protocol.failure_detector import Pace, Patience
from jarvis_mpi.protocol.journal import Journalled
from jarvis_mpi.protocol.link import Lost, Silence
from jarvis_mpi.protocol.node_state import Sign
from jarvis_mpi.protocol.services import Parameters, Services
from jarvis_mpi.protocol.speculation import NoDrafts
from jarvis_mpi.protocol.wire import HEADER, Kind
from jarvis_mpi.protocol.worker import Worker

ROW = struct.Struct("<QQQ")  # value, the layers that were run on it (a bit each), those that were patched
BITS = 2**64 - 1
LOAD_S = 0.2
PROMPT = [5, 3, 8, 1, 9, 2, 7]
LIMIT_S = 900.0  # of virtual time: nothing may take so long


class Wrong(AssertionError):
    """A rule is broken."""


def mix(*numbers: int) -> int:
    value = 0x9E3779B97F4A7C15
    for number in numbers:
        value = ((value ^ number) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & BITS
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
        self.began: Counter[int] = (
            Counter()
        )  # how often a sequence was: more than once only if it was forgotten

    def run(self, body, start: int, sequence: int) -> bytes:
        if start == 0:
            self.caches[sequence] = [mix(self.block.start)]
            self.began[sequence] += 1
        cache = self.caches[sequence]
        if len(cache) - 1 != start:
            raise Wrong(f"rule 3: layers {self.block} have run {len(cache) - 1} positions, not {start}")
        out = []
        for value, ran, patched in ROW.iter_unpack(body):
            if (ran | patched) >> self.block.start:
                raise Wrong(f"rule 1: layers {self.block} are run after {ran | patched:b}")
            cache.append(mix(cache[-1], value))
            out.append(ROW.pack(mix(value, cache[-1]), ran | self.bits, patched))
        self.busy(len(out) * len(self.block))
        return b"".join(out)

    def crop(self, sequence: int, end: int) -> bool:
        del self.caches[sequence][end + 1 :]
        return True

    def forget(self, sequence: int) -> None:
        self.caches.pop(sequence, None)


class SimDrafts(NoDrafts):
    """Knows what one machine says, and guesses it right so often."""

    def __init__(self, story: "Story", placement):
        self.dice, self.right = random.Random(story.seed + 5), story.guessed
        self.texts = whole_texts(placement, story)

    def of(self, sequence: int, ids, most: int):
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


def whole_texts(placement, story: "Story") -> list[list[int]]:
    """What one machine says: each sequence, prompts and answers."""
    head, texts = SimHead(), []
    for part in turns(story):
        if part.anew or not texts:
            stages, ids, start = [SimStage(block) for block, _ in Crew(placement).blocks()], [], 0
            texts.append(ids)
        ids += part.asked
        for _ in range(part.tokens):
            body = head.embed(ids[start:], start)
            for stage in stages:
                body = stage.run(body, start, 0)
            start = len(ids)
            ids.append(choose(head.rows_logits(body, -1)[0], ids))
    return texts


# -- a story: what happens, and to whom


@dataclass(frozen=True)
class Fault:
    at_s: float
    kind: str  # kill, die (unseen by MPI), stop, stall, cut, slow
    node: int
    for_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.at_s:.2f} s: {self.kind} {self.node}" + (
            f" for {self.for_s:.1f} s" if self.for_s else ""
        )


@dataclass(frozen=True)
class Story:
    seed: int
    layers: int = 8
    workers: int = 4
    copies: int = 1
    tokens: int = 20
    kept: str = "first,last"
    faults: tuple[Fault, ...] = ()
    lost: float = 0.0  # share of messages
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 0.3  # how late, at the most
    room: float = 100.0
    journal_bytes: int = 10**6
    prefill_rows: int = 4
    ladder: tuple[str, ...] = ("copy", "skip")
    max_skipped: int = 10**6
    sees_deaths: bool = True  # MPI tells of a killed process
    layer_s: float = 0.004  # a row through a layer
    patched: bool = False
    streams: int = 0  # answers in flight at a time; 0: one, in turns as in a chat
    guessed: float = 0.0  # how many of the drafts are right; 0: none travel

    def __str__(self) -> str:
        faults = "; ".join(map(str, self.faults)) or "no fault"
        rest = {k: v for k, v in vars(self).items() if v != getattr(Story, k, None) and k != "faults"}
        return f"{faults} | {rest}"


KINDS = ("kill", "kill", "stop", "stop for", "stall", "cut", "slow")


def draw(seed: int) -> Story:
    """A story, the same for a seed on any machine."""
    dice = random.Random(seed)
    workers, tokens = dice.randint(1, 5), dice.choice((8, 16, 30))
    kept = dice.choice(("first,last", "first,last", "none", "first", "last"))
    own = 0 if kept == "none" else len(kept.split(","))
    layers = own + dice.randint(max(1, workers - 1), 2 * workers)
    layer_s = dice.choice((0.002, 0.01, 0.04))
    row_s = layers * layer_s + 0.002 * workers
    faults, at_s = [], dice.random() * dice.choice((len(PROMPT), tokens / 2)) * row_s
    near = dice.random() < 0.4  # close together: during each other's repair
    for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 4))):
        kind = dice.choice(KINDS)
        at_s += dice.random() * (2 * row_s if near else 0.5 * tokens * row_s + 1.0)
        for_s = dice.choice((0.3, 0.9, 1.5, 3.0, 12.0)) if kind not in ("kill", "stop") else 0.0
        if kind == "stall" and dice.random() < 0.1:
            for_s = 45.0
        faults.append(Fault(at_s, kind.split()[0], dice.randint(1, workers), for_s))
    if workers > 2 and dice.random() < 0.1:  # one after the other, with time to restore what was lost
        order = dice.sample(range(1, workers + 1), dice.randint(2, workers - 1))
        faults = [Fault(4.5 * (place + dice.random() / 9), "kill", node) for place, node in enumerate(order)]
        return Story(seed, layers, workers, 1, 40, kept, tuple(faults), layer_s=0.04)
    rough = dice.random()
    return Story(
        seed, layers, workers, dice.choice((0, 1, 1, 2)), tokens, kept, tuple(faults),
        lost=dice.choice((0.01, 0.05)) if rough < 0.2 else 0.0,
        doubled=0.05 if 0.1 < rough < 0.4 else 0.0,
        late=0.1 if 0.3 < rough < 0.6 else 0.0,
        late_s=dice.choice((0.05, 0.3, 4.0)),
        room=dice.choice((100.0, 100.0, 3.0, 0.0)),
        journal_bytes=dice.choice((10**6, 10**6, 10**6, 10 * ROW.size)),
        prefill_rows=dice.choice((2, 4, 128)),
        max_skipped=dice.choice((10**6, 10**6, layers // 3)),
        ladder=dice.choice((("copy", "skip"), ("copy", "skip"), ("copy", "skip"), ("copy",), ("skip",))),
        sees_deaths=dice.random() < 0.8,
        layer_s=layer_s,
    )  # fmt: skip


# -- the world


class World:
    def __init__(self):
        self.now, self.order, self.events = 0.0, count(), []
        self.hub = greenlet.getcurrent()

    def at(self, time: float, what) -> None:
        heapq.heappush(self.events, (time, next(self.order), what))

    def run(self, main: greenlet) -> None:
        """Until `main` has ended."""
        main.switch()
        while not main.dead:
            if not self.events:
                raise Wrong("rule 7: everyone waits for ever")
            self.now, _, what = heapq.heappop(self.events)
            if self.now > LIMIT_S:
                raise Wrong(f"rule 7: still waiting after {LIMIT_S} s")
            what()


class SimNode:
    """One node: its process (which can be stopped or killed) and its end of the network; see link.Link."""

    def __init__(self, world: World, me: int, nodes: list["SimNode"], story: Story, dice: random.Random):
        self.world, self.me, self.others, self.story, self.dice = world, me, nodes, story, dice
        self.nodes_left = tuple(range(story.workers + 1))
        self.size = story.workers + 1
        self.alive, self.stopped_until, self.cut_until, self.slow_until = True, 0.0, 0.0, 0.0
        self.stall_s = 0.0  # of the next work
        self.known_dead: set[int] = set()
        self.inbox: deque = deque()
        self.waiting: greenlet | None = None
        self.turn = 0
        self.last_arrival: dict[int, float] = {}
        self.newest: Counter[int] = Counter()  # sequence -> epoch received

    # -- the process

    def clock(self) -> float:
        return self.world.now

    def resume(self, sleeper: greenlet, turn: int, value=None) -> None:
        """Go on with `sleeper`, unless it went on already; not while this process is stopped."""
        if not self.alive or sleeper.dead or turn != self.turn:
            return
        if self.stopped_until > self.world.now:
            self.world.at(self.stopped_until, lambda: self.resume(sleeper, turn, value))
            return
        self.turn += 1
        self.waiting = None
        sleeper.switch(value)

    def sleep(self, seconds: float) -> None:
        me, turn = greenlet.getcurrent(), self.turn
        self.world.at(self.world.now + seconds, lambda: self.resume(me, turn))
        self.world.hub.switch()

    def compute(self, rows: int) -> None:
        """Rows times layers."""
        stalled, self.stall_s = self.stall_s, 0.0
        seconds = rows * self.story.layer_s
        self.sleep(seconds * (20 if self.slow_until > self.world.now else 1) + stalled)

    def beats(self, worker: Worker, every_s: float) -> None:
        if self.alive:
            if self.stopped_until <= self.world.now:
                worker.beat()
            self.world.at(self.world.now + every_s, lambda: self.beats(worker, every_s))

    # -- the link

    def send(self, node: int, data: bytes) -> None:
        if node in self.known_dead:
            raise Lost(self.known_dead)
        if data[5] == Kind.STEP:
            sequence, epoch = HEADER.unpack_from(data)[6:8]
            if self.me != END_USER and epoch < self.newest[sequence]:
                raise Wrong(f"rule 5: node {self.me} passes on epoch {epoch} after {self.newest[sequence]}")
        dice, story = self.dice, self.story
        control = node == self.me or data[5] in (Kind.NOTE, Kind.GOODBYE)
        if not control and dice.random() < story.lost:
            return
        for _ in range(1 + (not control and dice.random() < story.doubled)):
            self.deliver(node, data, dice.random() < story.late)

    def deliver(self, node: int, data: bytes, late: bool) -> None:
        other, now = self.others[node], self.world.now
        at = now + 0.0005 + 0.001 * self.dice.random()
        at = max(at, self.cut_until, other.cut_until)
        if late:
            at += self.dice.random() * self.story.late_s  # and out of order
        else:
            at = other.last_arrival[self.me] = max(at, other.last_arrival.get(self.me, 0.0) + 1e-6)
        self.world.at(at, lambda: other.arrives(data))

    def beat(self, data: bytes) -> None:
        if self.alive:
            self.send(END_USER, data)

    def flush(self, timeout_s: float) -> None:
        pass

    def sending(self) -> bool:
        return False

    def shrink(self, attempt, members, certain) -> None:
        """As MPI would have it: certain, that is whoever it was told of; otherwise none of those."""
        dropped = set(self.nodes_left) - set(members)
        if self.me == END_USER and certain != (dropped <= self.known_dead):
            raise Wrong(f"a shrink to {members}, but known dead are {self.known_dead}")
        self.nodes_left = tuple(members)

    @property
    def nodes(self):
        return self.nodes_left

    def arrives(self, what) -> None:
        if not self.alive:
            return
        self.inbox.append(what)
        if self.waiting:
            self.resume(self.waiting, self.turn)

    def receive(self, timeout_s: float) -> bytearray:
        if not self.inbox:
            self.waiting, turn = greenlet.getcurrent(), self.turn
            waiting = self.waiting
            if timeout_s < LIMIT_S:
                self.world.at(self.world.now + timeout_s, lambda: self.resume(waiting, turn))
            self.world.hub.switch()
        if not self.inbox:
            raise Silence(f"nothing arrived in {timeout_s} s")
        what = self.inbox.popleft()
        if isinstance(what, int):
            self.known_dead.add(what)
            raise Lost(self.known_dead)
        if self.me != END_USER and what[5] == Kind.STEP:
            sequence, epoch = HEADER.unpack_from(what)[6:8]
            self.newest[sequence] = max(self.newest[sequence], epoch)
        return bytearray(what)

    # -- faults

    def suffer(self, fault: Fault) -> None:
        until = self.world.now + fault.for_s
        match fault.kind:
            case "kill":
                self.alive = False
                for other in self.others:
                    if other is not self and self.story.sees_deaths:
                        at = self.world.now + 0.03 * self.dice.random()
                        self.world.at(at, lambda other=other: other.arrives(self.me))
            case "stop" if self.stopped_until < float("inf"):
                self.stopped_until = until if fault.for_s else float("inf")
            case "stall":
                self.stall_s = fault.for_s
            case "cut":
                self.cut_until = until
            case "slow":
                self.slow_until = until


@dataclass
class Told:
    """Who is told of faults."""

    signs: list = field(default_factory=list)
    routes: list = field(default_factory=list)
    changes: list = field(default_factory=list)
    log: list = field(default_factory=list)
    begun: dict = field(
        default_factory=dict
    )  # sequence -> layers that it began without, and those that were patched

    def sign(self, at_s, step, node, sign):
        self.signs.append((at_s, step, node, sign))
        self.log.append(("sign", node, sign))

    def route(self, at_s, step, epoch, route):
        self.routes.append((at_s, step, epoch, route))
        self.log.append(("route", route))

    def change(self, at_s, change):
        self.changes.append(change)

    def copy(self, at_s, step, node, block):
        self.log.append(("copy", node, block))

    def words(self, at_s, step, node, words):
        pass

    def shrunk(self, at_s, step, nodes):
        self.log.append(("shrunk", nodes))

    def offset(self, at_s, node, offset_s, uncertainty_s):
        pass


class Asker(Coordinator):
    def take_off(self, sequence, *how):
        if sequence not in self.dispatch.requests:
            gone = mask(layer for block, node in self.news.served.items() if node is None for layer in block)
            patched = mask(layer for block in self.news.patched for layer in block)
            self.services.observer.begun[sequence] = gone, patched
        super().take_off(sequence, *how)


@dataclass
class Outcome:
    story: Story
    placement: dict
    tokens: list
    told: Told
    ended: str
    seconds: float
    gaps: list
    stages: dict
    copies: dict


def crew_of(story: Story, placement, copies) -> Crew:
    """With `patched`, patches of most blocks and some neighbours, on most nodes."""
    if not story.patched:
        return Crew(placement, copies, Policy(story.ladder, story.max_skipped, copies=story.copies))
    dice, held = random.Random(story.seed + 3), [block for block, _ in Crew(placement).blocks()]
    patches = {block for block in held if dice.random() < 0.7}
    patches |= {range(a.start, b.stop) for a, b in pairwise(held) if dice.random() < 0.4}
    patchers = frozenset(node for node in placement if dice.random() < 0.8)
    place = -1 if story.ladder[-1] == "skip" else len(story.ladder)
    ladder = [*story.ladder]
    ladder.insert(len(ladder) - 1 if place == -1 else place, "patch")
    policy = Policy(tuple(ladder), story.max_skipped, copies=story.copies)
    return Crew(placement, copies, policy, patches=frozenset(patches), patchers=patchers)


def play(story: Story) -> Outcome:
    """Run the story. Raises Wrong where a rule is broken."""
    world, dice = World(), random.Random(story.seed + 1)
    placement = blocks.place(story.layers, story.workers, split="even", end_user_layers=story.kept)
    copies = blocks.copies(placement, story.copies)
    crew = replace(crew_of(story, placement, copies), room=dict.fromkeys(placement, story.room))
    nodes: list[SimNode] = []
    nodes += [SimNode(world, node, nodes, story, dice) for node in range(story.workers + 1)]
    patience = Patience()
    made: dict = {}

    def stages(node: SimNode) -> dict:
        held = [*placement[node.me], *(block for block, holders in copies.items() if node.me in holders)]
        return {block: new(node, block) for block in held}

    def new(node: SimNode, block: Block) -> Journalled:
        made[node.me, block] = SimStage(block, node.compute)
        return Journalled(made[node.me, block], block, story.journal_bytes)

    def load(node: SimNode):
        def loaded(block):
            node.sleep(LOAD_S)
            return new(node, block)

        return loaded

    failures: list[BaseException] = []

    def serving(worker: Worker):
        def served():
            try:
                worker.serve(10 * LIMIT_S)
            except Lost:
                pass
            except BaseException as error:
                failures.append(error)
                raise

        return served

    for node in nodes[1:]:
        worker = Worker(node, stages(node), node.clock, load(node), patience.beat_s, patch=put_patch)
        world.at(0.0, greenlet(serving(worker)).switch)
        world.at(patience.beat_s * dice.random(), lambda n=node, w=worker: n.beats(w, patience.beat_s))
    for fault in story.faults:
        world.at(fault.at_s, lambda fault=fault: nodes[fault.node].suffer(fault))
    told, tokens, gaps, ended = Told(), [], [], ["text"]
    user = nodes[END_USER]
    pace = {node: Pace(story.layer_s, story.layer_s) for node in placement}

    def asking():
        try:
            services = Services(
                user, SimHead(), stages(user), choose, user.clock, load(user), told, patch=put_patch,
                drafts=SimDrafts(story, placement),
            )  # fmt: skip
            asker = Asker(services, crew, Parameters(story.prefill_rows, patience, pace))
            last = world.now
            for token in answers(asker, story):
                tokens.append(token)
                gaps.append(world.now - last)
                last = world.now
        except Unservable as error:
            ended[0] = str(error)
        except BaseException as error:
            failures.append(error)

    world.run(greenlet(asking))
    if failures:
        raise failures[0]
    return Outcome(story, placement, tokens, told, ended[0], world.now, gaps, made, copies)


@dataclass(frozen=True)
class Turn:
    asked: tuple[int, ...]
    tokens: int
    anew: bool = False  # another text, or else this one goes on
    broken_off: bool = False  # more tokens were wanted at first
    pause_s: float = 0.0  # before it


def turns(story: Story) -> list[Turn]:
    """The answer in two parts, as in a chat; or several answers to questions of their own."""
    dice = random.Random(story.seed + 2)
    if story.streams:
        count = dice.randint(1, 2 * story.streams)
        lengths = [dice.randint(1, 1 + 2 * story.tokens // count) for _ in range(count)]
        return [
            Turn((*PROMPT[number % 6 :], number), length, anew=True) for number, length in enumerate(lengths)
        ]
    first = dice.randint(1, story.tokens)
    turn = Turn(tuple(PROMPT), first, broken_off=dice.random() < 0.5)
    if first == story.tokens:
        return [turn]
    asked, pause_s = (11, 12, 13)[: dice.randint(1, 3)], dice.choice([0.0, 0.0, 0.3, 3.0])
    return [turn, Turn(asked, story.tokens - first, anew=dice.random() < 0.4, pause_s=pause_s)]


def answers(asker: Coordinator, story: Story) -> Iterator[Token]:
    if story.streams:
        yield from many_answers(asker, story)
        return
    text: list[int] = []
    for turn in turns(story):
        end = asker.clock() + turn.pause_s
        while asker.clock() < end:
            asker.services.link.sleep(0.25)
            asker.rest()
        if turn.anew:
            asker.begin_anew()
            text = []
        text += turn.asked
        whole = len(text) + turn.tokens
        for token in asker.generate(text, turn.tokens + 20 * turn.broken_off, set()):
            text.append(token.id)
            yield token
            if len(text) == whole:
                break


def many_answers(asker: Coordinator, story: Story) -> Iterator[Token]:
    """The next one is asked when another has ended."""
    waiting, left = list(enumerate(turns(story)))[::-1], {}

    def ask() -> None:
        while waiting and len(left) < story.streams:
            sequence, turn = waiting.pop()
            left[sequence] = turn.tokens
            asker.take_off(sequence, turn.asked, turn.tokens, set())

    ask()
    for token in asker.tokens():
        yield token
        left[token.sequence] -= 1
        if not left[token.sequence]:
            del left[token.sequence]
            asker.over(token.sequence)
            ask()


# -- the rules of design.md


def check(outcome: Outcome) -> None:
    """Raises Wrong where a rule of the design is broken."""
    story, told = outcome.story, outcome.told
    texts = whole_texts(outcome.placement, story)
    for sequence in {token.sequence: None for token in outcome.tokens}:
        check_text(outcome, sequence, texts[sequence])
    said_at = said_first(told.changes)
    if outcome.ended == "text" and len(outcome.tokens) != sum(turn.tokens for turn in turns(story)):
        raise Wrong("the text ends early, and nobody says why")
    if must_be_exact(outcome) and (said_at < LIMIT_S or outcome.ended != "text"):
        raise Wrong(f"rule 2 or 10: a copy was left, but: {outcome.ended}, {list(map(str, told.changes))}")
    taken_back = story.guessed and not story.streams  # a turn broken off between tokens that came together
    if (
        story.journal_bytes > 10**5
        and not taken_back
        and any(began > 1 for stage in outcome.stages.values() for began in stage.began.values())
    ):
        raise Wrong("rule 3: a stage began anew")
    settled = (
        not (story.faults or story.late or story.lost) and story.tokens >= 8
    )  # all has been told of what is over
    for token in (
        whole_tokens(outcome)[-1:] if outcome.ended == "text" and settled and not story.streams else ()
    ):
        for run in (run for run in token.pieces[-1].runs if not run.patch):
            if outcome.stages[run.node, run.block].caches.keys() - {token.sequence}:
                raise Wrong(f"node {run.node} keeps more than sequence {token.sequence}")
    kills_only = all(fault.kind == "kill" for fault in story.faults)
    calm = story.sees_deaths and kills_only and not (story.lost or story.late or story.doubled)
    again = any(sign is Sign.MISSING for *_, sign in told.signs)
    if calm and again and story.journal_bytes > 10**5:
        raise Wrong("rule 4: a step had to leave again, and no message was lost")
    replay(outcome)
    comes_back(outcome)
    bound_s = 6 + sum(fault.for_s + 2.5 for fault in story.faults) + 4 * story.late_s * bool(story.late)
    bound_s += 40 * (any(fault.kind in ("stall", "slow") for fault in story.faults) or story.lost > 0)
    # Drafts take their time, and so do the others' steps and prompts.
    bound_s += story.layers * story.layer_s * (6 * bool(story.guessed) + 10 * max(story.streams - 1, 0))
    bound_s += (60 + 240 * bool(story.guessed or story.streams)) * (
        story.journal_bytes < 10**5
    )  # a stage that forgot has all before it run anew, again and again
    if outcome.gaps and max(outcome.gaps) > bound_s:
        raise Wrong(f"rule 7: a token took {max(outcome.gaps):.1f} s, at most {bound_s:.1f} s")


def whole_tokens(outcome: Outcome) -> list[Token]:
    """Those that no draft foretold."""
    return [token for token in outcome.tokens if token.pieces]


def said_first(changes) -> float:
    """The first step from which on a text may differ."""
    return min((change.step for change in changes if change.to is None or change.inexact), default=LIMIT_S)


def check_text(outcome: Outcome, sequence: int, whole: Sequence[int]) -> None:
    """Of one sequence: what was run is what was announced, and the text is one machine's until something was."""
    story, told = outcome.story, outcome.told
    mine = [token for token in outcome.tokens if token.sequence == sequence]
    steps = {token.step for token in mine}
    everything = (1 << story.layers) - 1
    gone, patched = told.begun[sequence]
    said = [change for change in told.changes if change.step in steps]
    said_at = min(0 if gone else LIMIT_S, said_first(said))
    changes = iter([*said, None])
    change = next(changes)
    for token in (token for token in mine if token.pieces):
        while change is not None and change.step <= token.step:
            bits = mask(change.block)
            gone = gone | bits if change.to is None else gone & ~bits
            patched = patched | bits if change.patched_by is not None else patched & ~bits
            change = next(changes)
        _, ran, stood_in = ROW.unpack(token.pieces[-1].body[-ROW.size :])
        runs = mask(layer for run in token.pieces[-1].runs if not run.patch for layer in run.block)
        if stood_in != patched:
            raise Wrong(f"rule 1: step {token.step} has patches of {stood_in:b}, announced {patched:b}")
        if ran != everything & ~gone:
            raise Wrong(f"rule 1: step {token.step} ran {ran:b}, announced missing {gone:b}")
        if ran != runs:
            raise Wrong(f"rule 1: step {token.step} ran {ran:b}, its message says {runs:b}")
        left_again = [epoch for _, step, epoch, _ in told.routes if step == token.step]
        epoch = token.pieces[-1].epoch
        if left_again and epoch != left_again[-1]:
            raise Wrong(f"rule 5: step {token.step} took a message of epoch {epoch}, not {left_again[-1]}")
    if [token.position for token in mine] != [
        at for at in range(len(whole)) if at in {t.position for t in mine}
    ]:
        raise Wrong(f"sequence {sequence} has positions {[token.position for token in mine]}")
    differs = next((token.step for token in mine if token.id != whole[token.position]), LIMIT_S)
    if differs < said_at:
        raise Wrong(
            f"rule 2: sequence {sequence} differs from step {differs} on, and nothing was said before"
        )


def quiet(story: Story) -> bool:
    """Whether messages are what a sound network makes of them."""
    return not story.lost and not (story.late and story.late_s > 0.4)


def must_be_exact(outcome: Outcome) -> bool:
    """Whether every block has a holder left at every moment, by what is known from outside."""
    story = outcome.story
    if not quiet(story):
        return False
    if all(fault.kind in ("stall", "slow") and fault.for_s < 30 for fault in story.faults):
        return True  # whoever beats is waited for
    if "copy" not in story.ladder:
        return False
    hurt = {fault.node for fault in story.faults}
    untouched = all(
        owner not in hurt or set(outcome.copies.get(block, ())) - hurt
        for block, owner in Crew(outcome.placement).blocks()
    )
    if untouched:
        return True
    kills = [fault for fault in story.faults if fault.kind == "kill"]
    apart = all(b.at_s - a.at_s > 4.0 for a, b in pairwise(kills))
    return story.copies >= 1 and story.room >= 100 and kills == list(story.faults) and apart


def replay(outcome: Outcome) -> None:
    """Rule 8: the decisions follow from the signs in the log."""
    story = outcome.story
    crew = crew_of(story, outcome.placement, outcome.copies)
    for kind, *what in outcome.told.log:
        match kind:
            case "sign":
                crew = crew.after(*what)
            case "copy":
                crew = crew.with_copy(*what)
            case "route" if crew.route() != what[0]:
                raise Wrong(f"rule 8: {crew.route()} follows from the log, {what[0]} was taken")


def comes_back(outcome: Outcome) -> None:
    """Rule 6: a node that was away once, and is well again long before the end, does its own work at the end."""
    story = outcome.story
    if not quiet(story) or len(story.faults) != 1 or not story.faults[0].for_s or not outcome.tokens:
        return
    fault = story.faults[0]
    pause_s = sum(turn.pause_s for turn in turns(story))  # who has nothing to do then stalls after it
    left_s = outcome.seconds - (fault.at_s + fault.for_s) - pause_s
    last = whole_tokens(outcome)[-1]
    left_s -= last.total_s * bool(story.streams)  # beside others it may have left before
    if fault.kind != "slow" and left_s > 2.0:
        nodes = {run.block: run.node for run in last.pieces[-1].runs if not run.patch}
        for block in outcome.placement[fault.node]:
            if nodes.get(block) != fault.node:
                raise Wrong(f"rule 6: node {fault.node} came back, but {block} is run by {nodes.get(block)}")


def more_of(story: Story) -> Story:
    """The same with patches in every second one, several answers in flight and drafts in most."""
    dice = random.Random(story.seed + 4)
    streams, guessed = dice.choice((0, 0, 1, 2, 3, 5)), dice.choice((0.0, 0.0, 0.5, 0.9, 1.0))
    return replace(story, patched=story.seed % 2 == 1, streams=streams, guessed=guessed)


def tell(seed: int) -> str:
    """'' if the story of this seed keeps all rules, else what is wrong, and how to see it again."""
    story = more_of(draw(seed))
    try:
        check(play(story))
    except Exception as error:
        return f"seed {seed}: {type(error).__name__}: {error} | {story}"
    return ""


def tell_many(seeds: range) -> list[str]:
    return [wrong for seed in seeds if (wrong := tell(seed))]


if __name__ == "__main__":  # python tests/sim.py SEED: one story, told; python tests/sim.py FIRST END: many
    import sys

    first, *end = map(int, sys.argv[1:])
    if end:
        print(*tell_many(range(first, end[0])), sep="\n")
        sys.exit()
    story = more_of(draw(first))
    print(story)
    outcome = play(story)
    print(*outcome.told.signs, *outcome.told.routes, *outcome.told.changes, sep="\n")
    print(
        outcome.ended,
        len(outcome.tokens),
        "tokens,",
        f"{outcome.seconds:.2f} s, longest gap {max(outcome.gaps):.2f} s",
    )
    check(outcome)
