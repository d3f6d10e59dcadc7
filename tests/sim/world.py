"""The world of a story: a virtual clock, and nodes that are greenlets over a network in memory."""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from itertools import count

from greenlet import greenlet

from jarvis_mpi.common.layers import END_USER
from jarvis_mpi.protocol.election import since_of
from jarvis_mpi.protocol.link import Lost, Silence
from jarvis_mpi.protocol.wire import BEAT, HEADER, MAGIC, VERSION, Beat, Kind, Message
from jarvis_mpi.protocol.worker import Worker

from .model import Wrong
from .story import Fault, Story

A_STEP = MAGIC + bytes((VERSION, Kind.STEP))
LIMIT_S = 900.0  # of virtual time: nothing may take so long


class World:
    def __init__(self):
        self.now, self.order, self.events = 0.0, count(), []
        self.hub = greenlet.getcurrent()

    def at(self, time: float, what) -> None:
        heapq.heappush(self.events, (time, next(self.order), what))

    def run(self, main: greenlet) -> None:
        """Until `main` has ended."""
        main.switch()
        self.run_until(lambda: main.dead)

    def run_until(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            if not self.events:
                raise Wrong("rule 7: everyone waits for ever")
            self.now, _, what = heapq.heappop(self.events)
            if self.now > LIMIT_S:
                raise Wrong(f"rule 7: still waiting after {LIMIT_S} s")
            what()


class SimProcess:
    """A node's process: it computes and sleeps, and can be stopped, stalled, slowed down, cut off or
    killed."""

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
        self.sender = -1  # of what was received last
        self.babbles = False
        self.side, self.split_until = 0, 0.0
        self.last_arrival: dict[int, float] = {}
        self.newest: Counter[int] = Counter()  # sequence -> epoch received

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
                if self.babbles:
                    self.babble()
            self.world.at(self.world.now + every_s, lambda: self.beats(worker, every_s))

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
            case "split":  # this node and those of higher numbers, from all others
                for other in self.others:
                    other.side, other.split_until = int(other.me >= self.me), until
            case "cut":
                self.cut_until = until
            case "slow":
                self.slow_until = until
            case "babble":
                self.babbles = True


class SimNode(SimProcess):
    """A process with its end of the network; see link.Link."""

    def send(self, node: int, data: bytes) -> None:
        if node in self.known_dead:
            raise Lost(self.known_dead)
        if data[5] == Kind.STEP:
            sequence, epoch = HEADER.unpack_from(data)[6:8]
            newest = self.newest[sequence]
            if self.me != END_USER and epoch < newest and since_of(epoch) == since_of(newest):
                raise Wrong(f"rule 5: node {self.me} passes on epoch {epoch} after {newest}")
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
        if other.side != self.side:  # the network is split between them
            at = max(at, self.split_until)
        if late:
            at += self.dice.random() * self.story.late_s  # and out of order
        else:
            at = other.last_arrival[self.me] = max(at, other.last_arrival.get(self.me, 0.0) + 1e-6)
        self.world.at(at, lambda: other.arrives(data, self.me))

    def babble(self) -> None:
        """Nonsense to the end user, and to everybody."""
        node = self.dice.choice((END_USER, END_USER, self.dice.randrange(self.size)))
        if node != self.me and node not in self.known_dead:
            self.deliver(node, nonsense(self.dice), False)

    def beat(self, node: int, data: bytes) -> None:
        if self.alive and node not in self.known_dead:
            self.send(node, data)

    def flush(self, timeout_s: float) -> None:
        pass

    def sending(self) -> bool:
        return False

    orphaned, end_user = False, 0

    def shrink(self, attempt, members, certain) -> None:
        """As MPI would have it: certain, that is whoever it was told of; otherwise none of those."""
        dropped = set(self.nodes_left) - set(members)
        if self.me == END_USER and certain != (dropped <= self.known_dead):
            raise Wrong(f"a shrink to {members}, but known dead are {self.known_dead}")
        self.nodes_left = tuple(members)

    @property
    def nodes(self):
        return self.nodes_left

    def arrives(self, what, sender: int = -1) -> None:
        if not self.alive:
            return
        self.inbox.append((what, sender))
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
        what, self.sender = self.inbox.popleft()
        if isinstance(what, int):
            self.known_dead.add(what)
            raise Lost(self.known_dead)
        if self.me != END_USER and what[:6] == A_STEP and len(what) >= HEADER.size:
            sequence, epoch = HEADER.unpack_from(what)[6:8]
            self.newest[sequence] = max(self.newest[sequence], epoch)
        return bytearray(what)


def nonsense(dice: random.Random) -> bytes:
    """What a broken node may send."""
    return dice.choice(
        (
            b"",
            dice.randbytes(dice.randint(1, 200)),
            MAGIC + dice.randbytes(60),
            Message(Kind.BEAT, body=dice.randbytes(BEAT.size - 3)).pack(),
            Message(Kind.BEAT, body=dice.randbytes(BEAT.size + 3)).pack(),
            Beat(999, 0.0, False, {}).pack(),
            Message(Kind.NOTE, body=b"[1, 2]").pack(),
            Message(Kind.NOTE, body=b"[" * 200_000).pack(),
            Message(Kind.NOTE, body=b'{"pong": "x", "node": 1, "clock": []}').pack(),
            Message(Kind.NOTE, body=dice.randbytes(40)).pack(),
            Message(Kind.STEP, rows=3, body=b"x").pack(),
            Message(Kind.STEP).pack()[:-1],
        )
    )
