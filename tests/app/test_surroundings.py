"""What shells, launchers and notebooks leave in the environment, locks of others, and names that are not
UTF-8."""

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from places import ROOT
from rich.table import Table
from running import python

from jarvis_mpi.app import resume
from jarvis_mpi.common import variables
from jarvis_mpi.common.console import console
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.new_file import check_path
from jarvis_mpi.common.options import PATHS, parse
from jarvis_mpi.common.prompt_file import PromptLine
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model import checkpoint, trial
from jarvis_mpi.net import launcher
from jarvis_mpi.record import hdf5
from jarvis_mpi.study import skip_cases

pytestmark = pytest.mark.slow

LATIN = os.fsdecode(b"m\xfcller")


@pytest.mark.parametrize("name", ["SLURM_PROCID", "PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK"])
@pytest.mark.parametrize("words", [["--nonsense"], ["study", "--nonsense"]])
def test_a_rank_that_nobody_launched_complains(name, words):
    done = python("-m", "jarvis_mpi", *words, env={name: "2"})
    assert done.returncode == 2
    assert "--nonsense" in done.stderr


def test_a_launchers_other_ranks_are_silent(monkeypatch):
    monkeypatch.setenv("PMIX_RANK", "2")
    for name in ("PMIX_SERVER_URI41", "PMI_FD", "PMI_PORT", "JARVIS_SSH_KEEPALIVE"):
        with monkeypatch.context() as other:
            other.setenv(name, "1")
            assert not launcher.complains()
    monkeypatch.setenv("PMIX_RANK", "0")
    assert launcher.complains()


@pytest.mark.parametrize("path", ["jarvis_mpi", "jarvis_mpi/__main__.py"])
def test_the_package_as_a_script_says_how_it_is_started(path):
    done = python(path)
    assert done.returncode == 1
    assert done.stderr.startswith("start it as a module")


