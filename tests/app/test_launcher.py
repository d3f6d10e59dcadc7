"""mpirun dies, or the terminal that it was started in: the ranks go on, finish, and leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import (
    SESSIONS,
    assert_nothing_is_left,
    events,
    kill,
    left_behind,
    mpirun,
    processes,
    python,
    start,
    tokens_of,
    words_for,
)
from terminals import Terminal

from jarvis_mpi.app import relay
from jarvis_mpi.net.ancestry import LAUNCHERS, stat
from jarvis_mpi.record.reader import load

# Long enough to kill something in it; the answer is what it would be without.
STALL = ("--fault", "stall 1 @ 5 for 3s", "--progress-s", "90", "--ignore-eos")
TOKENS = 12


def await_tokens(log: Path, count: int, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not log.exists() or len(load(log).tokens) < count:
        assert time.monotonic() < end
        time.sleep(0.05)


def orphaned(
    count: int, *asked: str, log: Path, tokens: int = 5, typed: bytes = b"", **how
) -> subprocess.Popen:
    """Start a run of so many ranks; kill mpirun once its record has so many tokens."""
    run = start(count, *asked, **how)
    if typed:
        run.stdin.write(typed)
        run.stdin.flush()
    await_tokens(log, tokens)
    kill(processes(*LAUNCHERS))
    return run


def words(small: Path, log: Path, *more: str) -> list[str]:
    return words_for(small, log, "--max-new-tokens", str(TOKENS), *STALL, *more)


@pytest.fixture(scope="module")
def expected(small, tmp_path_factory):
    """What is answered where nothing dies: the text, and its tokens."""
    log = tmp_path_factory.mktemp("expected") / "run.h5"
    done = mpirun(3, *words_for(small, log, "--max-new-tokens", str(TOKENS), "--ignore-eos"))
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout, tokens_of(log)


@pytest.mark.mpirun
@pytest.mark.parametrize(
    "where",
    [
        pytest.param("a pipe", marks=pytest.mark.very_slow),
        pytest.param("a file", marks=pytest.mark.very_slow),
        "the file of its messages, too",
    ],
)
def test_an_answer_outlives_mpirun(where, small, expected, tmp_path):
    log, out, before = tmp_path / "run.h5", tmp_path / "out", left_behind()
    with out.open("wb") as file:
        piped = where == "a pipe"
        run = orphaned(
            3, *words(small, log), log=log, stdout=subprocess.PIPE if piped else file,
            stderr=file if where.startswith("the file") else subprocess.PIPE,
        )  # fmt: skip
        shown, errors = run.communicate(timeout=60)
    assert_nothing_is_left()
    said = out.read_bytes() if errors is None else errors
    text = shown if piped else out.read_bytes()
    assert text == expected[0] if errors is not None else expected[0] in text
    assert said.count(b"mpirun died") == 1, said
    assert b"Traceback" not in said
    assert b"12 tokens: the first after" in said
    assert (load(log).ended, tokens_of(log)) == ("done", expected[1])
    assert len(events(log, "orphaned")) == 1
    assert left_behind() <= before


@pytest.mark.mpirun
def test_a_worker_dies_after_mpirun_and_its_copy_stands_in(small, expected, tmp_path):
    log = tmp_path / "run.h5"
    run = orphaned(4, *words(small, log), log=log)
    time.sleep(0.5)
    kill(processes(rank=3))
    shown, errors = run.communicate(timeout=60)
    assert_nothing_is_left()
    assert (shown, load(log).ended) == (expected[0], "done"), errors.decode()
    assert "node 3 lost" in errors.decode()


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_the_end_user_dies_after_mpirun_and_the_workers_leave(small, tmp_path):
    log = tmp_path / "run.h5"
    run = orphaned(4, *words(small, log), "--standby", "0", log=log)
    time.sleep(0.5)
    kill(processes(rank=0))
    begun = time.monotonic()
    _, errors = run.communicate(timeout=60)
    assert_nothing_is_left()
    assert time.monotonic() - begun < 10
    assert errors.decode().count("the end user (node 0) died, and with it the run") == 1, errors.decode()


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_no_further_prompt_is_asked_and_the_rest_can_be_resumed(small, tmp_path):
    log, prompts = tmp_path / "run.h5", tmp_path / "prompts"
    prompts.write_text("".join(f"question {number}\n" for number in range(40)))
    asked = ("--model", str(small), "--prompts", str(prompts), "--max-new-tokens", "4", "--log", str(log))
    run = orphaned(3, *asked, *STALL, log=log)
    shown, errors = run.communicate(timeout=60)
    assert_nothing_is_left()
    lines = [json.loads(line) for line in shown.splitlines()]
    assert 0 < len(lines) < 40
    assert f"mpirun died: {40 - len(lines)} of 40 prompts were not asked" in errors.decode()
    assert load(log).ended == "ended"
    again = mpirun(3, "--resume", str(log))
    assert again.returncode == 0, again.stderr.decode()
    whole = [json.loads(line) for line in again.stdout.splitlines()]
    assert [line["line"] for line in whole] == list(range(1, 41))
    assert whole[: len(lines)] == lines


@pytest.mark.mpirun
def test_a_chat_ends_after_the_answer_under_way(small, expected, tmp_path):
    log = tmp_path / "run.h5"
    chat = ("--model", str(small), "--max-new-tokens", str(TOKENS), "--log", str(log), *STALL)
    run = orphaned(3, *chat, log=log, typed=b"abc\n", stdin=subprocess.PIPE)
    shown = run.stdout.read()
    assert run.stderr.read().count(b"mpirun died") == 1
    run.stdin.close()
    run.wait(10)
    assert_nothing_is_left()
    assert (shown, load(log).ended) == (expected[0], "done")


@pytest.mark.mpirun
def test_an_answer_outlives_the_terminal_that_it_was_asked_in(small, expected, tmp_path):
    log = tmp_path / "run.h5"
    line = " ".join(["mpirun -n 3", sys.executable, "-m jarvis_mpi", *map(repr, words(small, log))])
    terminal = Terminal("sh", "-c", f"{line}; true")  # a shell that stays
    await_tokens(log, 5)
    os.close(terminal.end)
    os.waitpid(terminal.pid, 0)
    assert_nothing_is_left()
    assert (load(log).ended, tokens_of(log)) == ("done", expected[1])


@pytest.mark.mpirun
@pytest.mark.very_slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_order_to_mpirun_still_ends_all(number, small, tmp_path):
    log = tmp_path / "run.h5"
    run = start(3, *words(small, log))
    await_tokens(log, 5)
    os.kill(processes("prterun")[0], number)
    begun = time.monotonic()
    run.communicate(timeout=60)
    assert_nothing_is_left()
    assert time.monotonic() - begun < 4
    assert run.returncode


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_a_run_without_mpirun_is_watched_and_ended(small, expected, tmp_path):
    log = tmp_path / "run.h5"
    run = orphaned(3, *words(small, log), log=log)
    watched = python("-m", "jarvis_mpi", "attach", str(log))
    run.communicate(timeout=60)
    assert (watched.returncode, watched.stdout) == (0, expected[0].decode()), watched.stderr
    assert watched.stderr == "> abc\n"

    stopped = tmp_path / "stopped.h5"
    slowly = ("--max-new-tokens", "50", "--pace-s", "0.2")
    run = orphaned(3, *words(small, stopped, *slowly), log=stopped, tokens=8)
    done = python("-m", "jarvis_mpi", "stop", str(stopped))
    assert done.returncode == 0, done.stderr
    assert f"record {stopped}" in done.stdout
    assert "had to be killed" not in done.stdout
    _, errors = run.communicate(timeout=10)
    assert_nothing_is_left()
    assert "or by jarvis_mpi stop" in errors.decode()
    assert load(stopped).ended == "ended"
    watched = python("-m", "jarvis_mpi", "attach", str(stopped))
    assert watched.returncode == 1
    assert f"--resume {stopped} goes on with it" in watched.stderr
    again = python("-m", "jarvis_mpi", "stop", str(stopped))
    assert (again.returncode, again.stderr) == (1, f"no run of yours on this machine writes {stopped}\n")


@pytest.mark.mpirun
def test_input_that_was_cut_off_is_not_answered(small, tmp_path):
    """mpirun dies while it hands a file's text on."""
    run = start(3, *words(small, tmp_path / "run.h5"), stdin=subprocess.PIPE)
    run.stdin.write(b"the first half")
    run.stdin.flush()
    end = time.monotonic() + 30
    while not [*Path(SESSIONS).glob("ompi.*/bell.0")]:  # MPI has started
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.3)
    kill(processes(*LAUNCHERS))
    shown, errors = run.stdout.read(), run.stderr.read()
    run.stdin.close()
    run.wait(10)
    assert shown == b""
    assert "mpirun died before it had handed all of standard input on: ask again" in errors.decode()
    assert_nothing_is_left()


