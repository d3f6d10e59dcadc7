"""A rank that dies or stops while MPI starts: the run ends in seconds, and names it."""

import os
import signal
import time

import pytest
from running import assert_nothing_is_left, left_behind, processes, start, words_for

from jarvis_mpi.net.ancestry import children

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


def test_ctrl_c_while_mpi_starts_says_nothing(small, tmp_path):
    run = start(4, *words_for(small, tmp_path / "run.h5"))
    in_start(0)
    for process in processes("prterun"):
        os.kill(process, signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode not in (0, 124)
    assert "while MPI started" not in errors.decode()
    assert_nothing_is_left()
