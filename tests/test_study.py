"""The skip study: cases that share states are what each alone would be; any number of ranks, any interruption: one file."""

import csv
import math
import subprocess
import sys
import time
from itertools import combinations

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_mpirun import ROOT, small
from test_parts import bytes_folder  # noqa: F401 (a fixture)

from jarvis_mpi import skips
from jarvis_mpi.link import Unservable
from jarvis_mpi.study import Scorer, Task
from jarvis_mpi.study import nats as nats_of

__all__ = ["small"]  # a fixture
WORDS = ("--tokens", "60", "--window", "32", "--cases", "singles,pairs,blocks-3,0+2+5")


@given(st.integers(2, 9).flatmap(lambda depth: st.tuples(
    st.just(depth), st.lists(st.frozensets(st.integers(0, depth - 1), max_size=depth - 1), min_size=1, max_size=30, unique=True),
)))  # fmt: skip
def test_every_case_runs_its_own_layers_in_order(drawn):
    depth, cases = drawn
    walked = dict(skips.walk(cases, depth, 0, (), lambda layer, ran: (*ran, layer)))
    assert walked == {case: tuple(layer for layer in range(depth) if layer not in case) for case in cases}


@pytest.mark.parametrize("depth", [18, 30])
def test_all_pairs_cost_what_can_be_reckoned(depth):
    """Behind both holes each pair is alone: C(depth, 3) passes; one hole passed: C(depth, 2); none: depth - 2."""
    shared, alone = skips.passes(skips.pairs(depth), depth)
    assert shared == math.comb(depth, 3) + math.comb(depth - 1, 2) + depth - 2
    assert alone == math.comb(depth, 2) * (depth - 2)


def test_cases_are_named_and_each_is_there_once():
    cases = skips.named("singles,pairs,blocks-3,0+2+5", 6)
    assert cases[0] == frozenset()
    assert len(cases) == len(set(cases)) == 1 + 6 + 15 + 4 + 1
    assert {skips.written(case) for case in cases if len(case) == 3} == {
        "0+1+2",
        "1+2+3",
        "2+3+4",
        "3+4+5",
        "0+2+5",
    }
    for wrong in ("triples", "6", "1+1+x", "blocks-0", "0+1+2+3+4+5"):
        with pytest.raises(Unservable, match="--cases holds"):
            skips.named(wrong, 6)


def studied(small, log, *words: str, ranks: int = 1) -> subprocess.CompletedProcess:
    mpi = ["timeout", "-k", "5", "100", *(("mpirun", "-n", str(ranks)) if ranks > 1 else ())]
    command = [
        *mpi,
        sys.executable,
        "-m",
        "jarvis_mpi",
        "study",
        "--model",
        str(small),
        "--log",
        str(log),
        *WORDS,
        *words,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def nats(log) -> np.ndarray:
    with h5py.File(log) as file:
        return file["nats"][:]


def test_the_same_numbers_come_from_any_number_of_ranks_and_from_each_case_alone(small, tmp_path):
    one, three = tmp_path / "one.h5", tmp_path / "three.h5"
    assert studied(small, one).returncode == 0
    done = studied(small, three, ranks=3)
    assert done.returncode == 0, done.stderr
    assert "27 cases: " in done.stderr
    assert not np.isnan(nats(one)).any()
    assert (nats(one) == nats(three)).all()
    with h5py.File(one) as file:
        windows = [[7, *range(40, 71)]]
        scorer = Scorer(small, torch.float32, windows)
        assert file["cases"][0] == b""
    shared = dict(pair for first in range(7) for pair in scorer.scores(
        Task(0, first), [case for case in skips.named("pairs", 6) if skips.first_of(case, 6) == first]))  # fmt: skip
    for pair in combinations(range(6), 2):
        body = scorer.head.embed(windows[0], 0)
        for layer in set(range(6)) - set(pair):
            body = scorer.run(layer, body)
        assert nats_of(scorer.head, body, windows[0]) == shared[frozenset(pair)]  # bit for bit


def test_a_study_that_was_killed_goes_on_and_another_one_is_refused(small, tmp_path):
    whole, log = tmp_path / "whole.h5", tmp_path / "killed.h5"
    assert studied(small, whole).returncode == 0
    command = [sys.executable, "-m", "jarvis_mpi", "study", "--model", str(small), "--log", str(log), *WORDS]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        end = time.monotonic() + 60
        while not log.exists() or log.stat().st_size < 1000:
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.1)
        run.kill()
    assert studied(small, log).returncode == 0
    assert (nats(log) == nats(whole)).all()
    refused = studied(small, log, "--window", "16")
    assert refused.returncode == 1
    assert "is of another study (27 cases of " in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_the_map_is_drawn_with_the_numbers_behind_it(small, tmp_path):
    log = tmp_path / "study.h5"
    assert studied(small, log).returncode == 0
    done = subprocess.run(
        [sys.executable, "analysis/skip_map.py", log, log],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "skip_map.csv").open()))
    assert len(rows) == 2 * 27
    (tmp_path / "no.h5").write_text("no")
    wrong = subprocess.run(
        [sys.executable, "analysis/skip_map.py", tmp_path / "no.h5"], cwd=ROOT, capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert f"{tmp_path / 'no.h5'} is no study" in wrong.stderr
