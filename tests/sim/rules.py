"""The rules of design.md, held against what came of a story."""

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from itertools import pairwise

from jarvis_mpi.common.layers import mask
from jarvis_mpi.protocol.cluster import Cluster
from jarvis_mpi.protocol.events import Token
from jarvis_mpi.protocol.node_state import Sign

from .model import ROW, Wrong, whole_texts
from .run import Outcome, cluster_of, play
from .shrink import as_test, shrink
from .story import Story, draw, more_of, turns
from .world import LIMIT_S

Judge = Callable[[Story], None]
PART = 250  # stories told by one process at a time


def check(outcome: Outcome) -> None:
    """Raises Wrong where a rule of the design is broken."""
    story, heard = outcome.story, outcome.heard
    texts = whole_texts(story)
    for sequence in {token.sequence: None for token in outcome.tokens}:
        check_text(outcome, sequence, texts[sequence])
    announced_at = first_announced(heard.changes)
    if outcome.ended == "text" and len(outcome.tokens) != sum(turn.tokens for turn in turns(story)):
        raise Wrong("the text ends early, and nobody says why")
    if must_be_exact(outcome) and (announced_at < LIMIT_S or outcome.ended != "text"):
        raise Wrong(f"rule 2 or 10: a copy was left, but: {outcome.ended}, {list(map(str, heard.changes))}")
    check_names(outcome)
    check_caches(outcome)
    check_resends(outcome)
    replay(outcome)
    comes_back(outcome)
    check_seconds(outcome)


def check_names(outcome: Outcome) -> None:
    """Who is said to be ill has been."""
    ill = {node for _, _, node, sign in outcome.heard.signs if sign is not Sign.BACK}
    for change in outcome.heard.changes:
        if change.sign is not Sign.BACK and change.node not in ill:
            raise Wrong(f"node {change.node} is said to be {change.sign.value}, and is well: {change}")


def check_caches(outcome: Outcome) -> None:
    """A stage begins a sequence once, and forgets it when all has been told that it is over."""
    story = outcome.story
    taken_back = story.guessed and not story.streams  # a turn broken off between tokens that came together
    began = (times for stage in outcome.stages.values() for times in stage.began.values())
    if story.journal_bytes > 10**5 and not taken_back and any(times > 1 for times in began):
        raise Wrong("rule 3: a stage began again")
    disturbed = story.faults or story.late or story.lost or story.tokens < 8 or story.streams
    if outcome.ended != "text" or disturbed:
        return
    for token in whole_tokens(outcome)[-1:]:
        for run in (run for run in token.pieces[-1].runs if not run.patch):
            if outcome.stages[run.node, run.block].caches.keys() - {token.sequence}:
                raise Wrong(f"node {run.node} keeps more than sequence {token.sequence}")


def check_resends(outcome: Outcome) -> None:
    story = outcome.story
    kills_only = all(fault.kind == "kill" for fault in story.faults)
    calm = story.sees_deaths and kills_only and not (story.lost or story.late or story.doubled)
    again = any(sign is Sign.MISSING for *_, sign in outcome.heard.signs)
    if calm and again and story.journal_bytes > 10**5:
        raise Wrong("rule 4: a step had to leave again, and no message was lost")


def check_seconds(outcome: Outcome) -> None:
    """No token takes longer than its faults let it."""
    story = outcome.story
    bound_s = 6 + sum(fault.for_s + 2.5 for fault in story.faults) + 4 * story.late_s * bool(story.late)
    bound_s += 40 * (any(fault.kind in ("stall", "slow") for fault in story.faults) or story.lost > 0)
    # Drafts take their time, and so do the others' steps and prompts.
    bound_s += story.layers * story.layer_s * (6 * bool(story.guessed) + 10 * max(story.streams - 1, 0))
    # A stage that forgot has all before it run again, time after time.
    forgets = story.journal_bytes < 10**5
    bound_s += (60 + 240 * bool(story.guessed or story.streams)) * forgets
    if outcome.gaps and max(outcome.gaps) > bound_s:
        raise Wrong(f"rule 7: a token took {max(outcome.gaps):.1f} s, at most {bound_s:.1f} s")


def whole_tokens(outcome: Outcome) -> list[Token]:
    """Those that no draft predicted."""
    return [token for token in outcome.tokens if token.pieces]


