"""Thousands of stories of faults: the rules of the design hold in each, and the simulation notices what
breaks them."""

import os
from dataclasses import replace

import pytest
import sim
from sim.planted import noticed

from jarvis_mpi.protocol.cluster import Cluster
from jarvis_mpi.protocol.node_state import Sign

pytestmark = pytest.mark.slow

SEEDS = int(os.environ.get("JARVIS_SEEDS", "10000"))


def test_the_rules_hold_for_every_seed():
    if wrong := sim.tell_all(SEEDS):
        seed = int(wrong[0].split(":")[0].removeprefix("seed "))
        pytest.fail("\n".join([*wrong[:20], "The first one as a test:", sim.reduced(seed)]))


@pytest.mark.parametrize("seed", [16388, 17003, 18483, 28439, 38270, 76050])
def test_what_100_000_seeds_once_found_stays_mended(seed):
    """A copy ordered too late (while a step was being mended), and caches that lacked a layer without a
    word."""
    sim.check(sim.play(sim.draw(seed)))


def test_a_node_that_sends_nonsense_is_not_used_again():
    """Whatever else happens: the end user does not fall, and all rules hold."""
    garbled = 0
    for seed in range(300):
        story = sim.more_of(sim.draw(seed))
        node, at_s = 1 + seed % story.workers, 0.05 * (seed % 40)
        outcome = sim.play(replace(story, faults=(*story.faults, sim.Fault(at_s, "babble", node))))
        sim.check(outcome)
        signs = {(seen, sign) for _, _, seen, sign in outcome.heard.signs}
        garbled += (node, Sign.GARBLED) in signs
        assert not any(sign is Sign.GARBLED for seen, sign in signs if seen != node)
    assert garbled > 150


def test_a_seed_gives_the_same_story_and_the_same_run_again():
    def run(seed):
        outcome = sim.play(sim.more_of(sim.draw(seed)))
        return [token.id for token in outcome.tokens], outcome.heard.log, outcome.seconds

    for seed in range(40):
        assert run(seed) == run(seed)


def test_stories_have_every_fault_and_every_answer_to_it():
    """A rule that no story puts to the test would hold for nothing."""
    seen = set()
    for seed in range(800):
        outcome = sim.play(sim.more_of(sim.draw(seed)))
        seen |= {sign.name for *_, sign in outcome.heard.signs}
        seen |= {
            "skip" if c.to is None else "back" if c.to == c.node else "copy" for c in outcome.heard.changes
        }
        seen |= {"inexact"} if any(change.inexact for change in outcome.heard.changes) else set()
        seen |= {"restored"} if any(kind == "copy" for kind, *_ in outcome.heard.log) else set()
        seen |= {"sentence"} if outcome.ended != "text" else set()
        seen |= {"exact"} if outcome.heard.changes and sim.must_be_exact(outcome) else set()
    everything = {"LOST", "SILENT", "STALLED", "STUCK", "BACK", "MISSING"}
    everything |= {"skip", "back", "copy", "inexact", "restored", "sentence", "exact"}
    assert everything <= seen, everything - seen


def test_a_wrong_story_is_reduced_to_its_fewest_faults_as_a_test(monkeypatch):
    """Planted: only the owner of a block runs it, never a copy."""
    holder = Cluster.holder
    monkeypatch.setattr(Cluster, "holder", lambda cluster, *who: holder(replace(cluster, copies={}), *who))
    seeds = (seed for seed in range(1000) if len(sim.more_of(sim.draw(seed)).faults) > 2)
    seed = next(seed for seed in seeds if "rule 2 or 10" in sim.tell(seed))
    script = sim.reduced(seed)
    assert 1 <= script.count("sim.Fault(") <= 2, script
    names: dict = {"sim": sim}
    exec(script, names)
    test = names[f"test_the_story_of_seed_{seed}"]
    with pytest.raises(AssertionError, match="rule 2 or 10"):
        test()
    monkeypatch.undo()
    test()


BROKEN = {
    "a worker does not check the epoch": ("protocol/worker",
                                          "message.epoch < self.epochs.get(sequence, 0) or ", "", "rule 5"),
    "the end user does not check the epoch": ("protocol/dispatch", "request.step.epoch == epoch", "True",
                                              "rule"),
    "a step is run twice": ("protocol/journal", "new = message.end - journal.end", "new = message.rows",
                            "rule 3"),
    "a catch-up sends one row too few": (
        "protocol/journal",
        "journal.since(since) + out",
        "journal.since(since + 1) + out",
        "",
    ),
    "a catch-up is off by one": ("protocol/progress", "0), since_home)", "0) + 1, since_home)", "rule"),
    "a wrong announcement": ("protocol/route_changes", "owner, to = self.owners[block], now.get(block)",
                             "owner, to = self.owners[block], before", "rule 1"),
    "silence has no deadline": ("protocol/failure_detector", "case State.UP if quiet_s > self._borne_s()",
                                "case State.UP if False", "rule 7"),
    "progress has no deadline": ("protocol/failure_detector", "if node is None or not step.hops", "if True",
                                 "rule 7"),
    "a copy is not used": ("protocol/cluster", "for node in (owner, *copies):", "for node in (owner,):",
                           "rule 2"),
    "nobody comes back": ("protocol/failure_detector", "return Sign.BACK", "return None", "rule 6"),
    "a copy is not replaced": ("protocol/reserves", "for _ in range(policy.copies + 1 - len(well))",
                               "for _ in ()", "rule 2 or 10"),
    "a beating worker is skipped": ("protocol/cluster", "for state in (State.UP, State.STALLED)",
                                    "for state in (State.UP,)", "rule 2 or 10"),
    "drafts that were wrong stay in the progress": ("protocol/verification",
                                                    "request.progress.crop(request.ran)", "pass", "rule"),
    "drafts that were wrong stay in the caches": ("protocol/journal", "if end < journal.end:", "if False:",
                                                  "rule"),
    "drafts of an older step are sure": ("protocol/journal", "journal.sure = message.end - message.drafted",
                                         "journal.sure = message.end", "rule 2"),
    "all of a round is taken": ("protocol/verification", " or token != step.drafts[row]", "", "rule 2"),
    "a worker keeps the caches of another text": ("protocol/worker", "self.forget(sequence)", "pass",
                                                  "keeps more than"),
    "what is late begins a text again": ("protocol/worker", " or sequence in self.over:", ":", ""),
    "a patch that is not announced": ("protocol/route_changes", "by = patched[block].node if span else None",
                                      "by = None", "rule 1"),
    "a decision that is not in the log": (
        "protocol/coordinator", "self.services.observer.sign(self.clock(), step, node, sign)", "pass",
        "rule 8",
    ),
}  # fmt: skip


# Noticed after thousands of stories only: a quarter of a minute each, and more.
SELDOM = {
    "silence has no deadline", "a catch-up is off by one", "drafts that were wrong stay in the progress",
    "progress has no deadline", "drafts that were wrong stay in the caches", "a beating worker is skipped",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.very_slow if name in SELDOM else ()) for name in BROKEN],
)
def test_what_is_broken_on_purpose_is_noticed(name, tmp_path):
    module, old, new, rule = BROKEN[name]
    shown = noticed(tmp_path, "sim", 150, module, old, new)
    assert rule in shown, shown
