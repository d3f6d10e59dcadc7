"""Drafts: guessed, checked, taken back. The text is the one without them."""

import math
import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from jarvis_mpi.model import draft_model
from jarvis_mpi.model.draft_model import AHEAD, CHOICES, DraftModel
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.protocol.cluster import Cluster, Hop
from jarvis_mpi.protocol.failure_detector import RESENDS, FailureDetector
from jarvis_mpi.protocol.node_state import Sign
from jarvis_mpi.protocol.prompt_lookup import PromptLookup
from jarvis_mpi.protocol.speculation import AdaptiveProposer, Times
from jarvis_mpi.protocol.steps_in_flight import Pace, Patience

# -- guesses


def test_what_followed_the_same_tokens_is_guessed():
    lookup = PromptLookup()
    text = [1, 2, 3, 4, 5, 9, 2, 3]
    assert lookup.kind(0, text) == 2
    assert lookup.guess(0, text, 3) == [4, 5, 9]
    assert lookup.kind(0, [*text, 4]) == 3
    assert lookup.kind(0, [7, 8, 9]) is None
    assert lookup.guess(0, [7, 8, 9, 7], 2) == [8, 9]
    assert lookup.guess(0, [6, 6, 6], 4) == [6, 6, 6, 6]


def test_a_text_that_was_taken_back_is_looked_through_anew():
    lookup = PromptLookup()
    assert lookup.guess(0, [1, 2, 3, 1, 2], 1) == [3]
    assert lookup.guess(0, [1, 2, 8, 1, 2], 1) == [8]


def test_seconds_of_a_step_are_as_they_were_lately_or_on_a_line():
    times, dice = Times(0.0), random.Random(0)
    for _ in range(200):
        drafts = dice.choice((0, 1, 2, 3, 4, 8))
        times.add(drafts, 0.2 + 0.01 * drafts + 0.1 * (drafts == 8) + dice.gauss(0, 0.003))
    times.add(3, 30.0)  # a fault: no step takes so long
    assert times.seconds(3) == pytest.approx(0.23, abs=0.01)
    assert times.seconds(8) == pytest.approx(0.38, abs=0.01)
    assert 0.23 < times.seconds(5) < 0.38


class Right:
    """AdaptiveProposer that are right so often."""

    guess_s = 0.0

    def follow(self, sequence, ids):
        pass

    def kind(self, sequence, ids):
        return "any"

    def guess(self, sequence, ids, most):
        return [0] * most

    def ahead(self, most):
        return False

    def over(self, sequence):
        pass


@pytest.mark.parametrize(
    ("share", "row_s", "least", "most"),
    [(0.95, 0.001, 6, 8), (0.5, 0.01, 1, 4), (0.05, 0.05, 0, 0.3), (0.9, 0.2, 0, 0.3)],
)
def test_as_many_travel_as_pay(share, row_s, least, most):
    """A step of 100 ms; each draft more takes `row_s`."""
    guesses, dice, counts = AdaptiveProposer(Right(), 8, row_s, lambda: 0.0), random.Random(1), []
    for _ in range(300):
        drafted = len(guesses.of(0, [1], 100))
        right = next((n for n in range(drafted) if dice.random() > share), drafted)
        guesses.seen(0, drafted, right, 0.1 + row_s * drafted)
        counts.append(drafted)
    assert least <= sum(counts[100:]) / 200 <= most


def test_nothing_is_guessed_ahead_while_a_step_comes_home_or_guesses_do_not_pay():
    now, done = [0.0], []

    class Slow(Right):
        guess_s = 0.03

        def ahead(self, most):
            done.append(now[0])
            return True

    guesses = AdaptiveProposer(Slow(), 2, 0.001, lambda: now[0])
    assert guesses.of(0, [1], 9) == ()
    assert guesses.ahead()  # the prompt is on its way
    guesses.seen(0, 0, 0, 1.0)
    assert guesses.of(0, [1], 9) == ()
    guesses.seen(0, 0, 0, 0.1)
    for right in (1, 2, 2, 2):
        drafted = len(guesses.of(0, [1], 9))
        left = now[0]
        assert guesses.ahead()
        now[0] = left + 0.05
        assert guesses.ahead()
        now[0] = left + 0.08  # it would come home in 20 ms
        assert not guesses.ahead()
        now[0] = left + 0.1
        guesses.seen(0, drafted, min(right, drafted), 0.1)
    for _ in range(300):
        if not (drafted := len(guesses.of(0, [1], 9))):
            break
        guesses.seen(0, drafted, 0, 0.1 + 0.05 * drafted)
    assert not drafted
    assert not guesses.ahead()


