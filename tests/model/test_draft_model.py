"""A draft model: it guesses what it would say alone, in the tokens that the model knows."""

import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from jarvis_mpi.model import draft_model
from jarvis_mpi.model.draft_model import AHEAD, CHOICES, DraftModel
from jarvis_mpi.model.tokenizer import Text

pytestmark = pytest.mark.slow


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
    assert source.propose_ahead(4)
    assert source.known[0].ran == prompt
    while source.propose_ahead(4):
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
    source.finished(0)
    assert not source.propose_ahead(4)


@pytest.mark.parametrize("more", [-20, 16])
def test_a_draft_model_with_another_number_of_rows(small, tmp_path, monkeypatch, more):
    """As Qwen2.5's of 0.5 and of 7 billion have, which share a tokenizer; or a token was added to one."""
    text = Text(small)
    text.vocabulary = rows = len(AutoModelForCausalLM.from_pretrained(small).get_input_embeddings().weight)
    shutil.copytree(small, tmp_path / "draft")
    model = AutoModelForCausalLM.from_pretrained(small)
    model.resize_token_embeddings(rows + more, mean_resizing=False)
    model.get_output_embeddings().weight.data[rows:] *= 100  # what the model does not know is likeliest
    model.save_pretrained(tmp_path / "draft")
    source = DraftModel(tmp_path / "draft", text, "draft", "float32", "auto")
    monkeypatch.setattr(draft_model, "SURE", 0.0)
    monkeypatch.setattr(draft_model, "WORTH", 0.0)
    prompt = text.ids_of("why is the sky blue?")
    for ids in ([*prompt, rows - 25], [*prompt, rows - 1], [*prompt, rows - 25, 7]):
        source.follow(0, ids)
        assert bool(source.propose_ahead(4)) is (max(ids) < rows + more)
        if source.kind(0, ids):
            guessed = source.guess(0, ids, 4)
            assert len(guessed) == 4
            assert max(guessed) < rows
