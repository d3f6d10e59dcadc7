"""GGUF files in the cache folder: converted once, waited for by others, and what a full disk does."""

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import ggufs
import pytest

from jarvis_mpi.common import sealed_folder
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint, download
from jarvis_mpi.model.gguf_header import read

pytestmark = pytest.mark.slow


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quick(monkeypatch, convert):
    """Put `convert(source, folder)` in the place of the process that converts."""

    def run(words, **_):
        return subprocess.CompletedProcess(words, *convert(Path(words[-2]), Path(words[-1])))

    monkeypatch.setattr(download.subprocess, "run", run)


def test_capital_endings_other_names_and_links_are_one_model(cache, tmp_path, monkeypatch):
    ggufs.write(tmp_path / "a.gguf")
    folder, times = ggufs.converted(tmp_path / "a.gguf"), []

    def convert(source, into):
        times.append(source)
        for path in folder.iterdir():
            (into / path.name).write_bytes(path.read_bytes())
        return 0, "", ""

    quick(monkeypatch, convert)
    (tmp_path / "B.GGUF").write_bytes((tmp_path / "a.gguf").read_bytes())
    (tmp_path / "no-ending").symlink_to("a.gguf")
    found = {checkpoint.locate(str(tmp_path / name)) for name in ("a.gguf", "B.GGUF", "no-ending")}
    assert len(found) == len(times) == 1
    made = found.pop()
    assert made.name.endswith(f"-{download.CONVERTER}")
    assert sealed_folder.sealed(made)["converter"] == download.CONVERTER
    # An older version's result is not used, and a damaged one is made again.
    (made / "model.safetensors").write_bytes(b"short")
    assert checkpoint.locate(str(tmp_path / "a.gguf")) == made
    assert len(times) == 2
    monkeypatch.setattr(download, "CONVERTER", download.CONVERTER + 1)
    assert checkpoint.locate(str(tmp_path / "a.gguf")) != made
    assert len(times) == 3


@pytest.mark.very_slow
def test_a_whole_conversion_with_capitals(cache, tmp_path):
    ggufs.write(tmp_path / "A.GGUF")
    made = checkpoint.locate(str(tmp_path / "A.GGUF"))
    assert sorted(path.suffix for path in cache.iterdir() if path.is_file()) == [".lock"]
    assert list(sealed_folder.damage(made, lambda path: None)) == []


def test_those_that_waited_hear_at_once_why_it_failed(cache, tmp_path, monkeypatch):
    ggufs.write(tmp_path / "a.gguf")
    times, reasons = [], []

    def convert(source, into):
        times.append(source)
        time.sleep(0.5)
        return 1, "", "OSError: [Errno 28] No space left on device"

    def ask():
        with pytest.raises(Unservable) as error:
            checkpoint.locate(str(tmp_path / "a.gguf"))
        reasons.append(str(error.value))

    quick(monkeypatch, convert)
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(times) == 1
    assert len(reasons) == 3
    assert len(set(reasons)) == 1
    assert "No space left on device" in reasons[0]
    assert "JARVIS_CACHE" in reasons[0]
    assert "transformers" not in reasons[0]
    monkeypatch.setattr(download, "BEGUN", time.time() + 1)  # another run tries again
    ask()
    assert len(times) == 2


def test_a_file_system_that_says_beforehand_that_it_is_full(cache, tmp_path, monkeypatch):
    ggufs.write(tmp_path / "a.gguf")
    quick(monkeypatch, lambda source, into: pytest.fail("it was tried"))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(Unservable, match=r"needs .* GB are free.*JARVIS_CACHE"):
        checkpoint.locate(str(tmp_path / "a.gguf"))


def test_a_disk_that_fills_up_in_a_real_conversion(cache, tmp_path):
    ggufs.write(tmp_path / "a.gguf", intermediate_size=4096)
    code = "import sys; from jarvis_mpi.model import checkpoint; checkpoint.locate(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.gguf")], capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert "File too large" in last
    assert "JARVIS_CACHE" in last
    # No folder of a model; transformers' import has a file there too.
    assert not [path for path in cache.iterdir() if path.is_dir() and path.name != "transformers"]


def test_a_hostile_header_costs_nothing(tmp_path):
    ggufs.write(tmp_path / "a.gguf")
    good = (tmp_path / "a.gguf").read_bytes()
    for at, number in ((8, 2**40), (16, 2**40), (8, 2**63), (24, 2**50)):
        (tmp_path / "b.gguf").write_bytes(good[:at] + number.to_bytes(8, "little") + good[at + 8 :])
        begun = time.monotonic()
        with pytest.raises(Unservable, match=r"b.gguf is damaged"):
            read(tmp_path / "b.gguf")
        assert time.monotonic() - begun < 2
    (tmp_path / "b.gguf").write_bytes(good[:-1])
    with pytest.raises(Unservable, match=r"has \d+ bytes, but its header asks for \d+"):
        read(tmp_path / "b.gguf")
