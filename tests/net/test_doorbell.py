"""Doorbells: rung in a folder that is one's own, by whom lives; else naps."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jarvis_mpi.net.doorbell import Doorbell
from jarvis_mpi.net.private_folder import FOLDER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bells are Linux's")


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / ("deep" * 40) / "ompi.1"  # longer than a socket's path may be
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    monkeypatch.setenv(FOLDER, str(folder))
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "3")
    return folder


def wakes(bell: Doorbell) -> bool:
    begun = time.monotonic()
    bell.wait(0.2)
    return time.monotonic() - begun < 0.15


def test_a_ring_wakes_only_whom_it_is_for(own):
    first, second = Doorbell(0, 3), Doorbell(1, 3)
    assert first.ring(1)
    assert (wakes(second), wakes(second), wakes(first)) == (True, False, False)
    assert sorted(path.name for path in own.iterdir()) == ["bell.0", "bell.1"]
    for _ in range(1000):  # more than its queue takes
        assert first.ring(1)


def test_a_bell_goes_on_to_ring_when_the_folder_is_removed(own):
    first, second = Doorbell(0, 3), Doorbell(1, 3)
    first.ring(1)
    wakes(second)
    for path in own.iterdir():
        path.unlink()
    own.rmdir()
    assert first.ring(1)
    assert wakes(second)
    assert second.ring(0)  # which it has never rung: nothing is known of it
    second.socket.close()
    assert not first.ring(1)
    assert not first.ring(1)


def test_a_process_that_died_is_told_from_one_that_has_no_bell_yet(own):
    code = "from jarvis_mpi.net.doorbell import Doorbell; b = Doorbell(2, 3); print(flush=True); b.wait(60)"
    first = Doorbell(0, 3)
    assert first.ring(2)
    for rings_before in (True, False):
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        other.stdout.readline()
        if rings_before:
            assert first.ring(2)
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        other.stdout.close()
        assert not first.ring(2)
        (own / "bell.2").unlink()
        first = Doorbell(1, 3)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_naps_where_others_could_put_a_bell(own, mode):
    own.chmod(mode)
    bell = Doorbell(0, 3)
    assert not bell.all_on_host
    assert bell.ring(1)
    assert not wakes(bell)


@pytest.mark.parametrize("how", ["elsewhere", "no folder", "somebody else's"])
def test_naps_without_a_folder_of_ones_own(own, how, monkeypatch):
    match how:
        case "elsewhere":
            monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
        case "no folder":
            monkeypatch.delenv(FOLDER)
        case _ if os.geteuid():
            pytest.skip("only root can give a folder away")
        case _:
            os.chown(own, 65534, 65534)
    assert not Doorbell(0, 3).all_on_host


def test_the_names_that_anybody_could_take_are_not_used(own, monkeypatch):
    monkeypatch.setenv("PMIX_NAMESPACE", "prterun-here-1@1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as squatter:
        squatter.bind("\0jarvis_mpi/prterun-here-1@1/0")
        assert Doorbell(0, 3).all_on_host
