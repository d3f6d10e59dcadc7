"""Drafts: guessed, checked, taken back. The text is the one without them."""

import random

import pytest
import tiny
import torch
from loopback import chain
from transformers import AutoModelForCausalLM

from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.sampler import Sampler
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.protocol.journal import Behind, Journalled
from jarvis_mpi.protocol.prompt_lookup import PromptLookup
from jarvis_mpi.protocol.speculation import NO_PROPOSALS, AdaptiveProposer, NoProposals, Times
from jarvis_mpi.protocol.wire import Kind, Message

pytestmark = pytest.mark.slow

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


def test_a_text_that_was_taken_back_is_looked_through_again():
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
    """A source that guesses as many tokens as it may."""

    guess_s = 0.0

    def follow(self, sequence, ids):
        pass

    def kind(self, sequence, ids):
        return "any"

    def guess(self, sequence, ids, most):
        return [0] * most

    def propose_ahead(self, most):
        return False

    def finished(self, sequence):
        pass


@pytest.mark.parametrize(
    ("share", "row_s", "least", "most"),
    [(0.95, 0.001, 6, 8), (0.5, 0.01, 1, 4), (0.05, 0.05, 0, 0.3), (0.9, 0.2, 0, 0.3)],
)
def test_as_many_travel_as_pay(share, row_s, least, most):
    """A step of 100 ms; each draft more takes `row_s`."""
    guesses, dice, counts = AdaptiveProposer(Right(), 8, row_s, lambda: 0.0), random.Random(1), []
    for _ in range(300):
        drafted = len(guesses.propose(0, [1], 100))
        right = next((n for n in range(drafted) if dice.random() > share), drafted)
        guesses.observe(0, drafted, right, 0.1 + row_s * drafted)
        counts.append(drafted)
    assert least <= sum(counts[100:]) / 200 <= most


def test_nothing_is_guessed_ahead_while_a_step_comes_home_or_guesses_do_not_pay():
    now, done = [0.0], []

    class Slow(Right):
        guess_s = 0.03

        def propose_ahead(self, most):
            done.append(now[0])
            return True

    guesses = AdaptiveProposer(Slow(), 2, 0.001, lambda: now[0])
    assert guesses.propose(0, [1], 9) == ()
    assert guesses.propose_ahead()  # the prompt is on its way
    guesses.observe(0, 0, 0, 1.0)
    assert guesses.propose(0, [1], 9) == ()
    guesses.observe(0, 0, 0, 0.1)
    for right in (1, 2, 2, 2):
        drafted = len(guesses.propose(0, [1], 9))
        left = now[0]
        assert guesses.propose_ahead()
        now[0] = left + 0.05
        assert guesses.propose_ahead()
        now[0] = left + 0.08  # it would come home in 20 ms
        assert not guesses.propose_ahead()
        now[0] = left + 0.1
        guesses.observe(0, drafted, min(right, drafted), 0.1)
    for _ in range(300):
        if not (drafted := len(guesses.propose(0, [1], 9))):
            break
        guesses.observe(0, drafted, 0, 0.1 + 0.05 * drafted)
    assert not drafted
    assert not guesses.propose_ahead()


def test_what_did_not_pay_is_tried_again_for_a_small_part_of_the_time():
    """A first draft that took as long as two steps does not count for ever; drafts that always do cost no
    more than a twentieth."""
    tokens_s = []
    for draft_s in (0.02, 0.2):
        guesses, dice, tokens, now = AdaptiveProposer(Right(), 1, 0.01, lambda: 0.0), random.Random(1), 0, 0.0
        for step in range(400):
            drafted = len(guesses.propose(0, [1], 100))
            right = drafted and int(dice.random() < 0.6)
            seconds = 0.2 + drafted * (0.2 if step < 20 else draft_s)
            guesses.observe(0, drafted, right, seconds)
            tokens, now = tokens + 1 + right, now + seconds
        tokens_s.append(tokens / now)
    assert tokens_s[0] > 1.25 / 0.2
    assert tokens_s[1] > 0.95 / 0.2


