"""The key of a run: made once, read by all ranks and nobody else; one sentence where there is none."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.net import run_key
from jarvis_mpi.net.private_folder import FOLDER

LAUNCHERS = ("OMPI_", "PMI_", "PMIX_", "MPI_", "SLURM_", "JARVIS_RUN")


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """A folder of mpirun's, as the ranks of one machine find it."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    folder = tmp_path / "ompi.1"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


def ranks(monkeypatch, everywhere: int, here: int) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", str(everywhere))
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(here))


def test_all_who_make_it_at_once_have_the_same(own):
    with ThreadPoolExecutor(8) as pool:
        processes = [
            pool.submit(
                subprocess.run,
                [sys.executable, "-c", f"from jarvis_mpi.net.run_key import made; print(made({str(own)!r}))"],
                capture_output=True, text=True, timeout=60,
            )
            for _ in range(8)
        ]  # fmt: skip
        keys = {each.result().stdout.strip() for each in processes}
    assert keys == {run_key.read(str(own))}
    assert len(bytes.fromhex(keys.pop())) == run_key.KEY_BYTES
    assert [path.name for path in own.iterdir()] == [run_key.FILE]
    assert (own / run_key.FILE).stat().st_mode & 0o777 == 0o600
    run_key.removed()
    assert not [*own.iterdir()]


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_nothing_is_put_where_others_can_go(own, mode):
    own.chmod(mode)
    assert run_key.made(str(own)) == ""
    assert not [*own.iterdir()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_taken(own):
    os.chown(own, 65534, 65534)
    assert run_key.made(str(own)) == ""


def test_a_key_that_somebody_has_put_there_as_a_link_is_not_read(own, tmp_path):
    (tmp_path / "known").write_text("00" * run_key.KEY_BYTES)
    (own / run_key.FILE).symlink_to(tmp_path / "known")
    assert run_key.read(str(own)) == ""


def test_one_machine_is_in_the_clear_unless_it_is_asked_for(own, monkeypatch):
    ranks(monkeypatch, 4, 4)
    assert run_key.key_for("auto") == (b"", "")
    assert run_key.key_for("off") == (b"", "")
    key, notice = run_key.key_for("on")
    assert (len(key), notice) == (run_key.KEY_BYTES, "")
    assert run_key.key_for("on")[0] == key


def test_on_several_hosts_the_key_is_there_or_that_is_said(own, monkeypatch):
    ranks(monkeypatch, 4, 1)
    assert run_key.key_for("auto") == (b"", run_key.CLEAR)
    with pytest.raises(Unservable, match="--secure on cannot be had: this launcher hands no key"):
        run_key.key_for("on")
    assert not [*own.iterdir()]  # a rank alone makes none: the others would not have it
    assert run_key.made(str(own))
    key, notice = run_key.key_for("auto")
    assert (len(key), notice) == (run_key.KEY_BYTES, "")
    monkeypatch.setenv(run_key.KEY, "ff" * run_key.KEY_BYTES)
    assert run_key.key_for("auto")[0] == b"\xff" * run_key.KEY_BYTES
    assert run_key.KEY not in os.environ
    assert run_key.key_for("off") == (b"", "")


@pytest.mark.parametrize("nonsense", ["", "00", "no digits" * 9, "ff" * 33])
def test_half_a_key_is_none(own, monkeypatch, nonsense):
    ranks(monkeypatch, 4, 1)
    (own / run_key.FILE).write_text(nonsense)
    assert run_key.key_for("auto") == (b"", run_key.CLEAR)


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        (
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "SLURM_STEP_NUM_NODES": "2"},
            False,
        ),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, True),
        ({"PMI_SIZE": "4", "MPI_LOCALNRANKS": "2"}, True),
        ({"PMI_SIZE": "4", "MPI_LOCALNRANKS": "4"}, False),
        ({"SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "1"}, True),
        ({"SLURM_STEP_NUM_NODES": "1", "PMI_SIZE": "4"}, False),
        ({}, False),
    ],
)
def test_several_hosts_by_what_each_launcher_says(own, monkeypatch, variables, several):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run_key.several_hosts() is several


def test_without_mpirun_secure_on_is_refused(own, monkeypatch):
    monkeypatch.delenv(FOLDER)
    with pytest.raises(Unservable, match="--secure on cannot be had"):
        run_key.key_for("on")
