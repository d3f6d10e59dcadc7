"""Real mpirun, real weights, real signals: a part of the fault matrix; and a run's decisions follow from its
log."""

import json
import os
import subprocess
import sys

import pytest
from places import ROOT
from running import MARK, assert_nothing_is_left, mpirun, tokens_of, words_for

from jarvis_mpi.record import replay

pytestmark = pytest.mark.mpirun


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        (("neighbours",), 1),
        pytest.param(("SIGKILL", "for good"), 4, marks=pytest.mark.very_slow),
        pytest.param(("3 s", "10 s"), 2, marks=pytest.mark.very_slow),
    ],
    ids=["gone", "killed", "back"],
)
def test_a_part_of_the_fault_matrix(rows, count):
    words = [sys.executable, "-m", "benchmarks.faults.process_matrix", "--part", "--rows", *rows]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    print(done.stdout)
    runs = json.loads(done.stdout.splitlines()[-1])["runs"]
    assert len(runs) == count
    assert [run for run in runs if run["wrong"]] == []
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("how", "ulfm"),
    [("SIGKILL", True), ("SIGSTOP", True), ("SIGSTOP", False)],
    ids=["Shrink", "hung", "no ULFM"],
)
def test_both_ways_to_shrink_end_with_the_same_communicator(how, ulfm):
    words = ["timeout", "-k", "5", "60", "mpirun", "-hostfile", "hostfiles/local", "-n", "5", sys.executable]
    without = {} if ulfm else {"OMPI_MCA_mpi_ft_enable": "0"}
    done = subprocess.run(
        [*words, "tests/shrinking.py", how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **without},
    )
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))
    assert lines == [f"rank {node}: [0, 1, 3, 4], sum 8" for node in (0, 1, 3, 4)], done.stdout + done.stderr


@pytest.mark.very_slow
def test_decisions_can_be_replayed_from_the_log(tmp_path):
    log = tmp_path / "run.h5"
    words = ["timeout", "-k", "5", "150", "mpirun", "-hostfile", "hostfiles/local", "-n", "6", sys.executable]
    # Long enough that the stopped node is back well before the last token, on a slow machine as on a fast
    # one.
    words += [
        "-m",
        "jarvis_mpi",
        "--prompt",
        "Why is the sky blue?",
        "--max-new-tokens",
        "300",
        "--ignore-eos",
        "--log",
        str(log),
    ]
    words += ["--fault", "kill 3 @ 5; raise 4 @ 12; stop 1 @ 20 for 2s"]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "node 3 lost at step 5: layers 13-18 from the copy",
        "node 4 lost",
        "node 1 silent",
        "node 1 back",
    ):
        assert line in done.stderr, done.stderr
    lines = list(replay.replayed(log))
    assert sum("as decided" in line for line in lines) >= 4
    assert not any("NOT" in line for line in lines)


@pytest.mark.parametrize("program", ["half_message.py", "lost_with_messages.py"])
def test_messages_that_stay_half_way(program):
    words = ["timeout", "-k", "5", "90", "mpirun", "-n", "3"]
    words += ["--mca", "btl", "tcp,self", "--mca", "pml", "ob1"]
    done = subprocess.run(
        [*words, sys.executable, f"tests/{program}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "as it should be\n", done.stderr


@pytest.mark.mpirun
def test_a_node_that_sends_nonsense_is_not_used_again_and_the_text_is_the_same(small, tmp_path):
    words = ("--max-new-tokens", "40", "--ignore-eos", "--pace-s", "0.05")
    command = ["timeout", "-k", "5", "150", "mpirun", "-hostfile", str(ROOT / "hostfiles/local"), "-n", "4"]
    done = subprocess.run(
        [*command, sys.executable, "tests/babbling.py", *words_for(small, tmp_path / "run.h5", *words)],
        capture_output=True, cwd=ROOT, timeout=170,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "JARVIS_TEST": MARK, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert "node 2 garbled at step" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    whole = mpirun(4, *words_for(small, tmp_path / "whole.h5", *words))
    assert (done.stdout, tokens_of(tmp_path / "run.h5")) == (whole.stdout, tokens_of(tmp_path / "whole.h5"))
    assert_nothing_is_left()