@pytest.mark.parametrize(
    ("sent", "landed", "left"),
    [
        (b"", b"", b""),
        (b"one\ntwo\n", b"one\ntwo\n", b""),
        (b"one\ntwo\n", b"one\n", b"two\n"),
        (b"one\ntwo\n", b"one\nt", b"wo\n"),
        (b"one\ntwo\nthree", b"[other]\none\n[other]\ntwo\nth", b"ree"),
        (b"one\ntwo\n", b"[other]\n", b"one\ntwo\n"),
        (b"one\none\n", b"one\n", b"one\n"),
        (b"one\n", b"", b"one\n"),
    ],
)
def test_what_a_file_lacks_of_what_mpirun_was_given(sent, landed, left):
    assert relay.missing(sent, landed) == left


def test_where_mpirun_was_on_another_machine_output_is_dropped_once_it_is_gone():
    reads, writes = os.pipe()
    stream = relay.Relay(writes)
    stream.move()
    os.close(reads)
    assert stream.write_some(memoryview(b"text")) == 4
    stream.close()


def test_a_process_without_a_terminal_has_none():
    asleep = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert not stat(asleep.pid).terminal
    finally:
        asleep.kill()
        asleep.wait()
    assert not stat(asleep.pid).terminal


@pytest.mark.parametrize("command", ["attach", "stop"])
def test_where_no_run_goes_on_that_is_said(command, tmp_path):
    nowhere = str(tmp_path / "none.h5")
    done = python("-m", "jarvis_mpi", command, nowhere)
    assert done.returncode == 1
    assert nowhere in done.stderr
    assert len(done.stderr.splitlines()) == 1
