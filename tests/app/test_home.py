"""A home folder that is another's, cannot be read, or is not there."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint, integrity
from jarvis_mpi.net import mpi_parameters

pytestmark = pytest.mark.slow

ANOTHERS = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
]
can_be_shut_out = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can give its rights up, with setpriv"
)


@pytest.fixture
def anothers_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)
    return home


def shut_out(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess:
    hidden = {"JARVIS_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [*ANOTHERS, sys.executable, "-m", "jarvis_mpi", *words],
        cwd=ROOT, env={**environment, "HOME": str(home), **more}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@can_be_shut_out
@pytest.mark.parametrize(
    "words", ["setup", "doctor", "doctor --model owner/name", "stage-model --hostfile {hosts}"]
)
def test_a_cache_in_anothers_home_names_the_folder_and_the_variables(words, anothers_home, tmp_path):
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    done = shut_out(anothers_home, *words.format(hosts=tmp_path / "hosts").split())
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "Permission denied" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"the cache folder {anothers_home}/.cache/jarvis_mpi cannot be ")
    assert lines[0].endswith(
        f": name another in JARVIS_CACHE, or your own home folder in HOME (it is {anothers_home})"
    )


@can_be_shut_out
def test_a_local_model_needs_nobodys_home(small, anothers_home, tmp_path):
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    words = ["doctor", "--hostfile", str(tmp_path / "hosts"), "--model", str(small)]
    done = shut_out(anothers_home, *words)
    assert done.stdout.endswith("nothing to mend\n"), done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("kind", ["nobody", "another's", "a file", "latin-1"])
def test_parameters_that_cannot_be_read_are_passed_over_as_mpi_does(kind, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Could not determine home directory.")

    def denied(path, *words, **more):
        if tmp_path in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path, *words, **more)

    monkeypatch.delenv("OMPI_MCA_mpi_ft_enable", raising=False)
    monkeypatch.setattr(Path, "home", refuse if kind == "nobody" else lambda: tmp_path)
    read = Path.read_text
    if kind == "another's":
        monkeypatch.setattr(Path, "read_text", denied)
    elif kind == "a file":
        (tmp_path / ".openmpi").write_text("")
    elif kind == "latin-1":
        (tmp_path / ".openmpi").mkdir()
        (tmp_path / ".openmpi" / "mca-params.conf").write_bytes(b"# f\xfcr\nmpi_ft_enable = 0\n")
    assert bool(mpi_parameters.without_fault_tolerance("Open MPI")) == (kind == "latin-1")


def test_parameters_that_setup_cannot_read_are_named(tmp_path):
    (tmp_path / "openmpi-mca-params.conf").write_bytes(b"# f\xfcr\n")
    with pytest.raises(
        Unservable, match=r"openmpi-mca-params.conf cannot be read \(.*\): correct it, or use"
    ):
        mpi_parameters.write_parameters(tmp_path)
    assert (tmp_path / "openmpi-mca-params.conf").read_bytes() == b"# f\xfcr\n"


def test_a_home_that_nobody_has_is_one_sentence():
    with pytest.raises(
        Unservable, match=r"the model ~nosuch/x cannot be read: .*: write its folder's path out"
    ):
        checkpoint.locate("~nosuch/x")


def test_the_doctor_goes_on_without_a_home(small, monkeypatch, capsys):
    def refuse():
        raise Unservable("there is no home folder")

    monkeypatch.setattr(integrity, "cache_folder", refuse)
    assert integrity.check(str(small), 10.0) == 1
    output = capsys.readouterr().out
    assert "\nthere is no home folder\n" in output
    assert output.endswith("1 thing to mend\n")
