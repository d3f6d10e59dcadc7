"""Scripts of analysis/ that are given several things: a bad one is named, the others are drawn, and the
status is 1."""

import csv
import os
import shutil
import subprocess
import sys

import pytest
from places import RECORDS as OLD
from places import ROOT
from running import script

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    shutil.copy(OLD / "schema5.h5", tmp_path / "good.h5")
    (tmp_path / "bad.h5").write_bytes((tmp_path / "good.h5").read_bytes()[:3000])
    return tmp_path


def test_a_bad_record_costs_no_others_figure(folder, capsys):
    shutil.copy(folder / "good.h5", folder / "more.h5")
    assert script("compare", folder / "good.h5", folder / "bad.h5", folder / "more.h5") == "1"
    assert f"{folder}/bad.h5 is damaged: it is cut short" in capsys.readouterr().err
    with (folder / "compare.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["good", "more"]
    assert script("load", folder / "bad.h5", folder / "good.h5") == "1"
    assert f"{folder}/good.h5: schema 5" in capsys.readouterr().out
    assert script("load", "--mend", folder / "bad.h5", folder / "good.h5") == "1"
    assert script("load", "--mend", folder / "good.h5") == ""
    message = script("latency", folder / "bad.h5", folder / "none.h5")
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize("rc", [b"# Schriftgr\xf6\xdfe\n", b"text.usetex: True\n"])
def test_a_matplotlibrc_of_the_users_counts_for_nothing(folder, rc):
    (folder / "matplotlibrc").write_bytes(rc)
    done = subprocess.run(
        [sys.executable, ROOT / "analysis" / "latency.py", "good.h5", "--formats", "png"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "good-latency.png").is_file()


@pytest.mark.parametrize("name", ["a$\\foo$", "[red]x", "z\udcff"])
def test_a_name_of_a_file_is_no_formula_and_no_markup(folder, capsys, name):
    shutil.copy(folder / "good.h5", folder / f"{name}.h5")
    assert script("compare", folder / f"{name}.h5", folder / "good.h5") == ""
    printed = capsys.readouterr().out
    assert name.replace("\udcff", "\ufffd") in printed


def test_a_bad_member_of_a_list_costs_no_other_row(capsys):
    words = (
        "--nodes 9,0,x,1000000000 --model nothing,gemma-2b --machine pi4 --kbit-s 50000,0,nan --delay-ms "
        "0,inf"
    )
    assert script("predict", *words.split()) == "1"
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split()[:6] == ["gemma-2b", "on", "pi4", "9", "0", "50000"]
    for part in (
        "--model nothing is not known",
        "--nodes 0 is",
        "--nodes x is",
        "--nodes 1000000000 is",
        "--kbit-s 0 is",
        "--kbit-s nan is",
    ):
        assert part in printed.err
    assert len(printed.err.splitlines()) == 7


@pytest.mark.parametrize(("name", "words"), [
    ("predict", "--failures-per-hour -1"), ("predict", "--failures-per-hour inf"), ("predict", "--tokens 1"),
    ("predict", "--copies -1"),
    ("predict", "--prompt-rows 0"), ("study_time", "--cases ²"), ("study_time", "--ranks -1"),
    ("study_time", "--gflop-s nan"),
    ("study_time", "--tokens -3"),
])  # fmt: skip
def test_numbers_that_cannot_be_are_one_sentence(name, words):
    message = script(name, *words.split())
    assert message.startswith(words.split()[0])
    assert len(message.splitlines()) == 1
