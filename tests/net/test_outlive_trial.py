"""Whether ranks outlive mpirun here, as setup tries it."""

import subprocess
import sys

import pytest

from jarvis_mpi.net import outlive_trial


def after(folder, *holds: str) -> str:
    """What is said where ranks have begun so, and an mpirun that is no launcher goes on."""
    for rank, each in enumerate(holds):
        outlive_trial.say(folder, f"begun.{rank}", f"1 {each}")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as run:
        try:
            return outlive_trial.verdict(run, folder)
        finally:
            run.kill()


def test_ranks_that_end_with_mpirun_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(outlive_trial, "OUTLIVED_S", 0.1)
    monkeypatch.setattr(outlive_trial, "START_S", 0.1)
    assert after(tmp_path, "1") == (
        "mpirun does not start two ranks here: whether a run outlives it was not tried"
    )
    assert after(tmp_path, "1", "0") == (
        "this MPI tells nobody that mpirun died: a run here ends when its mpirun dies"
    )
    assert after(tmp_path, "1", "1") == "tried: a run here ends when its mpirun dies"
    for rank in range(outlive_trial.RANKS):
        outlive_trial.say(tmp_path, f"went_on.{rank}", "")
    assert after(tmp_path, "1", "1") == ""


@pytest.mark.mpirun
def test_ranks_outlive_mpirun_here():
    assert outlive_trial.what_ends() == ""
