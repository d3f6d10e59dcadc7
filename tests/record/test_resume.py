"""Resumed runs: what was cut off continues to the same text, and what cannot be resumed is one sentence."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from places import RECORDS
from running import (
    assert_nothing_is_left,
    kill,
    mpirun,
    processes,
    sentence,
    start,
    words_for,
)

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.record import replay
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.record_file import reopened

pytestmark = pytest.mark.slow


def killed_after(tokens: int, run: subprocess.Popen, log: Path) -> bytes:
    """Kill the end user of a run that is stalled after so many tokens. -> what had been shown."""
    end = time.monotonic() + 60
    while not log.exists() or len(load(log).tokens) != tokens:
        assert time.monotonic() < end
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    kill(processes(rank=0))
    shown, _ = run.communicate(timeout=60)
    assert_nothing_is_left()
    return shown


def cut_off(small: Path, log: Path, *more: str, ranks: int = 3) -> bytes:
    """A run whose end user is killed during token 5. -> what had been shown."""
    words = words_for(
        small,
        log,
        "--standby",
        "0",
        "--copies",
        "0",
        "--ignore-eos",
        "--fault",
        "stall 1 @ 5 for 5s",
        "--progress-s",
        "90",
        *more,
    )
    run = start(ranks, *words)
    return killed_after(5, run, log)


@pytest.mark.mpirun
def test_a_run_whose_end_user_died_goes_on_to_the_same_text(small, tmp_path):
    draws = ("--temperature", "1.5", "--seed", "3")  # greedy: a file of prompts, below
    whole = mpirun(3, *words_for(small, tmp_path / "whole.h5", "--ignore-eos", *draws))
    log = tmp_path / "run.h5"
    shown = cut_off(small, log, *draws)
    assert whole.stdout.startswith(shown.rstrip(b"\n"))
    done = mpirun(2, "--resume", str(log))  # with one node less
    assert done.returncode == 0, done.stderr.decode()
    assert "is resumed: 0 answered, the next after 5 tokens" in done.stderr.decode()
    assert done.stdout == whole.stdout
    run, reference = load(log), load(tmp_path / "whole.h5")
    assert run.tokens["token"].tolist() == reference.tokens["token"].tolist()
    assert run.ended == "done"
    assert [question.text for question in run.questions] == [
        question.text for question in reference.questions
    ]
    assert (np.diff(run.tokens["at_s"]) > 0).all()
    assert not any("NOT" in line for line in replay.replayed(log))
    again = mpirun(3, "--resume", str(log))
    assert (again.returncode, again.stdout) == (0, whole.stdout)
    assert "is done: there is nothing to resume" in again.stderr.decode()
    again = mpirun(3, "--resume", str(log), "--json")
    (line,) = map(json.loads, again.stdout.splitlines())
    assert (line["event"], f"{line['text']}\n".encode()) == ("answer", whole.stdout)


@pytest.mark.mpirun
def test_a_file_of_prompts_is_gone_on_with_where_it_was_cut_off(small, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(["first", "x" * 500, "second", "third"]))
    asked = ("--prompts", str(file), "--max-new-tokens", "3")
    words = words_for(small, tmp_path / "whole.h5", *asked)
    del words[2:4]  # --prompt
    whole = mpirun(3, *words)
    log = tmp_path / "run.h5"
    words = words_for(
        small, log, *asked, "--standby", "0", "--copies", "0", "--fault", "stall 1 @ 4 for 5s",
        "--progress-s", "90",
    )  # fmt: skip
    del words[2:4]
    run = start(3, *words)
    killed_after(4, run, log)
    done = mpirun(3, "--resume", str(log))
    assert done.returncode == whole.returncode == 1  # for the one that is too long
    assert done.stdout == whole.stdout
    assert load(log).ended == "done"
    again = mpirun(2, "--resume", str(log))
    assert (again.returncode, again.stdout) == (1, whole.stdout)
    file.write_text("another\nfile")
    shutil.copy(log, tmp_path / "copy.h5")
    with h5py.File(tmp_path / "copy.h5", "r+") as record:
        record["events"].resize(len(record["events"]) - 1, axis=0)  # without its mark
    errors = mpirun(2, "--resume", str(tmp_path / "copy.h5")).stderr.decode()
    assert "line 1 of --prompts is not what was asked before: 'first'" in errors


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_skipped_layers_are_named_when_a_run_is_resumed(small, tmp_path):
    log = tmp_path / "run.h5"
    cut_off(small, log, "--on-fault", "skip", "--fault", "kill 2 @ 2; stall 1 @ 5 for 5s", ranks=4)
    done = mpirun(4, "--resume", str(log))
    assert done.returncode == 0, done.stderr.decode()
    assert (
        "layers were skipped before the interruption: the text goes on with all that are here now"
        in done.stderr.decode()
    )
    assert load(log).tokens["layers"].tolist()[-1] == 6


def test_a_record_that_another_program_has_rewritten_cannot_grow(tmp_path):
    with h5py.File(RECORDS / "schema6.h5") as old, h5py.File(tmp_path / "new.h5", "w") as new:
        for name, table in old.items():
            new.create_dataset(name, data=table[:], maxshape=(None,))
        new.attrs.update(old.attrs)
    with pytest.raises(
        Unservable, match=r"--resume .*new.h5 was rewritten by another program.*: resume the original"
    ):
        reopened(tmp_path / "new.h5", 0.0, None, 0.0)


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_what_cannot_be_resumed_is_one_sentence(small, tmp_path):
    log = tmp_path / "run.h5"
    cut_off(small, log)
    for words, expected in (
        (("--resume", str(tmp_path / "none.h5")), "none.h5 does not exist"),
        (
            ("--resume", str(RECORDS / "schema4.h5")),
            "is a record of schema 4: only those of schema 5 and later",
        ),
        (("--resume", str(log), "--prompt", "another"), "--prompt is 'another', but the run in"),
        (("--resume", str(log), "--log", "x.h5"), "--log x.h5 and --resume"),
        (("--resume", str(log), "--model", "smollm2-135m-instruct"), "was made with other model files"),
    ):
        assert expected in sentence(mpirun(3, *words))
    assert load(log).ended == ""
    assert len(load(log).tokens) == 5
