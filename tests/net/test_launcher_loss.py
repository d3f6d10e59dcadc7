"""What the end user's process has ended and removed after it."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator

from jarvis_mpi.net import ancestry
from jarvis_mpi.net.launcher_loss import tidy_later
from jarvis_mpi.testbed.own_processes import until


@contextlib.contextmanager
def sleepers(count: int) -> Iterator[list[subprocess.Popen]]:
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_rank_that_is_stopped_after_its_farewell_is_ended_once_the_end_user_is_gone(tmp_path):
    left = tmp_path / "segment"
    left.touch()
    with sleepers(4) as (end_user, launcher, stopped, works):
        stopped.send_signal(signal.SIGSTOP)
        until(lambda: ancestry.stat(stopped.pid).state in ancestry.STOPPED, "it was not stopped")
        tidy_later(end_user.pid, launcher.pid, [stopped.pid, works.pid], [left])
        time.sleep(1.5)
        assert stopped.poll() is None
        end_user.kill()
        end_user.wait()
        assert stopped.wait(timeout=10) == -signal.SIGKILL
        assert works.poll() is None
        works.kill()
        works.wait()
        assert left.exists()  # mpirun will remove it


def test_what_mpirun_would_have_removed_is_removed_where_it_is_gone(tmp_path):
    left = tmp_path / "segment"
    left.touch()
    with sleepers(2) as (end_user, launcher):
        tidy_later(end_user.pid, launcher.pid, [], [left])
        for process in (launcher, end_user):
            process.kill()
            process.wait()
        until(lambda: not left.exists(), "it is still there")
