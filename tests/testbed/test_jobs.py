"""The job scripts on a real Slurm of our own (testbed/own_slurm.py): a run, a lost node, a sweep that ends in
its figure."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from running import mpirun, script

from jarvis_mpi.record.reader import load
from jarvis_mpi.testbed import own_slurm

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm():
    yield own_slurm.up(6)
    own_slurm.down()


def submit(slurm: dict[str, str], *words: str | Path, **knobs: str) -> str:
    """-> the job's number."""
    done = subprocess.run(
        ["sbatch", "--parsable", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True,
        timeout=60,
        env={**os.environ, **slurm, "VENV": sys.prefix, **knobs},
    )  # fmt: skip
    return done.stdout.strip()


def waiting(slurm: dict[str, str]) -> str:
    return subprocess.run(
        ["squeue", "-h"], env={**os.environ, **slurm}, capture_output=True, text=True, timeout=60
    ).stdout


def await_end(slurm: dict[str, str], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while queue := waiting(slurm):
        assert time.monotonic() < end, queue
        time.sleep(1)


@pytest.mark.slurm
@pytest.mark.mpirun
def test_a_job_survives_a_kill_and_resumes_by_itself_when_a_node_is_lost(slurm, tmp_path):
    words = ("--dtype", "float32", "--max-new-tokens", "90", "--ignore-eos")
    whole = mpirun(2, *words, "--prompt", "Why is the sky blue?", "--log", str(tmp_path / "whole.h5"))
    assert whole.returncode == 0, whole.stderr.decode()
    log = tmp_path / "run.h5"
    more = ("--fault", "kill 2 @ 10")
    submit(
        slurm,
        "-N",
        "5",
        "-o",
        tmp_path / "run.txt",
        "jobs/slurm.sbatch",
        *words,
        *more,
        LOG=str(log),
        PROBE_S="5",
        PAUSE_S="1",
    )
    end = time.monotonic() + 100
    while not log.exists() or len(load(log).tokens) < 25:
        assert time.monotonic() < end, (tmp_path / "run.txt").read_text()
        time.sleep(0.2)
    own_slurm.kill(3)
    end = time.monotonic() + 120
    while load(log).ended != "done":  # Slurm itself holds the job for running until it gives the node up
        assert time.monotonic() < end, (tmp_path / "run.txt").read_text()
        time.sleep(0.5)
    own_slurm.boot(3)
    await_end(slurm, 60)
    output = (tmp_path / "run.txt").read_text()
    run = load(log)
    assert run.ended == "done", output
    assert "node jn3 does not answer: bypassed" in output
    assert [len(start["hosts"]) for start in run.starts] == [5, 4]
    assert [fault.sign for fault in run.faults][:1] == ["LOST"]
    assert "node 2 lost at step 10: layers 8-14 from the copy on node 1" in output
    assert run.tokens["token"].tolist() == load(tmp_path / "whole.h5").tokens["token"].tolist()
    assert script("latency", log, "--formats", "svg") == ""


@pytest.mark.slurm
@pytest.mark.mpirun
@pytest.mark.very_slow
def test_a_sweep_ends_in_a_figure(slurm, tmp_path):
    submit(
        slurm,
        "-o",
        tmp_path / "%a.txt",
        "jobs/sweep_splits.sbatch",
        TOKENS="10",
        FOLDER=str(tmp_path / "sweep"),
    )
    await_end(slurm, 200)
    output = "".join(path.read_text() for path in tmp_path.glob("?.txt"))
    rows = (tmp_path / "sweep" / "compare.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["run", "even", "memory", "front", "back"], output
    assert (tmp_path / "sweep" / "compare.png").stat().st_size > 3000


@pytest.mark.slurm
@pytest.mark.mpirun
@pytest.mark.very_slow
def test_a_study_ends_in_a_figure(slurm, tmp_path):
    words = ("--cases", "singles", "--tokens", "40")
    submit(
        slurm,
        "-N",
        "3",
        "-o",
        tmp_path / "study.txt",
        "jobs/study.sbatch",
        *words,
        LOG=str(tmp_path / "study.h5"),
    )
    await_end(slurm, 300)
    assert (tmp_path / "skip_map.png").exists(), (tmp_path / "study.txt").read_text()


def test_scripts_hold_nothing_personal_and_stop_at_the_first_error():
    scripts = sorted((ROOT / "jobs").iterdir())
    assert len(scripts) >= 8
    for path in scripts:
        text = path.read_text()
        assert "set -euo pipefail" in text or path.name == "sweep.sh", path  # which others read
        assert "/home/" not in text
        assert "/root" not in text
        subprocess.run(["bash", "-n", path], check=True)


def test_colosseums_hostfile_comes_from_the_radio_map_and_the_scenario_is_stopped(tmp_path):
    """Its own tools stand in for what is not here: only what is asked of them is tested."""
    table = (
        "+--------+-----+--------+\\n"
        "| Node   | SRN | RadioA |\\n"
        "| Node 1 |   5 |      1 |\\n| Node 2 |  17 |      1 |\\n| Node 3 | 101 | 1 |\\n"
    )
    for name, does in (
        ("colosseumcli", f'echo "$@" >> {tmp_path}/asked; [ "$2" != radiomap ] || printf "{table}"'),
        ("hostname", "echo team-017"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    hostfile = tmp_path / "hostfile"
    knobs = {
        "HOSTFILE": str(hostfile),
        "LOG": str(tmp_path / "run.h5"),
        "RADIO_S": "0",
        "VENV": str(tmp_path / "venv"),
    }
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["jobs/colosseum.sbatch"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **knobs, "PATH": path},
    )
    assert hostfile.read_text() == "team-017 slots=1\nteam-005 slots=1\nteam-101 slots=1\n"
    assert "team-005 cannot be reached by ssh" in done.stdout
    assert done.returncode == 1
    assert "the radio did not carry MPI's traffic within 0 s" in done.stderr
    assert (tmp_path / "asked").read_text().splitlines() == ["rf start 1017 -c", "rf radiomap", "rf stop"]
