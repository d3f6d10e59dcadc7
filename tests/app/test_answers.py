"""Standard output that cannot be written: the run goes on, the record has its answers, one sentence says so,
and the status is not 0."""

import io
import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from running import ask

from jarvis_mpi.app import answers
from jarvis_mpi.common.output import Unwritable, stream
from jarvis_mpi.record.reader import load

FULL = "standard output cannot be written: No space left on device: the answers stand in the record"


def test_a_full_disk_is_named_once_and_a_reader_that_left_ends_the_run(monkeypatch):
    notices: list[str] = []
    monkeypatch.setattr(
        answers, "launchers_stream", lambda _: stream(os.open("/dev/full", os.O_WRONLY), own=True)
    )
    out = answers.Answers(notices.append)
    for _ in range(3):
        print("text", file=out, flush=True)
    out.ended()
    assert notices == [FULL]
    ours, theirs = os.pipe()
    os.close(ours)
    monkeypatch.setattr(answers, "launchers_stream", lambda _: stream(theirs, own=True))
    with pytest.raises(Unwritable):
        print("text", file=answers.Answers(notices.append), flush=True)
    assert notices == [FULL]


@pytest.mark.parametrize(("written", "free", "lost"), [(10, 0, False), (4, 0, True), (4, 100, False)])
def test_a_file_that_mpirun_could_not_write_is_noticed(written, free, lost, monkeypatch, tmp_path):
    """`written` of 10 bytes; where there is room, they went elsewhere (mpirun --output)."""
    notices: list[str] = []
    with (tmp_path / "out").open("wb", buffering=0) as file:
        process = tmp_path / "process"
        for kind in ("fd", "fdinfo"):
            (process / kind).mkdir(parents=True)
        (process / "fd" / "1").symlink_to(tmp_path / "out")
        info = process / "fdinfo" / "1"
        info.write_text("pos:\t5\nflags:\t0100001\n")
        monkeypatch.setattr(answers, "launchers_descriptor", lambda number: process / "fd" / str(number))
        monkeypatch.setattr(answers, "LATER_S", 0.2)
        monkeypatch.setattr(answers, "launchers_stream", lambda _: io.TextIOWrapper(file))
        room = os.statvfs_result((1, 1, 0, free, free, 0, 0, 0, 0, 0))
        monkeypatch.setattr(os, "statvfs", lambda _: room)
        out = answers.Answers(notices.append)
        print("ten bytes", file=out, flush=True)
        info.write_text(f"pos:\t{5 + written}\nflags:\t0100001\n")
        begun = time.monotonic()
        out.ended()
        assert time.monotonic() - begun < 2
    assert bool(notices) == bool(out.lost) == lost


@pytest.mark.mpirun
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(["--prompt", "abc"], marks=pytest.mark.very_slow),
        pytest.param(["--json", "--prompt", "abc"], marks=pytest.mark.very_slow),
        ["--prompts", "FILE"],
    ],
)
def test_a_run_outlives_the_standard_output(how, fussy_model, tmp_path):
    (tmp_path / "FILE").write_text("one\ntwo\n")
    words, log = [word.replace("FILE", str(tmp_path / "FILE")) for word in how], tmp_path / "run.h5"
    limited = ["--log", str(log), *words]
    with Path("/dev/full").open("w") as full:
        done = ask(fussy_model, *limited, out=full, stdin=subprocess.DEVNULL)
    errors = done.stderr.decode()
    assert done.returncode == 1, errors
    assert errors.count("standard output cannot be written") == 1
    assert FULL in errors
    assert "Traceback" not in errors
    record = load(log)
    assert record.ended == "done"
    assert all(question.answered for question in record.questions)
    if "--json" in how:
        return
    again = ask(
        fussy_model, "--resume", str(log), stdin=subprocess.DEVNULL, env={"PYTHONIOENCODING": "ascii"}
    )
    assert again.returncode == 0, again.stderr.decode()
    for each in record.questions:
        assert (
            each.text if "--prompt" in how else json.dumps(each.text, ensure_ascii=False)
        ) in again.stdout.decode()


@pytest.mark.mpirun
def test_a_reader_that_leaves_while_nodes_load_is_one_sentence(fussy_model, tmp_path):
    ours, theirs = os.pipe()
    os.close(ours)
    done = ask(fussy_model, "--json", "--prompt", "abc", out=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    errors = done.stderr.decode()
    assert done.returncode == 1, errors
    assert "nobody reads the answers any more" in errors
    assert "Traceback" not in errors