def first_announced(changes) -> float:
    """The first step from which on a text may differ."""
    return min((change.step for change in changes if change.to is None or change.inexact), default=LIMIT_S)


def check_text(outcome: Outcome, sequence: int, whole: Sequence[int], announced_before: bool = False) -> None:
    """Of one sequence: what was run is what was announced, and the text is one machine's until something
    was; `announced_before`: by an end user before."""
    story, heard = outcome.story, outcome.heard
    mine = [token for token in outcome.tokens if token.sequence == sequence]
    steps = {token.step for token in mine}
    everything = (1 << story.layers) - 1
    gone, patched = heard.begun[sequence]
    first, last = min(steps, default=0), max(steps, default=-1)
    announced = [  # a step whose token was not wanted any more is none of these
        change
        for change in heard.changes
        if change.step in steps or (not story.streams and first <= change.step <= last)
    ]
    announced_at = min(0 if gone or announced_before else LIMIT_S, first_announced(announced))
    changes = iter([*announced, None])
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
        left_again = [epoch for _, step, epoch, _ in heard.routes if step == token.step]
        epoch = token.pieces[-1].epoch
        if left_again and epoch != left_again[-1]:
            raise Wrong(f"rule 5: step {token.step} took a message of epoch {epoch}, not {left_again[-1]}")
    if [token.position for token in mine] != [
        at for at in range(len(whole)) if at in {t.position for t in mine}
    ]:
        raise Wrong(f"sequence {sequence} has positions {[token.position for token in mine]}")
    differs = next((token.step for token in mine if token.id != whole[token.position]), LIMIT_S)
    if differs < announced_at:
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
        for block, owner in Cluster(outcome.placement).blocks()
    )
    if untouched:
        return True
    kills = [fault for fault in story.faults if fault.kind == "kill"]
    apart = all(b.at_s - a.at_s > 4.0 for a, b in pairwise(kills))
    return story.copies >= 1 and story.room >= 100 and kills == list(story.faults) and apart


def replay(outcome: Outcome) -> None:
    """Rule 8: the decisions follow from the signs in the log."""
    story = outcome.story
    cluster = cluster_of(story, outcome.placement, outcome.copies)
    for kind, *what in outcome.heard.log:
        match kind:
            case "sign":
                cluster = cluster.with_event(*what)
            case "copy":
                cluster = cluster.with_copy(*what)
            case "route" if cluster.route() != what[0]:
                raise Wrong(f"rule 8: {cluster.route()} follows from the log, {what[0]} was taken")


def comes_back(outcome: Outcome) -> None:
    """Rule 6: a node that was away once, and is well again long before the end, does its own work at the
    end."""
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


def judge(story: Story) -> None:
    """Raises Wrong, or what the nodes raise, where the story breaks a rule."""
    check(play(story))


def wrong_with(story: Story, judge: Judge = judge) -> str:
    """'' if the story keeps all rules, else what is wrong."""
    try:
        judge(story)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def story_of(seed: int) -> Story:
    return more_of(draw(seed))


def tell(seed: int, story_of: Callable[[int], Story] = story_of, judge: Judge = judge) -> str:
    """'' if the story of this seed keeps all rules, else what is wrong, and how to see it again."""
    story = story_of(seed)
    wrong = wrong_with(story, judge)
    return f"seed {seed}: {wrong} | {story}" if wrong else ""


def reduced(seed: int) -> str:
    """A test with the fewest faults that show what is wrong with this seed's story; '' if nothing is."""
    story = story_of(seed)
    if not wrong_with(story):
        return ""
    story = shrink(story, wrong_with)
    return as_test(story, wrong_with(story))


def tell_many(seeds: range, tell: Callable[[int], str] = tell) -> list[str]:
    gc.freeze()  # what is imported
    gc.set_threshold(100_000)  # a story's circles are few, and go by the hundred
    return [wrong for seed in seeds if (wrong := tell(seed))]


def tell_all(count: int, tell_many: Callable[[range], list[str]] = tell_many) -> list[str]:
    """Tell the stories of all seeds below `count`, on all cores. -> what is wrong."""
    parts = [range(first, min(first + PART, count)) for first in range(0, count, PART)]
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=4) as pool:
        return [line for lines in pool.imap_unordered(tell_many, parts) for line in lines]
