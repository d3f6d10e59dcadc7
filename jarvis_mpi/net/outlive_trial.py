"""Tries whether ranks outlive mpirun here: two are started, their mpirun is killed, and they say that they go
on."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .ancestry import LAUNCHERS, kill, stat

RANKS = 2
START_S = 30.0  # longest wait for MPI to start
ON_S = 1.5  # for so long they go on: Open MPI ends a rank a second after its launcher
OUTLIVED_S = 5.0  # longest wait for their word
ENDS = "a run here ends when its mpirun dies"


def what_ends() -> str:
    """Return '' if ranks outlive mpirun here, else one sentence."""
    beside = Path(sys.prefix) / "bin" / "mpirun"
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        return "there is no mpirun here: whether a run outlives it was not tried"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words = [mpirun, "-n", str(RANKS), sys.executable, "-m", "jarvis_mpi", "outlive", folder]
        run = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=without_launcher() | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        )  # fmt: skip
        try:
            return verdict(run, Path(folder))
        finally:
            run.terminate()  # it ends its ranks
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(OUTLIVED_S)
            run.kill()
            run.wait()


def without_launcher() -> dict[str, str]:
    """Return the environment without what a launcher above this process has put there."""
    prefixes = ("PMI", "OMPI_COMM", "PRTE_JOB")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def verdict(run: subprocess.Popen, folder: Path) -> str:
    begun = [folder / f"begun.{rank}" for rank in range(RANKS)]
    if not comes_true(lambda: all(map(Path.exists, begun)), START_S, run):
        return "mpirun does not start two ranks here: whether a run outlives it was not tried"
    begun_ranks = [path.read_text().split() for path in begun]
    launchers = {int(launcher) for launcher, _ in begun_ranks}
    if any(holds == "0" for _, holds in begun_ranks):
        return f"this MPI tells nobody that mpirun died: {ENDS}"
    for launcher in launchers:
        if stat(launcher).name in LAUNCHERS:
            kill(launcher)
    went_on = [folder / f"went_on.{rank}" for rank in range(RANKS)]
    return "" if comes_true(lambda: all(map(Path.exists, went_on)), OUTLIVED_S) else f"tried: {ENDS}"


def comes_true(what: Callable[[], bool], within_s: float, run: subprocess.Popen | None = None) -> bool:
    """Wait for it, and no longer than `run` goes on."""
    end = time.monotonic() + within_s
    while not what():
        if time.monotonic() > end or (run and run.poll() is not None):
            return False
        time.sleep(0.02)
    return True


def rank(folder: str) -> None:
    """Be one of the ranks: write into `folder` that MPI has started, and that mpirun's death was outlived."""
    signal.alarm(round(START_S + 2 * OUTLIVED_S))  # whatever becomes of the others
    from .launcher_loss import LauncherLoss, shared_memory, tidy
    from .mpi_link import library

    number, loss = library().COMM_WORLD.rank, LauncherLoss()
    holds = loss.outlive(lambda: None)
    say(Path(folder), f"begun.{number}", f"{os.getppid()} {holds:d}")
    if loss.happened.wait(OUTLIVED_S):
        time.sleep(ON_S)
        say(Path(folder), f"went_on.{number}", "")
        tidy(shared_memory())
    os._exit(0)


def say(folder: Path, name: str, text: str) -> None:
    """Write a file that is whole as soon as it is there."""
    (folder / f"{name}.new").write_text(text)
    (folder / f"{name}.new").rename(folder / name)
