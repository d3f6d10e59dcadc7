"""A rank that dies or stops while MPI starts: the run ends in seconds, and names it. One that dies while the
run ends costs nothing."""

import os
import signal
import time

import pytest
from running import assert_nothing_is_left, left_behind, processes, start, words_for

from jarvis_mpi.net.ancestry import children
from jarvis_mpi.record.reader import load

pytestmark = pytest.mark.mpirun


def in_start(rank: int) -> int:
    """Wait until the rank is about to start MPI. -> its process, whose first child then watches over it."""
    end = time.monotonic() + 30
    while True:
        for process in processes(rank=rank):
            if children(process):
                return process
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("rank", "number", "sentence"),
    [
        (2, signal.SIGKILL, "node 2 died while MPI started, which waits for every rank: start again"),
        pytest.param(
            0, signal.SIGKILL, "the end user (node 0) died while MPI started", marks=pytest.mark.very_slow
        ),
        (1, signal.SIGSTOP, "node 1 was stopped while MPI started"),
    ],
)
def test_a_rank_dies_or_stops_while_mpi_starts(rank, number, sentence, small, tmp_path):
    before = left_behind()
    run = start(4, *words_for(small, tmp_path / "run.h5"))
    os.kill(in_start(rank), number)
    begun = time.monotonic()
    shown, errors = run.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert run.returncode not in (0, 124)
    assert shown == b""
    assert errors.decode().count(sentence) == 1, errors.decode()
    assert "Traceback" not in errors.decode()
    assert_nothing_is_left()
    assert left_behind() <= before


@pytest.mark.very_slow
@pytest.mark.parametrize("later_s", [0.0, 0.05, 0.1, 0.15])
def test_a_worker_dies_while_the_run_ends(later_s, small, tmp_path):
    log, before = tmp_path / "run.h5", left_behind()
    run = start(4, *words_for(small, log, "--ignore-eos"))
    errors = b""
    while b"8 tokens: the first after" not in errors:
        errors += run.stderr.readline()
    begun = time.monotonic()
    time.sleep(later_s)
    for process in processes(rank=2):  # it may have left
        os.kill(process, signal.SIGKILL)
    shown, more = run.communicate(timeout=60)
    assert time.monotonic() - begun < 3
    assert run.returncode == 0
    assert shown
    assert more == b""
    assert load(log).ended == "done"
    assert_nothing_is_left()
    assert left_behind() <= before


def test_ctrl_c_while_mpi_starts_says_nothing(small, tmp_path):
    run = start(4, *words_for(small, tmp_path / "run.h5"))
    in_start(0)
    for process in processes("prterun"):
        os.kill(process, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode not in (0, 124)
    assert "while MPI started" not in errors.decode()
    assert_nothing_is_left()
