"""How Python was started: without docstrings, in any locale, by another version."""

import os
import sys
from types import SimpleNamespace

import pytest
from running import python

from jarvis_mpi.common import interpreter
from jarvis_mpi.net.mpi_parameters import switched_on

pytestmark = pytest.mark.slow

FLAGS = "import runpy, sys; runpy.run_module('jarvis_mpi', run_name='__main__')"


@pytest.mark.parametrize(
    ("words", "expected", "optimize"),
    [
        (["-m", "jarvis_mpi", "-OO"], ["-m", "jarvis_mpi", "-OO"], "2"),
        (["-OO", "-m", "jarvis_mpi"], ["-m", "jarvis_mpi"], None),
        (["-BOO", "-X", "dev", "-m", "jarvis_mpi"], ["-B", "-X", "dev", "-m", "jarvis_mpi"], None),
        (
            ["-O", "-O", "-W", "ignore::Other", "-m", "jarvis_mpi"],
            ["-W", "ignore::Other", "-m", "jarvis_mpi"],
            "1",
        ),
        (["-m", "jarvis_mpi"], None, None),
    ],
)
def test_python_is_started_again_with_docstrings(words, expected, optimize, monkeypatch):
    again: list[list[str]] = []
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    monkeypatch.setattr(os, "execv", lambda _, words: again.append(words[3:]))
    monkeypatch.setenv("PYTHONOPTIMIZE", optimize) if optimize else monkeypatch.delenv(
        "PYTHONOPTIMIZE", raising=False
    )
    interpreter.start_again()
    assert again == ([expected] if expected else [])
    assert "PYTHONOPTIMIZE" not in os.environ


@pytest.mark.parametrize("words", [["-OO"], ["-BOO", "-X", "dev"], ["-O", "-O"]])
def test_without_docstrings_it_works_in_any_locale(words):
    done = python(
        *words, "-m", "jarvis_mpi", "--version", env={"LC_ALL": "C", "PYTHONUTF8": "0",
                                                      "PYTHONCOERCECLOCALE": "0"}
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_where_nothing_can_be_changed_python_is_not_started_again_and_again():
    done = python("-OO", "-c", FLAGS)
    assert done.returncode != 124
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("value", "on"),
    [
        *((value, True) for value in ("1", "2", "-1", "+3", "true", "t", "yes", "y", "enabled")),
        *((value, False) for value in ("", "0", "00", "false", "f", "no", "n", "disabled", "1x", "on")),
    ],
)
def test_open_mpis_switch_is_read_as_open_mpi_reads_it(value, on):
    assert switched_on(value) is on


MAIN = "import runpy; runpy.run_module('jarvis_mpi', run_name='__main__')"


@pytest.mark.parametrize(
    ("before", "says"),
    [
        (
            "import sys; sys.version_info = (3, 9, 18); sys.version = '3.9.18 (main)'",
            "needs Python 3.11 or newer, and ",
        ),
        ("import sys; sys.modules['psutil'] = None", "has no psutil: activate the environment"),
        (
            "import sys; sys.modules['llvmlite'] = None; import jarvis_mpi.app.cli",
            "usage: mpirun",
        ),  # of which only workers need it
    ],
)
def test_another_python_is_one_sentence(before, says):
    done = python("-c", f"{before}; import sys; sys.argv[1:] = ['--help']; {MAIN}")
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("TORCH_LOGS", "all-the-things", "with light_imports.light_imports(): import torch, transformers"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "30s", "checkpoint.in_hubs_cache('owner/name')"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "30s", "checkpoint.from_hub('owner/name', print)"),
    ],
)
def test_a_librarys_own_variable_is_one_sentence(name, value, code):
    done = python(
        "-c",
        "from jarvis_mpi.common.errors import Unservable\n"
        "from jarvis_mpi.model import checkpoint, light_imports\n"
        f"try:\n    {code}\nexcept Unservable as error: print('SENTENCE', error)",
        env={name: value},
    )
    assert "SENTENCE" in done.stdout, done.stderr
    assert value in done.stdout
