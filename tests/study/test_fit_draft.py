"""A draft model made of some of a model's layers: its lessons, its training, and a run with it."""

import pytest
import tiny
import torch
from running import assert_refused, fit_it, mpirun, tokens_of, words_for

from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.study import distillation
from jarvis_mpi.study.distillation import Lesson
from jarvis_mpi.study.fit_draft import taken
from jarvis_mpi.study.whole_model import read

pytestmark = pytest.mark.slow

QUESTIONS = [
    f"{a} {b}" for a in ("why", "what is", "who") for b in ("a", "bc", "def", "the moon", "rain", "7")
] * 3


def test_the_middle_is_left_out():
    assert taken(30, 4) == [0, 1, 28, 29]
    assert taken(5, 3) == [0, 1, 4]
    assert taken(5, 1) == [0]


def test_answers_are_what_the_model_says_to_each_question_alone(small):
    model, text = read(small, torch.float32), Text(small)
    answered = distillation.answers(model, text, QUESTIONS, 12, lambda _: None)
    for question, lesson in zip(QUESTIONS, answered, strict=True):
        ids = text.ids_of(question)
        assert lesson.ids[: lesson.begin] == ids
        for at in range(len(ids), len(lesson.ids)):
            logits = model(torch.tensor([lesson.ids[:at]])).logits[0, -1]
            assert logits[lesson.ids[at]] > logits.max() - 1e-4
        assert len(lesson.ids) == len(ids) + 12 or lesson.ids[-1] in text.end_ids


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt2", "qwen3"])
def test_some_layers_are_those_of_the_model(family, tmp_path):
    folder = tiny.make(family, tmp_path / "model")
    model, ids = read(folder, torch.float32), torch.arange(20)[None]
    states = model(ids, output_hidden_states=True)
    whole = distillation.some_layers(model, folder, range(6))
    assert torch.equal(whole(ids).logits, states.logits)
    first = distillation.some_layers(model, folder, range(2))
    batch = distillation.TrainingBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    rows = distillation.states(first, batch)
    assert torch.allclose(distillation.logits(first, rows), first(ids).logits[0], atol=1e-5)
    name, _ = distillation.decoder_layers(first)
    seen = []
    first.get_submodule(name)[-1].register_forward_hook(lambda _, args, out: seen.append(out))
    first(ids)
    out = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.allclose(out, states.hidden_states[2], atol=1e-5)


def lessons() -> list[Lesson]:
    dice = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 97, (length,), generator=dice).tolist() for length in range(12, 36)]
    return [Lesson(each, 4) for each in ids]


def test_only_the_answers_tokens_are_learnt_however_they_are_put_together():
    batches = list(distillation.batches(lessons(), 100))
    assert sorted(len(lesson.ids) for batch in batches for lesson in batch) == list(range(12, 36))
    for some in batches:
        batch = distillation.together(some)
        assert batch.ids.numel() <= 100
        for lesson, ids, is_answer in zip(some, batch.ids, batch.is_answer, strict=True):
            wanted = ids.roll(-1)[is_answer].tolist()
            assert wanted == lesson.ids[lesson.begin :]


def test_the_gradient_is_that_of_the_divergence(tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "ROWS", 3)
    model = read(tiny.make("gemma2", tmp_path / "model"), torch.float32)
    ours, theirs = torch.randn(2, 8, 32)
    rows = ours.clone().requires_grad_()
    aim = torch.log_softmax(distillation.logits(model, theirs), -1)
    guessed = torch.log_softmax(distillation.logits(model, rows), -1)
    (aim.exp() * (aim - guessed)).sum(-1).mean().backward()
    assert torch.allclose(distillation.gradient(model, model, ours, theirs), rows.grad, atol=1e-6)


def divergence(pupil, model) -> float:
    batch = distillation.together(lessons())
    ours, aim = (
        torch.log_softmax(distillation.logits(each, distillation.states(each, batch)), -1)
        for each in (pupil, model)
    )
    return (aim.exp() * (aim - ours)).sum(-1).mean().item()


def test_it_learns_and_the_embedding_stays(tmp_path):
    folder = tiny.make("llama", tmp_path / "model")
    model = read(folder, torch.float32)
    pupil = distillation.some_layers(model, folder, [0, 5])
    before, embedding = divergence(pupil, model), pupil.get_input_embeddings().weight.clone()
    passes: list[int] = []
    distillation.learn(pupil, model, lessons(), 80, 3e-3, lambda _: None, passes.append)
    assert passes == list(range(1, 81))
    assert divergence(pupil, model) < before / 2
    assert torch.equal(pupil.get_input_embeddings().weight, embedding)


# -- the command


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_a_run_drafts_with_what_was_made(small, tmp_path):
    (tmp_path / "q.txt").write_text("\n".join(QUESTIONS))
    out = tmp_path / "made" / "draft"
    done = fit_it(
        "--model", str(small), "--prompts", str(tmp_path / "q.txt"), "--layers", "3", "--answer-tokens", "12",
        "--passes", "2", "--out", str(out), command="fit-draft",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 of 6 layers" in done.stderr
    tokens = []
    for draft in ([], ["--draft", str(out)]):
        log = tmp_path / f"{len(tokens)}.h5"
        done = mpirun(3, *words_for(small, log, *draft, "--ignore-eos", "--max-new-tokens", "24"))
        assert done.returncode == 0, done.stderr.decode()
        tokens.append(tokens_of(log))
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--prompts", "/nowhere"], "/nowhere cannot be read"),
        (["--prompts", "hostfiles/local"], "give it 40 or more"),
        (["--prompts", "README.md", "--layers", "6"], "--layers 6 of a model that has 6"),
        (["--prompts", "README.md", "--passes", "0"], "--passes is 0, but must be at least 1"),
        (["--prompts", "README.md", "--model", "none"], "there is no model 'none'"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(small, tmp_path, words, sentence):
    assert_refused(sentence, small, tmp_path / "d", *words, command="fit-draft")