@pytest.mark.parametrize("words", [["--help"], ["doctor", "--model", "none-of-that-name"]])
@pytest.mark.parametrize("before", ["", ":"])  # an empty entry of PYTHONPATH is the working folder
def test_a_file_of_the_users_is_not_taken_for_pythons_or_a_librarys(words, before, tmp_path):
    for name in (
        "random",
        "select",
        "queue",
        "numbers",
        "tokenizers",
        "torch",
        "json",
        "h5py",
        "rich",
        "mpi4py",
    ):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the users file')")
    done = subprocess.run(
        [sys.executable, "-m", "jarvis_mpi", *words], cwd=tmp_path, capture_output=True, text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": f"{before}{ROOT}"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "the users file" not in done.stderr
    assert "jarvis_mpi" in done.stdout + done.stderr or "none-of-that-name" in done.stdout


@pytest.mark.parametrize("env", [{"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}, {}])
def test_a_file_gets_plain_and_whole_lines(env, monkeypatch):
    for name, value in {**env, "COLUMNS": "12"}.items():
        monkeypatch.setenv(name, value)
    file, table = io.StringIO(), Table("node", "compute ms", header_style="bold")
    table.add_row("a host with a long name", "1234.56")
    shown = console(file)
    shown.print(table)
    shown.print("[red]a name[/red]", style="bold")
    assert "\x1b" not in file.getvalue()
    assert "1234.56" in file.getvalue()
    assert "a host with a long name" in file.getvalue()
    assert "[red]a name[/red]" in file.getvalue()
    assert not shown.is_interactive


def test_all_that_is_shown_goes_through_one_console():
    for folder in ("jarvis_mpi", "analysis"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.name == "console.py" or " Console(" not in path.read_text(), path


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "TkAgg"])
def test_a_notebooks_backend_is_no_matter_to_figures(backend):
    done = python("analysis/latency.py", "--help", env={"MPLBACKEND": backend})
    assert done.returncode == 0, done.stderr


def test_who_has_a_records_lock_is_named(tmp_path):
    path = tmp_path / "run.h5"
    path.write_bytes(b"x")
    hdf5.free(path)
    code = (
        f"import fcntl, sys; f = open({str(path)!r}); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(hdf5.InUse) as raised:
            hdf5.free(path)
        assert f"process {other.pid} (" in raised.value.strerror
        assert "has it open: end that, or wait for its end" in raised.value.strerror
        other.stdin.close()
    hdf5.free(path)
    with path.open() as ours:
        fcntl.flock(ours, fcntl.LOCK_SH)
        with pytest.raises(hdf5.InUse, match="another process has it open"):
            hdf5.free(path)


@pytest.mark.parametrize("place", [LATIN, f"{LATIN}/below"])
def test_a_models_folder_whose_name_is_not_utf_8_is_named(place, small, tmp_path):
    shutil.copytree(small, tmp_path / place)
    with pytest.raises(
        Unservable, match=r"the folder '.*m.udcfcller' has a name that is not UTF-8 text: rename it"
    ):
        checkpoint.locate(str(tmp_path / place))


def test_a_folder_for_temporary_files_whose_name_is_not_utf_8_is_named(small, tmp_path, monkeypatch):
    (tmp_path / LATIN).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / LATIN))
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(Unservable, match=r"the folder for temporary files, .* name another in TMPDIR"):
        trial.check(small)


def test_blocks_are_those_that_a_model_has():
    assert skip_cases.named("blocks-8", 6) == skip_cases.named("blocks-5", 6)
    assert all(len(case) < 6 for case in skip_cases.named("singles,pairs,blocks-8", 6))
    for wrong in ("blocks-0", "blocks-", "blocks-x", "0+1+2+3+4+5", "6"):
        with pytest.raises(Unservable, match="--cases holds"):
            skip_cases.named(wrong, 6)


def test_without_ssh_the_sentence_says_what_to_do():
    gone = FileNotFoundError(2, "No such file or directory", "ssh")
    assert variables.not_started(gone) == "there is no ssh here: apt-get install openssh-client"
    assert (
        variables.not_started(PermissionError(13, "Permission denied", "/x/ssh"))
        == "/x/ssh: Permission denied"
    )


def test_a_records_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "a.h5").write_text("mine")
    for name in ("a.h5/x.h5", "a.h5/b/x.h5"):
        with pytest.raises(Unservable, match=r"x.h5 cannot be written: .*a.h5 is no folder"):
            check_path(tmp_path / name)
    (tmp_path / "link.h5").symlink_to(tmp_path / "elsewhere" / "run.h5")
    with pytest.raises(Unservable, match=r"link.h5 cannot be written: "):
        check_path(tmp_path / "link.h5")
    assert (tmp_path / "link.h5").is_symlink()
    assert (tmp_path / "a.h5").read_text() == "mine"


@pytest.mark.mpirun
def test_a_study_that_is_refused_says_so(small, tmp_path):
    words = ["timeout", "-k", "5", "60", "mpirun", "-n", "2", sys.executable, "-m", "jarvis_mpi", "study"]
    for _ in range(3):
        done = subprocess.run(
            [*words, "--model", str(small), "--cases", "nonsense", "--log", str(tmp_path / "s.h5")],
            cwd=ROOT, capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert done.returncode == 1
        assert "--cases holds 'nonsense'" in done.stderr


def test_a_tilde_behind_an_options_equals_sign_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    words = [f"--{name}=~/x" for name in PATHS]
    assert {getattr(parse(words), name) for name in PATHS} == {"/home/somebody/x"}


def test_a_file_of_a_models_folder_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    with pytest.raises(Unservable, match=r"m/config.json is a file: name the model's folder \(--model m\)"):
        checkpoint.locate("m/config.json")


def done_run(*prompts: str) -> Any:
    questions = [
        SimpleNamespace(prompt=prompt, answered=True, ended="end", text=f"of {prompt}", tokens=[1])
        for prompt in prompts
    ]
    return SimpleNamespace(events=[], questions=questions, path="run.h5")


def test_a_run_that_is_done_gives_no_answer_to_another_question():
    asked, out = [PromptLine(1, "one"), PromptLine(2, "two")], io.StringIO()
    settings = Settings(prompts="p.txt")
    assert resume.print_again(done_run("one", "two"), settings, asked, out) == 0
    assert [json.loads(line)["text"] for line in out.getvalue().splitlines()] == ["of one", "of two"]
    with pytest.raises(Unservable, match=r"p.txt has other prompts than the run in run.h5 had"):
        resume.print_again(done_run("one", "TWO"), settings, asked, io.StringIO())
    out = io.StringIO()
    assert resume.print_again(done_run("one"), settings, asked, out) == 1
    assert "was not asked this" in json.loads(out.getvalue().splitlines()[1])["error"]
