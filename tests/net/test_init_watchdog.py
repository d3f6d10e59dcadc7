"""Whom the watch of rank 0 names when a rank of its machine is lost while MPI starts."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jarvis_mpi.net import ancestry, init_watchdog
from jarvis_mpi.net.init_watchdog import Neighbours
from jarvis_mpi.testbed.own_processes import until

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")


@contextmanager
def ranks(monkeypatch, started: tuple[int, ...], size: int) -> Iterator[dict[int, subprocess.Popen]]:
    """Be mpirun of three ranks on this machine, of which these were started."""
    monkeypatch.setenv("PMIX_NAMESPACE", "a run")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "3")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", str(size))
    processes = {
        rank: subprocess.Popen(["sleep", "60"], env=os.environ | {"PMIX_RANK": str(rank)}) for rank in started
    }
    try:
        for process in processes.values():  # the kernel shows it a moment after the process has begun
            pid = process.pid
            until(lambda pid=pid: "PMIX_RANK" in ancestry.environment(pid), "it has no environment")
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_one_that_dies_is_named(monkeypatch):
    with ranks(monkeypatch, (0, 1, 2), 3) as processes:
        neighbours = Neighbours(os.getpid())
        assert neighbours.lost() == ""
        processes[1].kill()
        processes[1].wait()
        assert neighbours.lost().startswith("node 1 died while MPI started")


def test_one_that_is_stopped_is_named_after_a_while_but_not_with_mpirun(monkeypatch):
    monkeypatch.setattr(init_watchdog, "STOPPED_S", 0.2)
    with ranks(monkeypatch, (0, 1, 2), 3) as processes:
        neighbours = Neighbours(os.getpid())
        assert neighbours.lost() == ""
        processes[2].send_signal(signal.SIGSTOP)
        until(lambda: ancestry.stat(processes[2].pid).state in ancestry.STOPPED, "it was not stopped")
        assert neighbours.lost() == ""
        time.sleep(0.3)
        assert neighbours.lost().startswith("node 2 was stopped while MPI started")
        monkeypatch.setattr(neighbours, "launcher_pid", processes[2].pid)
        assert neighbours.stopped() == set()


@pytest.mark.parametrize(
    ("size", "sentence"), [(3, "node 1 died while MPI started"), (6, "only 2 of 3 ranks came to start MPI")]
)
def test_one_that_was_never_seen_is_missed(size, sentence, monkeypatch):
    with ranks(monkeypatch, (0, 2), size):
        neighbours = Neighbours(os.getpid())
        assert neighbours.lost() == ""
        monkeypatch.setattr(init_watchdog, "MISSING_S", 0.0)
        assert neighbours.lost().startswith(sentence)


def test_another_ranks_watch_acts_where_the_end_user_died_before_it_had_one(monkeypatch):
    monkeypatch.setenv("PMIX_RANK", "1")
    with ranks(monkeypatch, (0, 1, 2), 3) as processes:
        neighbours = Neighbours(os.getpid())
        assert neighbours.end_user_lost() == ""
        processes[2].kill()
        processes[2].wait()
        monkeypatch.setattr(init_watchdog, "DEPUTY_S", 0.2)
        time.sleep(0.3)
        assert neighbours.end_user_lost() == ""  # that is the end user's watch's to tell
        processes[0].kill()
        processes[0].wait()
        assert neighbours.end_user_lost() == ""
        time.sleep(0.3)
        assert neighbours.end_user_lost().startswith("the end user (node 0) died while MPI started")


def test_an_end_user_that_was_never_seen_is_missed_by_another_ranks_watch(monkeypatch):
    monkeypatch.setenv("PMIX_RANK", "1")
    with ranks(monkeypatch, (1, 2), 3):
        neighbours = Neighbours(os.getpid())
        assert neighbours.end_user_lost() == ""
        monkeypatch.setattr(init_watchdog, "MISSING_S", 0.0)
        monkeypatch.setattr(init_watchdog, "DEPUTY_S", 0.0)
        neighbours.end_user_lost()
        assert neighbours.end_user_lost().startswith("the end user (node 0) died while MPI started")
