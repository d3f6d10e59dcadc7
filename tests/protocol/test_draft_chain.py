"""Drafts in whole chains: caches and journals forget what was guessed wrong, and no text changes."""

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
from jarvis_mpi.protocol.speculation import NO_PROPOSALS, NoProposals
from jarvis_mpi.protocol.wire import Kind, Message

# -- caches and journals


def test_a_text_taken_back_is_run_anew_from_there():
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
    """AdaptiveProposer that are right, wrong and right again; of any length."""

    def __init__(self, answer):
        self.answer, self.dice, self.right = answer, random.Random(3), 0

    def of(self, sequence, ids, most):
        coming = self.answer[len(ids) :][: min(most, self.dice.randint(0, 6))]
        return [token if self.dice.random() < 0.7 else (token + 1) % 97 for token in coming]

    def seen(self, sequence, drafted, right, seconds):
        self.right += right


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma3_text", "qwen2", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_text_is_the_one_without_drafts(family, temperature, tmp_path):
    folder = tiny.make(family, tmp_path)
    prompt = [1, 5, 9, 17, 33, 2 + 40, 60, 11, 12, 13, 14]
    choose = Sampler(Settings(prompt="x", temperature=temperature, seed=5)).choose

    def said(drafts):
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

    plain = said(NO_PROPOSALS)
    drafts = Sometimes([*prompt, *plain])
    assert said(drafts) == plain
    assert drafts.right > 10
    if not temperature:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ids = model.generate(
            torch.tensor([prompt]), max_new_tokens=50, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert plain == ids[0, len(prompt) :].tolist()
