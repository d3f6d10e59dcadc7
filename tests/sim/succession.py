"""Stories in which the end user dies, stops or is cut off, and its standby takes over."""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

from greenlet import greenlet

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.layers import END_USER
from jarvis_mpi.protocol.coordinator import Coordinator
from jarvis_mpi.protocol.events import Token
from jarvis_mpi.protocol.takeover import take_over
from jarvis_mpi.protocol.tenure import Deposed
from jarvis_mpi.protocol.transcript import Transcript
from jarvis_mpi.protocol.wire import Beat
from jarvis_mpi.protocol.worker import Ended

from . import rules
from .model import Wrong, whole_texts
from .rules import check_names, check_text, first_announced, quiet
from .run import HEAD_S, HeardOfFaults, Nodes, Outcome
from .story import LATEST, Fault, Story, draw, more_of, turns, with_standby
from .world import World


@dataclass
class Reign:
    """What one end user showed. `ended`: text; what went wrong; '' if it died, or was deposed."""

    node: int
    heard: HeardOfFaults = field(default_factory=HeardOfFaults)
    tokens: list[Token] = field(default_factory=list)
    shown_s: list[float] = field(default_factory=list)  # when
    ended: str = ""
    deposed: bool = False
    before: list[Token] = field(default_factory=list)  # that the transcript had
    begun_s: float = 0.0


class Succession(Nodes):
    """The nodes of a story with a standby."""

    def __init__(self, story: Story, world: World):
        super().__init__(story, world, random.Random(story.seed + 1))
        self.reigns = [Reign(END_USER)]
        self.gave_up: set[int] = set()
        self.died_s: dict[int, float] = {}

    def play(self) -> None:
        for node in self.nodes[1:]:
            self.start_worker(node)
        for fault in self.story.faults:
            self.world.at(fault.at_s, partial(self.strike, fault))
        self.world.at(0.0, greenlet(self.first_reign).switch)
        self.world.run_until(self.is_over)
        if self.failures:
            raise self.failures[0]

    def strike(self, fault: Fault) -> None:
        node = self.reigns[-1].node if fault.node == LATEST else fault.node
        self.nodes[node].suffer(replace(fault, node=node))
        if not self.nodes[node].alive:
            self.died_s.setdefault(node, self.world.now)

    def is_over(self) -> bool:
        """Whether somebody has ended the run, or nobody is left who could."""
        gone = self.gave_up | {reign.node for reign in self.reigns if reign.deposed}
        left = [
            node
            for node in self.nodes
            if node.alive and node.stopped_until != float("inf") and node.me not in gone
        ]
        return bool(self.failures) or any(reign.ended for reign in self.reigns) or not left

    def first_reign(self) -> None:
        coordinator = self.coordinator(self.reigns[0].heard)
        coordinator.tenure.begin("", {})
        self.reign(self.reigns[0], coordinator, None)

    def show_life(self, coordinator: Coordinator) -> None:
        """The end user's own beats."""
        node, standby = self.nodes[coordinator.me], coordinator.tenure.term.standby
        if node.alive:
            if standby >= 0 and node.stopped_until <= self.world.now:
                node.beat(standby, Beat(node.me, 0.0, False, {}).pack())
            self.world.at(self.world.now + self.patience.beat_s, partial(self.show_life, coordinator))

    def reign(self, reign: Reign, coordinator: Coordinator, before: Transcript | None) -> None:
        self.world.at(0.0, partial(self.show_life, coordinator))
        try:
            for token in asked(coordinator, self.story, before):
                reign.tokens.append(token)
                reign.shown_s.append(self.world.now)
            reign.ended = "text"
        except Deposed:
            reign.deposed = True
        except Unservable as error:
            reign.ended = str(error)
        except BaseException as error:
            self.failures.append(error)

    def ended(self, worker, how: Ended | None) -> None:
        if how is not Ended.TAKES_OVER:
            self.gave_up.add(worker.link.me)
            return
        worker.link.sleep(HEAD_S)
        reign = Reign(worker.link.me, begun_s=self.world.now)
        ends = end_of_texts(self.story, begun_turns(worker.transcript))
        reign.before = [
            Token(sequence, step, position, token, self.world.now, 0.0, 0.0, ())
            for kind, sequence, step, position, token in tokens_of(worker.transcript)
            if position < ends[sequence]  # others are not wanted
        ]

        def coordinator_of(cluster):
            return self.coordinator_of(worker.link, worker.stages, cluster, worker.term, reign.heard)

        coordinator = take_over(worker, self.cluster(), coordinator_of)
        reign.heard.begun = dict.fromkeys(coordinator.dispatch.requests, (0, 0))
        self.reigns.append(reign)
        self.reign(reign, coordinator, worker.transcript)


def begun_turns(before: Transcript) -> int:
    return max([-1, *(json.loads(text) for _, _, text in before.of("event"))]) + 1


def end_of_texts(story: Story, count: int) -> dict[int, int]:
    """Sequence -> its length after so many turns."""
    ends: dict[int, int] = {}
    for turn in turns(story)[:count]:
        sequence = len(ends) if turn.new_text or not ends else len(ends) - 1
        ends[sequence] = ends.get(sequence, 0) + len(turn.asked) + turn.tokens
    return ends


def tokens_of(transcript: Transcript) -> list:
    return [entry for entry in transcript.without_cut() if entry[0] == "token"]


