"""Real mpirun, as a person uses it: a chat through a pipe and in a terminal, a file of prompts, lines of
JSON."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from places import ROOT
from running import (
    MARK,
    assert_nothing_is_left,
    events,
    kill,
    mpirun,
    needs_gemma,
    processes,
    sentence,
    words_for,
)
from transformers import AutoModelForCausalLM

from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.record.reader import load

pytestmark = pytest.mark.mpirun

TURNS = ["Name a sea animal.", "What does it eat? 世界 🐟", "And who eats it?"]
LIMIT_S = 120


def command(ranks: int, *words: str) -> list[str]:
    limited = ["timeout", "-k", "5", str(LIMIT_S), "mpirun", "-hostfile", "hostfiles/local", "-n", str(ranks)]
    return [*limited, sys.executable, "-m", "jarvis_mpi", *words]


def piped(typed: bytes, ranks: int, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(ranks, *words), input=typed, capture_output=True, cwd=ROOT, timeout=LIMIT_S + 30,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "JARVIS_TEST": MARK},
    )  # fmt: skip


@pytest.mark.parametrize(
    "model",
    ["smollm2-135m-instruct", pytest.param("gemma-3-270m", marks=[needs_gemma, pytest.mark.very_slow])],
)
def test_a_chat_through_a_pipe_says_what_one_process_says_without_caches(model, tmp_path):
    """SmolLM2 chats through its template, Gemma 3 270M is a base model and goes on with the text."""
    folder = checkpoint.locate(model)
    log, count = tmp_path / "run.h5", 16
    words = ("--model", model, "--dtype", "float32", "--max-new-tokens", str(count), "--log", str(log))
    done = piped("\n".join(TURNS).encode(), 4, *words)
    assert done.returncode == 0, done.stderr.decode()
    text, one = Text(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids: list[int] = []
    answered, asked_for = [], [json.loads(event) for event in events(log, "asked")]
    for turn, asked in zip(TURNS, asked_for, strict=True):
        ids = text.after(ids, turn)
        assert asked["ids"] == ids
        whole = torch.tensor([ids])
        answer = one.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            max_new_tokens=count,
            do_sample=False,
            use_cache=False,
        )
        answered.append(answer[0, whole.shape[1] :].tolist())
        text.add_turn(turn, text.decode(answered[-1]))
        ids = answer[0].tolist()
        if ids[-1] in text.end_ids:
            ids.pop()
    run = load(log)
    assert run.tokens["token"].tolist() == [token for answer in answered for token in answer]
    # Nobody ran a position twice, and all but the last token of all were run.
    for node in range(1, 4):
        mine = run.hops[run.hops["node"] == node]
        assert mine["rows"].sum() in (len(ids) - 1, len(ids))  # an end token is no part of the text
    answers = [text.tokenizer.decode(answer, skip_special_tokens=True) for answer in answered]
    assert done.stdout.decode() == "".join(f"{answer}\n" for answer in answers)


def test_a_pipe_ends_a_chat_and_what_cannot_be_answered_is_named(small, tmp_path):
    words = words_for(small, tmp_path / "run.h5")
    del words[2:4]  # --prompt
    done = piped(b"abc\n/route\n\xff\n" + b"x" * 200 + b"\n/nonsense\n//slash", 3, *words)
    errors = done.stderr.decode()
    assert done.returncode == 1, errors
    assert "a line is not UTF-8 text" in errors
    assert "tokens, the model takes 128: /reset begins a new conversation" in errors
    assert "/nonsense is no command" in errors
    assert "3 lines could not be answered" in errors
    asked = [json.loads(event) for event in events(tmp_path / "run.h5", "asked")]
    assert [each["prompt"] for each in asked] == ["abc", "/slash"]
    assert_nothing_is_left()


def test_a_file_of_200_prompts_is_answered_in_order_but_for_the_bad_one(small, tmp_path):
    asked = [f"prompt {number}" for number in range(200)]
    asked[77] = "x" * 500
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(asked))
    words = words_for(small, tmp_path / "run.h5", "--prompts", str(file), "--max-new-tokens", "3")
    del words[2:4]
    done = mpirun(3, *words)
    assert done.returncode == 1, done.stderr.decode()
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [(line["line"], line["prompt"]) for line in lines] == list(enumerate(asked, 1))
    assert lines[77].keys() == {"line", "prompt", "error"}
    assert lines[77]["error"] == "the prompt has 500 tokens, the model takes 128: shorten it"
    assert all(0 < line["tokens"] <= 3 for line in lines if "error" not in line)
    assert "1 of 200 prompts could not be answered" in done.stderr.decode()
    alone = mpirun(
        2, *words_for(small, tmp_path / "alone.h5", "--prompt", asked[199], "--max-new-tokens", "3")
    )
    assert alone.stdout.decode() == lines[199]["text"] + "\n"


def test_answers_in_flight_with_drafts_are_those_of_one_at_a_time_whoever_dies(small, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"prompt {number % 5} {number}" for number in range(12)))

    def answers(log, *more):
        words = words_for(
            small, tmp_path / log, "--prompts", str(file), "--max-new-tokens", "24", "--ignore-eos", *more
        )
        del words[2:4]
        done = mpirun(4, *words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    alone = answers("alone.h5", "--streams", "1")
    many = answers("many.h5", "--streams", "5", "--draft", "text", "--fault", "kill 2 @ 20")
    assert many == alone
    run = load(tmp_path / "many.h5")
    assert [question.sequence for question in run.questions] == list(range(12))
    assert all(len(question.tokens) == 24 for question in run.questions)
    assert [json.loads(line)["text"] for line in many.splitlines()] == [each.text for each in run.questions]
    turns = (run.tokens["sequence"][1:] != run.tokens["sequence"][:-1]).sum()
    assert turns > 60, "they were not in flight together"
    assert any("node 2 lost" in event.text for event in run.events if event.event == "rerouted")


def test_the_record_has_every_answer_when_the_end_user_dies(small, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("again\n" * 100000)
    words = words_for(small, tmp_path / "run.h5", "--prompts", str(file), "--standby", "0")
    del words[2:4]
    with subprocess.Popen(
        command(3, *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "JARVIS_TEST": MARK},
    ) as run:  # fmt: skip
        seen = [run.stdout.readline() for _ in range(5)]
        kill(processes(rank=0))
        seen += run.communicate(timeout=60)[0].splitlines(keepends=True)
    numbers = [json.loads(line)["line"] for line in seen if line.endswith(b"\n")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(events(tmp_path / "run.h5", "answered")) >= len(numbers) >= 5
    assert_nothing_is_left()


def test_json_tells_programs_what_a_screen_tells_people(small, tmp_path):
    words = words_for(small, tmp_path / "run.h5", "--json", "--fault", "kill 2 @ 3", "--skip-layers", "2")
    done = mpirun(4, *words)
    assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[:3] == ["loaded"] * 3
    assert kinds[-1] == "summary"
    assert [row["state"] for row in lines[-1]["nodes"]] == ["up", "up", "lost", "up"]
    assert lines[3]["text"] == "layers 2 are left out (counted from 1; elsewhere layers count from 0)"
    answer = next(line for line in lines if line["event"] == "answer")
    shown = "".join(line["text"] for line in lines if line["event"] == "token")
    # What is held back while it may become a character is in the answer alone.
    assert answer["text"].rstrip("\ufffd") == shown
    assert any(line["event"] == "notice" and "node 2 lost" in line["text"] for line in lines)
    assert (answer["tokens"], answer["ended"]) == (8, "length")


@pytest.mark.very_slow
def test_an_answer_ends_before_the_text_that_is_to_stop_it(small, tmp_path):
    whole = mpirun(2, *words_for(small, tmp_path / "whole.h5")).stdout.decode()
    stop = whole.strip("\n")[3:5]
    done = mpirun(2, *words_for(small, tmp_path / "run.h5", "--stop", stop))
    assert done.stdout.decode() == whole[: whole.index(stop)] + "\n"
    assert events(tmp_path / "run.h5", "answered") == ["stop"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--prompts", "/nowhere/prompts"], "--prompts /nowhere/prompts cannot be read: No such file"),
        pytest.param(
            ["--skip-layers", "0"],
            "--skip-layers '0' is not layers from 1 to 6",
            marks=pytest.mark.very_slow,
        ),
        (["--skip-layers", "1,2,3,4,5,6"], "--skip-layers '1,2,3,4,5,6' leaves no layer"),
        (["--prompt", os.fsdecode(b"\xff")], "--prompt is not UTF-8 text"),
        (["--repetition-penalty", "-1"], "--repetition-penalty is -1.0, but must be between"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(small, tmp_path, words, expected):
    run = words_for(small, tmp_path / "run.h5", *words)
    if "--prompts" in words:
        del run[2:4]
    begun = time.monotonic()
    assert expected in sentence(mpirun(3, *run))
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "run.h5").exists()


def changed_config(folder: Path) -> str:
    """The layers' tensors are of another shape then."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    return "but its config asks for"


def missing_shard(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return "model-2.safetensors is missing, but"


@pytest.mark.parametrize("damage", [changed_config, missing_shard])
def test_a_damaged_model_is_one_sentence_within_seconds(small, damage, tmp_path):
    damaged = shutil.copytree(small, tmp_path / "damaged")
    expected, begun = damage(damaged), time.monotonic()
    assert expected in sentence(mpirun(3, *words_for(damaged, tmp_path / "run.h5")))
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "run.h5").exists()


def test_a_folder_without_a_config_and_one_without_weights_are_one_sentence(small, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is no model: it has no config.json" in sentence(
        mpirun(3, *words_for(tmp_path / "empty", tmp_path / "a.h5"))
    )
    (tmp_path / "empty" / "config.json").write_text((small / "config.json").read_text())
    assert "has neither model.safetensors nor" in sentence(
        mpirun(3, *words_for(tmp_path / "empty", tmp_path / "b.h5"))
    )