def test_a_draft_model_says_what_it_would_say_alone(small, monkeypatch):
    monkeypatch.setattr(draft_model, "WORTH", worth := 0.003)  # this model is sure of nothing
    text = Text(small)
    source = DraftModel(small, text, "small", "float32", "auto")
    model = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)

    def greedy(ids, count):
        more = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, eos_token_id=None)
        return more[0, len(ids) :].tolist()

    prompt = tuple(text.ids_of("why is the sky blue?"))
    source.follow(0, prompt)
    assert source.known[0].ran == ()
    assert source.ahead(4)
    assert source.known[0].ran == prompt
    while source.ahead(4):
        pass
    known = dict(source.known[0].coming)
    assert 1 < len(known) <= AHEAD * 4

    def chance(after):
        begins = [after[:end] for end in range(len(prompt), len(after))]
        return math.prod(dict(known[begin])[after[len(begin)]] for begin in begins)

    assert min(chance(after) for after in known) > worth
    for after, likely in known.items():
        shares = torch.softmax(model(torch.tensor([after])).logits[0, -1], -1)
        assert [token for token, _ in likely] == shares.topk(CHOICES).indices.tolist()
        assert [share for _, share in likely] == pytest.approx(shares.topk(CHOICES).values.tolist(), abs=1e-4)
    # What comes is one of those that it has looked behind: nothing is run for a guess.
    second = max(after for after in known if len(after) == len(prompt) + 1)
    source.look = lambda *_: pytest.fail("looked twice")
    assert list(source.guess(0, second, 1)) == greedy(second, 1)
    del source.look
    monkeypatch.setattr(draft_model, "SURE", 0.0)
    other = (*prompt, *greedy(prompt, 2), 5, 9)  # not what it guessed
    assert list(source.guess(0, other, 3)) == greedy(other, 3)
    assert list(source.guess(0, prompt, 1)) == greedy(prompt, 1)  # taken back
    monkeypatch.setattr(draft_model, "SURE", 1.0)
    other = (*other, 7)
    assert list(source.guess(0, other, 3)) == greedy(other, 1)  # more would have to be waited for
    source.over(0)
    assert not source.ahead(4)


def test_what_did_not_pay_is_tried_again_for_a_small_part_of_the_time():
    """A first draft that took as long as two steps does not count for ever; drafts that always do cost no more than a twentieth."""
    tokens_s = []
    for draft_s in (0.02, 0.2):
        guesses, dice, tokens, now = AdaptiveProposer(Right(), 1, 0.01, lambda: 0.0), random.Random(1), 0, 0.0
        for step in range(400):
            drafted = len(guesses.of(0, [1], 100))
            right = drafted and int(dice.random() < 0.6)
            seconds = 0.2 + drafted * (0.2 if step < 20 else draft_s)
            guesses.seen(0, drafted, right, seconds)
            tokens, now = tokens + 1 + right, now + seconds
        tokens_s.append(tokens / now)
    assert tokens_s[0] > 1.25 / 0.2
    assert tokens_s[1] > 0.95 / 0.2


# -- the failure detector


def test_a_step_that_was_overtaken_on_the_same_way_is_missing():
    cluster = Cluster({0: (range(1),), 1: (range(1, 2),), 2: (range(2, 3),)})
    hops = tuple(Hop(node, block) for block, node in cluster.blocks())
    detector = FailureDetector(cluster.holds, Patience(), {1: Pace(), 2: Pace()}, 0.0, 0.0)
    detector.steps.sent(0, hops, 1, 5, 0.0, more=False, again=False)
    detector.steps.sent(1, hops, 1, 7, 0.1, more=False, again=False)
    detector.step_returned(1, {1, 2}, 0.5, whole=True)
    for now in (0.6, 1.0, 1.4):
        detector.steps.sent(1, hops, 1, 8, now, more=False, again=False)
        detector.step_returned(1, {1, 2}, now, whole=True)
        assert detector.signs(cluster, now) == []
    assert detector.signs(cluster, 1.6) == [(0, Sign.MISSING, 0)]
    for again in range(RESENDS + 1):  # however often: nobody on the way is to blame
        now = 2.0 + 2 * again
        detector.steps.sent(0, hops, 2 + again, 5, now, more=False, again=True)
        detector.steps.sent(1, hops, 1, 9 + again, now, more=False, again=False)
        detector.step_returned(1, {1, 2}, now, whole=True)
        for node in (1, 2):
            detector.liveness[node].alive_at = now + 1.1
        assert detector.signs(cluster, now + 1.1) == [(0, Sign.MISSING, 0)]