# -- caches and journals


def test_a_text_taken_back_is_run_again_from_there():
    """What a stage was sure of on another branch of the text does not count on this one."""

    class Echo:
        def __init__(self):
            self.cropped = []

        def run(self, body, start, sequence):
            return bytes(body)

        def crop(self, sequence, end):
            self.cropped.append(end)
            return True

        def forget(self, sequence):
            pass

    def message(step, start, body, first=None, drafted=0, branch=0):
        first = start if first is None else first
        return Message(Kind.STEP, 0, 0, step, start, len(body), first, drafted, branch, body=body)

    stage = Echo()
    held = Journalled(stage, range(3), 10**6)
    held.run(message(0, 0, b"abc"), 2)
    held.run(message(1, 3, b"dXY", drafted=2), 3)  # it is sure of d
    held.run(message(4, 3, b"dez", first=5), 5)  # away meanwhile: it is sent what the end user knows it lacks
    assert stage.cropped == [4]
    assert bytes(held.journals[0].rows) == b"abcdez"
    held.run(message(5, 2, b"CD", first=2, branch=1), 3)
    assert stage.cropped == [4, 2]
    assert bytes(held.journals[0].rows) == b"abCD"
    with pytest.raises(Behind):
        held.run(message(6, 9, b"q", branch=1), 9)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_a_stage_forgets_positions_beyond_its_window_too(family, tmp_path):
    folder = tiny.make(family, tmp_path)
    torch.manual_seed(0)
    rows = torch.randn(60, 32)

    def run(stage, first, end):
        return stage.run(rows[first:end].contiguous().numpy().tobytes(), first)

    plain, back = (Stage(folder, range(tiny.LAYERS), torch.float32) for _ in range(2))
    for stage in (plain, back):
        run(stage, 0, 20)
    for start in range(20, 40):
        wrong = torch.randn(5, 32).numpy().tobytes()
        back.run(wrong, start)
        assert back.crop(0, start)
        one, other = (
            torch.frombuffer(bytearray(run(s, start, start + 1)), dtype=torch.float32) for s in (plain, back)
        )
        torch.testing.assert_close(one, other)


# -- whole chains


class Sometimes(NoProposals):
    """Guesses that are right, wrong and right again; of any length."""

    def __init__(self, answer):
        self.answer, self.dice, self.right = answer, random.Random(3), 0

    def propose(self, sequence, ids, most):
        coming = self.answer[len(ids) :][: min(most, self.dice.randint(0, 6))]
        return [token if self.dice.random() < 0.7 else (token + 1) % 97 for token in coming]

    def observe(self, sequence, drafted, right, seconds):
        self.right += right


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma3_text", "qwen2", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.5, marks=pytest.mark.very_slow)])
def test_the_text_is_the_one_without_drafts(family, temperature, tmp_path):
    folder = tiny.make(family, tmp_path)
    prompt = [1, 5, 9, 17, 33, 2 + 40, 60, 11, 12, 13, 14]
    choose = Sampler(Settings(prompt="x", temperature=temperature, seed=5)).choose

    def ids_with(drafts):
        with chain(
            Head(folder, torch.float32),
            {
                n: {range(2 * n, 2 * n + 2): Stage(folder, range(2 * n, 2 * n + 2), torch.float32)}
                for n in range(3)
            },
            choose,
            drafts=drafts,
        ) as asker:
            return [token.id for token in asker.generate(prompt, 50, set())]

    plain = ids_with(NO_PROPOSALS)
    drafts = Sometimes([*prompt, *plain])
    assert ids_with(drafts) == plain
    assert drafts.right > 10
    if not temperature:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ids = model.generate(
            torch.tensor([prompt]), max_new_tokens=50, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert plain == ids[0, len(prompt) :].tolist()