def asked(asker: Coordinator, story: Story, before: Transcript | None) -> Iterator[Token]:
    """Ask all turns of the story; or what is left of them, if there was another end user before."""
    parts = turns(story)
    texts = before.texts() if before else {}
    begun = begun_turns(before) - 1 if before else -1
    ids: list[int] = []
    for number, turn in enumerate(parts):
        if turn.new_text and number:
            ids = []
            if number <= begun:
                asker.sequence += 1
            else:
                asker.start_sequence()
        start = len(ids)
        whole = start + len(turn.asked) + turn.tokens
        if number <= begun:
            ids = texts.get(asker.sequence, [])[:whole]
            if len(ids) < start + len(turn.asked):
                ids = [*ids[:start], *turn.asked]
        else:
            end = asker.clock() + turn.pause_s
            while asker.clock() < end:
                asker.services.link.sleep(0.25)
                asker.rest()
            ids = [*ids, *turn.asked]
            asker.tenure.replication.add("event", asker.step, "asked", json.dumps(number))
        if len(ids) == whole:
            continue
        for token in asker.generate(ids, whole - len(ids) + 20 * turn.broken_off, set()):
            ids.append(token.id)
            yield token
            if len(ids) == whole:
                break


def check(nodes: Succession) -> None:
    """Raises Wrong where a rule of the design is broken."""
    story, texts = nodes.story, whole_texts(nodes.story)
    announced = False
    for reign in nodes.reigns:
        outcome = Outcome(
            story, nodes.placement, reign.tokens, reign.heard, reign.ended, 0.0, [], nodes.made, nodes.copies
        )
        check_names(outcome)
        for sequence in {token.sequence: None for token in reign.tokens}:
            check_text(outcome, sequence, texts[sequence], announced)
        last = max((token.step for token in reign.tokens), default=-1)
        announced = announced or first_announced(reign.heard.changes) <= last
    check_shown(nodes, texts)
    ended = next((reign.ended for reign in nodes.reigns if reign.ended), "nobody is the end user")
    if must_go_on(nodes) and (announced or ended != "text"):
        raise Wrong(f"rule 2: somebody could go on, exactly, but: {ended}")


def check_shown(nodes: Succession, texts: list[list[int]]) -> None:
    """Rule 11: no token is shown twice and none is lost, whoever shows it."""
    first, *later = nodes.reigns
    shown = {(token.sequence, token.position): token.id for token in first.tokens}
    for number, reign in enumerate(later, 1):
        known = {(token.sequence, token.position): token.id for token in reign.before}
        died_s = nodes.died_s.get(reign.node, float("inf"))
        for earlier in nodes.reigns[:number]:
            for token, at_s in zip(earlier.tokens, earlier.shown_s, strict=True):
                if known.get((token.sequence, token.position)) != token.id and at_s < died_s:
                    raise Wrong(f"rule 11: node {reign.node} lacks tokens that were shown")
        shown |= known
        for token in reign.tokens:
            if (token.sequence, token.position) in shown:
                wanted = shown[token.sequence, token.position]
                if token.id != wanted:
                    raise Wrong(f"rule 11: position {token.position} is shown twice")
            shown[token.sequence, token.position] = token.id
    whole = {(token.sequence, token.position) for token in first.tokens}
    if any(reign.ended == "text" for reign in nodes.reigns):
        end: dict[int, int] = {}
        sequence = -1
        for turn in turns(nodes.story):
            if turn.new_text or sequence < 0:
                sequence += 1
                end[sequence] = 0
            start = end[sequence] + len(turn.asked)
            end[sequence] = start + turn.tokens
            whole |= {(sequence, position) for position in range(start, end[sequence])}
        if lacking := whole - shown.keys():
            raise Wrong(f"rule 11: the text ends early: {sorted(lacking)[:3]}")


def must_go_on(nodes: Succession) -> bool:
    """Whether somebody can be the end user at every moment, and every block has a holder left."""
    story = nodes.story
    if not quiet(story) or "copy" not in story.ladder or story.journal_bytes < 10**5:
        return False
    hurt = {fault.node for fault in story.faults}
    if any(fault.kind == "split" for fault in story.faults) or {END_USER, story.standby} <= hurt:
        return False
    of_end_user = [fault.kind for fault in story.faults if fault.node == END_USER]
    if "kill" in of_end_user and set(of_end_user) != {"kill"}:
        return False  # it may have gone on without its standby before
    if LATEST in hurt:
        return in_turn(story)
    if not story.copies and any(fault.kind == "cut" for fault in story.faults):
        return False  # an end user that is cut off takes the others for silent, one after the other
    killed = {fault.node for fault in story.faults if fault.kind == "kill" and story.sees_deaths}
    voters = set(range(story.workers + 1)) - killed
    if hurt & {END_USER, story.standby} and 2 * len(voters - hurt) <= len(voters):
        return False
    return all(
        owner not in hurt or set(nodes.copies.get(block, (story.standby,) * (owner == END_USER))) - hurt
        for block, owner in nodes.cluster().blocks()
    )


def in_turn(story: Story) -> bool:
    """Whether end users are killed one after the other, each long after the next has begun to stand by."""
    kills = all(fault.kind == "kill" and fault.node == LATEST for fault in story.faults)
    far = all(later.at_s - before.at_s > 10 for before, later in pairwise(story.faults))
    return kills and far and story.sees_deaths


def judge(story: Story) -> None:
    """Raises Wrong, or what the nodes raise, where the story breaks a rule."""
    nodes = Succession(story, World())
    nodes.play()
    check(nodes)


def story_of(seed: int) -> Story:
    return with_standby(more_of(draw(seed)))


def tell(seed: int) -> str:
    return rules.tell(seed, story_of, judge)


def tell_many(seeds: range) -> list[str]:
    return rules.tell_many(seeds, tell)


if __name__ == "__main__":
    print(*tell_many(range(*map(int, sys.argv[1:]))), sep="\n")
