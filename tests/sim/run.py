"""A story played by the real coordinator and workers, and what came of it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from greenlet import greenlet

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.layers import END_USER, Block, mask
from jarvis_mpi.protocol import placement as blocks
from jarvis_mpi.protocol.cluster import Cluster, Policy
from jarvis_mpi.protocol.coordinator import Coordinator
from jarvis_mpi.protocol.election import Term
from jarvis_mpi.protocol.events import Token
from jarvis_mpi.protocol.journal import Journalled
from jarvis_mpi.protocol.link import Lost, Silence
from jarvis_mpi.protocol.services import Parameters, Services
from jarvis_mpi.protocol.standby import StandbyWorker
from jarvis_mpi.protocol.steps_in_flight import Pace, Patience
from jarvis_mpi.protocol.worker import Ended, Worker

from .model import SimDrafts, SimHead, SimStage, Wrong, choose, put_patch
from .story import Story, turns
from .world import LIMIT_S, SimNode, World

LOAD_S = 0.2
HEAD_S = 0.3  # until a standby has loaded the head
IDLE_S = 100.0  # a worker that hears nothing for so long leaves


@dataclass
class HeardOfFaults:
    """Who is told of faults."""

    signs: list = field(default_factory=list)
    routes: list = field(default_factory=list)
    changes: list = field(default_factory=list)
    log: list = field(default_factory=list)
    # Sequence -> layers that it began without, and those that were patched.
    begun: dict = field(default_factory=dict)

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

    def last_words(self, at_s, step, node, words):
        pass

    def shrunk(self, at_s, step, nodes):
        self.log.append(("shrunk", nodes))

    def stands_by(self, at_s, step, node):
        pass

    def offset(self, at_s, node, offset_s, uncertainty_s):
        pass


class Asker(Coordinator):
    def add_request(self, sequence, *how):
        if sequence not in self.dispatch.requests:
            gone = mask(
                layer for block, node in self.route_changes.served.items() if node is None for layer in block
            )
            patched = mask(layer for block in self.route_changes.patched for layer in block)
            self.services.observer.begun[sequence] = gone, patched
        super().add_request(sequence, *how)


@dataclass
class Outcome:
    story: Story
    placement: dict
    tokens: list
    heard: HeardOfFaults
    ended: str
    seconds: float
    gaps: list
    stages: dict
    copies: dict


def cluster_of(story: Story, placement, copies) -> Cluster:
    """With `patched`, patches of most blocks and some neighbours, on most nodes."""
    if not story.patched:
        return Cluster(placement, copies, Policy(story.ladder, story.max_skipped, copies=story.copies))
    dice, held = random.Random(story.seed + 3), [block for block, _ in Cluster(placement).blocks()]
    patches = {block for block in held if dice.random() < 0.7}
    patches |= {range(a.start, b.stop) for a, b in pairwise(held) if dice.random() < 0.4}
    patchers = frozenset(node for node in placement if dice.random() < 0.8)
    place = -1 if story.ladder[-1] == "skip" else len(story.ladder)
    ladder = [*story.ladder]
    ladder.insert(len(ladder) - 1 if place == -1 else place, "patch")
    policy = Policy(tuple(ladder), story.max_skipped, copies=story.copies)
    return Cluster(placement, copies, policy, patches=frozenset(patches), patchers=patchers)


class Nodes:
    """All nodes of a story: who holds what, their stages, and the failures of their processes."""

    def __init__(self, story: Story, world: World, dice: random.Random):
        self.story, self.world, self.dice, self.patience = story, world, dice, Patience()
        self.placement = blocks.place(
            story.layers, story.workers, split="even", end_user_layers=story.end_user_layers
        )
        self.copies = blocks.copies(self.placement, story.copies)
        self.nodes: list[SimNode] = []
        self.nodes += [SimNode(world, node, self.nodes, story, dice) for node in range(story.workers + 1)]
        self.made: dict = {}  # (node, block) -> its stage
        self.failures: list[BaseException] = []
        self.workers: list[Worker] = []

    def stages(self, node: SimNode) -> dict:
        copied = (block for block, holders in self.copies.items() if node.me in holders)
        return {block: self.new(node, block) for block in (*self.placement[node.me], *copied)}

    def new(self, node: SimNode, block: Block) -> Journalled:
        self.made[node.me, block] = SimStage(block, node.compute)
        return Journalled(self.made[node.me, block], block, self.story.journal_bytes)

    def load(self, node: SimNode, block: Block) -> Journalled:
        node.sleep(LOAD_S)
        return self.new(node, block)

    def prepare(self, node: SimNode) -> Callable[[], bool]:
        """Load a head, beside the work."""
        end_s = node.clock() + HEAD_S
        return lambda: node.clock() >= end_s

    def start_worker(self, node: SimNode) -> None:
        beat_s = self.patience.beat_s
        load = partial(self.load, node)
        parts = node, self.stages(node), node.clock, load, beat_s
        term = Term(standby=self.story.standby)
        if node.me == self.story.standby:
            for block in self.placement[END_USER]:
                parts[1][block] = self.new(node, block)
        if self.story.standby < 0:
            worker = Worker(*parts, patch=put_patch, term=term)
        else:
            worker = StandbyWorker(*parts, patch=put_patch, term=term, prepare=partial(self.prepare, node))
        self.workers.append(worker)
        self.world.at(0.0, greenlet(partial(self.serve, worker)).switch)
        self.world.at(beat_s * self.dice.random(), lambda: node.beats(worker, beat_s))

    def serve(self, worker: Worker) -> None:
        try:
            self.ended(worker, worker.serve(10 * LIMIT_S if self.story.standby < 0 else IDLE_S))
        except (Lost, Silence):
            self.ended(worker, None)
        except BaseException as error:
            self.failures.append(error)
            raise

    def ended(self, worker: Worker, how: Ended | None) -> None:
        """`how`: None: it gave up."""

    def cluster(self) -> Cluster:
        cluster = cluster_of(self.story, self.placement, self.copies)
        room = dict.fromkeys(self.placement, self.story.room)
        return replace(cluster, room=room, standby=self.story.standby)

    def coordinator(self, heard: HeardOfFaults) -> Asker:
        user, term = self.nodes[END_USER], Term(standby=self.story.standby)
        return self.coordinator_of(user, self.stages(user), self.cluster(), term, heard)

    def coordinator_of(
        self, user: SimNode, stages: dict, cluster: Cluster, term: Term, heard: HeardOfFaults
    ) -> Asker:
        story = self.story
        pace = {node: Pace(story.layer_s, story.layer_s) for node in self.placement}
        services = Services(
            user, SimHead(), stages, choose, user.clock, partial(self.load, user), heard,
            patch=put_patch, drafts=SimDrafts(story),
        )  # fmt: skip
        parameters = Parameters(story.prefill_rows, self.patience, pace, term=term)
        self.asker = Asker(services, cluster, parameters)
        return self.asker

    def garbled(self) -> int:
        """Messages that somebody could not read."""
        return sum(worker.garbled for worker in self.workers) + sum(
            each.garbled for each in self.asker.detector.liveness.values()
        )


def play(story: Story) -> Outcome:
    """Run the story. Raises Wrong where a rule is broken."""
    world = World()
    nodes = Nodes(story, world, random.Random(story.seed + 1))
    for node in nodes.nodes[1:]:
        nodes.start_worker(node)
    for fault in story.faults:
        world.at(fault.at_s, partial(nodes.nodes[fault.node].suffer, fault))
    outcome = Outcome(story, nodes.placement, [], HeardOfFaults(), "text", 0.0, [], nodes.made, nodes.copies)

    def asking() -> None:
        try:
            last = world.now
            for token in answers(nodes.coordinator(outcome.heard), story):
                outcome.tokens.append(token)
                outcome.gaps.append(world.now - last)
                last = world.now
        except Unservable as error:
            outcome.ended = str(error)
        except BaseException as error:
            nodes.failures.append(error)

    world.run(greenlet(asking))
    outcome.seconds = world.now
    if nodes.failures:
        raise nodes.failures[0]
    if nodes.garbled() and all(fault.kind != "babble" for fault in story.faults):
        raise Wrong("a message could not be read, and nobody sends nonsense")
    return outcome


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
        if turn.new_text:
            asker.start_sequence()
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
            asker.add_request(sequence, turn.asked, turn.tokens, set())

    ask()
    for token in asker.tokens():
        yield token
        left[token.sequence] -= 1
        if not left[token.sequence]:
            del left[token.sequence]
            asker.forget_sequence(token.sequence)
            ask()
