"""The end user dies, or is stopped: its standby goes on with the same text, and leaves nothing behind."""

import os
import signal
import time
from pathlib import Path

import pytest
from running import (
    assert_nothing_is_left,
    kill,
    left_behind,
    mpirun,
    processes,
    start,
    tokens_of,
    words_for,
)

from jarvis_mpi.net.ancestry import LAUNCHERS
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.replay import replayed

pytestmark = pytest.mark.mpirun
TOKENS, SOME = 24, 6
# Each token takes its time, so that there is one to kill the end user at.
SLOWLY = ("--pace-s", "0.02", "--max-new-tokens", str(TOKENS), "--ignore-eos", "--standby", "1")


@pytest.fixture(scope="module")
def expected(small, tmp_path_factory):
    """What is answered where nothing dies: the text, and its tokens."""
    log = tmp_path_factory.mktemp("expected") / "run.h5"
    done = mpirun(4, *words_for(small, log, *SLOWLY))
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout, tokens_of(log)


def test_end_users_die_one_after_the_other(small, tmp_path):
    """Three of six: each one that goes on has the next one stand by."""
    log, before = tmp_path / "run.h5", left_behind()
    words = (*SLOWLY[:2], "--max-new-tokens", "120", *SLOWLY[4:])
    whole = mpirun(6, *words_for(small, tmp_path / "whole.h5", *words))
    run = start(6, *words_for(small, log, *words))
    end, record, node = time.monotonic() + 120, log, 0
    for _ in range(3):
        while not (next_one := stands_by(record)):
            assert time.monotonic() < end
            assert run.poll() is None, run.communicate()
            time.sleep(0.05)
        kill([min(processes(rank=node))])
        record, node = log.with_stem(f"{log.stem}-node{next_one}"), next_one
        while not record.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
    shown, errors = run.communicate(timeout=120)
    assert_nothing_is_left()
    assert left_behind() <= before
    assert "Traceback" not in errors.decode()
    assert shown == whole.stdout, errors.decode()
    assert run.returncode == 0
    assert load(record).ended == "done"
    assert tokens_of(record) == tokens_of(tmp_path / "whole.h5")
    assert [event.event for event in load(record).events].count("takeover") == 3
    assert all("NOT" not in line for line in replayed(record))


def stands_by(record: Path) -> int:
    """The node that stands by now, or 0."""
    if not record.exists():
        return 0
    run = load(record)
    nodes = [event.text.split()[1] for event in run.events if "stands by for the end user" in event.text]
    if run.events and nodes:
        return int(nodes[-1]) if nodes[-1] != "node" else 0
    return int(run.attributes["standby"]) if len(run.tokens) > SOME and "-node" not in record.stem else 0


def successors_of(log: Path) -> list[Path]:
    return list(log.parent.glob(f"{log.stem}-node*.h5"))


@pytest.mark.very_slow
@pytest.mark.parametrize("how", ["killed", "with mpirun", "stopped"])
def test_the_standby_goes_on_with_the_same_text(how, small, expected, tmp_path):
    log, before = tmp_path / "run.h5", left_behind()
    run = start(4, *words_for(small, log, *SLOWLY))
    end = time.monotonic() + 90
    while not log.exists() or len(load(log).tokens) < SOME:
        assert time.monotonic() < end
        time.sleep(0.02)
    first = min(processes(rank=0))
    if how == "stopped":
        os.kill(first, signal.SIGSTOP)
        while not successors_of(log):
            assert time.monotonic() < end
            time.sleep(0.05)
        os.kill(first, signal.SIGCONT)
    else:
        kill([first, *(processes(*LAUNCHERS) if how == "with mpirun" else [])])
    shown, errors = run.communicate(timeout=120)
    assert_nothing_is_left()
    assert left_behind() <= before
    assert "Traceback" not in errors.decode()
    text, tokens = expected
    [record] = successors_of(log)
    assert tokens_of(record) == tokens, errors.decode()
    assert load(record).ended == "done"
    assert load(record).questions[0].text == text.decode().removesuffix("\n")
    assert any(event.event == "takeover" for event in load(record).events)
    if how != "with mpirun":  # mpirun hands it on
        assert shown == text, errors.decode()
        assert "node 0, the end user, is gone" in errors.decode()
    if how == "stopped":
        assert "is the end user now" in errors.decode()
    if how == "killed":
        assert run.returncode == 0
