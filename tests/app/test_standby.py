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


def successors_of(log: Path) -> list[Path]:
    return list(log.parent.glob(f"{log.stem}-node*.h5"))


@pytest.mark.parametrize(
    "how", ["killed", pytest.param("with mpirun", marks=pytest.mark.very_slow),
            pytest.param("stopped", marks=pytest.mark.very_slow)]
)  # fmt: skip
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
