"""Figures and sums from records: each comes with its numbers, live ones end with the run."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from places import RECORDS, ROOT
from running import (
    ONE_RUN,
    SEVERAL,
    mpirun,
    script,
    start,
    words_for,
)

from jarvis_mpi.record.reader import load

pytestmark = pytest.mark.slow


@pytest.mark.mpirun
@pytest.mark.parametrize("name", [*ONE_RUN, *SEVERAL])
def test_a_folder_that_cannot_be_written_is_one_sentence(name, tmp_path, killed_and_mended):
    (tmp_path / "file").write_text("")
    exits = script(name, killed_and_mended, "--out", tmp_path / "file" / "figures")
    assert "cannot be written: Not a directory (--out says where else)" in exits


@pytest.fixture(scope="module")
def killed_and_mended(small, tmp_path_factory) -> Path:
    """The record of a run in which a worker died."""
    log = tmp_path_factory.mktemp("figures") / "run.h5"
    words = words_for(small, log, "--max-new-tokens", "30", "--ignore-eos", "--fault", "kill 2 @ 9")
    assert mpirun(4, *words).returncode == 0
    return log


@pytest.mark.mpirun
def test_every_figure_comes_with_the_numbers_behind_it(killed_and_mended, tmp_path, capsys):
    run, tables = load(killed_and_mended), {}
    for name in (*ONE_RUN, *SEVERAL):
        assert script(name, killed_and_mended, "--out", tmp_path, "--formats", "png,pdf,svg") == ""
        assert f"run-{name}.{{png,pdf,svg,csv}}" in capsys.readouterr().out
        for suffix in ("png", "pdf", "svg"):
            assert (tmp_path / f"run-{name}.{suffix}").stat().st_size > 3000
        tables[name] = list(csv.DictReader((tmp_path / f"run-{name}.csv").open()))
    assert [float(row["total_ms"]) for row in tables["latency"]] == pytest.approx(1e3 * run.tokens["total_s"])
    assert [row["node"] for row in tables["hops"]] == ["0", "1", "2", "3"]
    (fault,) = tables["faults"]
    assert (fault["node"], fault["sign"], fault["step"]) == ("2", "LOST", "9")
    parts = sum(float(fault[part]) for part in ("noticed ms", "decided ms", "mended ms"))
    assert parts == pytest.approx(float(fault["gap ms"]))
    assert {int(row["step"]) for row in tables["timeline"]} == {8, 9, 10}
    assert float(tables["compare"][0]["tokens"]) == 30


@pytest.mark.mpirun
def test_live_figures_end_with_the_run(small, tmp_path):
    log = tmp_path / "run.h5"
    run = start(3, *words_for(small, log, "--max-new-tokens", "40", "--ignore-eos"))
    while not log.exists():
        time.sleep(0.05)
    words = [sys.executable, "analysis/latency.py", str(log), "--live", "--formats", "png"]
    followed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=90)
    run.communicate(timeout=60)
    assert (followed.returncode, followed.stderr) == (0, "")
    assert len(list(csv.reader((tmp_path / "run-latency.csv").open()))) == 41


@pytest.mark.mpirun
def test_runs_are_compared_by_any_option_of_theirs(killed_and_mended, tmp_path, capsys):
    other = RECORDS / "schema3.h5"
    assert script("compare", killed_and_mended, other, "--by", "copies", "--out", tmp_path) == ""
    assert script("compare", killed_and_mended, other, "--by", "nodes", "--out", tmp_path) == ""
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [row["nodes"] for row in rows] == ["4", str(len(load(other).hosts))]
    assert "has no such option" in script("compare", other, "--by", "colour")


@pytest.mark.mpirun
def test_a_summary_tells_what_is_in_a_record(killed_and_mended, capsys):
    assert script("load", killed_and_mended) == ""
    printed = capsys.readouterr().out
    assert "30 tokens in" in printed
    assert "node 2 lost at step 9" in printed
    assert script("load", "--done", killed_and_mended) == ""
    assert script("load", "--done", RECORDS / "schema3.h5") == ""
    assert script("load", "--done", RECORDS / "schema1.h5") == "1"  # it had no mark yet
    assert json.loads(json.dumps(load(killed_and_mended).settings))["prompt"] == "abc"


@pytest.mark.parametrize("name", ["skip_map", "skip_tasks", "predict", "patches", "load", "latency"])
def test_every_script_ends_in_a_sentence_where_a_file_is_another(name, tmp_path, capsys):
    (tmp_path / "garbage").write_bytes(bytes(range(256)))
    (tmp_path / "list").write_text("[" * 100_000)
    with h5py.File(tmp_path / "half.h5", "w") as half:
        half["cases"] = ["", "1"]
        half.attrs["schema"] = 6
    shutil.copy(RECORDS / "schema5.h5", tmp_path / "linked.h5")
    with h5py.File(tmp_path / "linked.h5", "r+") as linked:
        del linked["events"]
        linked["events"] = h5py.ExternalLink("/etc/hostname", "events")
    for file in ("garbage", "list", "half.h5", "linked.h5", "none"):
        message = script(name, tmp_path / file)
        assert str(tmp_path / file) in message or name == "patches", message
        assert len(message.splitlines()) == 1
    assert capsys.readouterr().out == ""
