"""Somebody else's machine: what is not there, or may not be written, is one sentence."""

import errno
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from jarvis_mpi import fetch
from jarvis_mpi.link import Unservable

ANALYSIS = Path(__file__).parent.parent / "analysis"
WITHOUT = (
    "import runpy, sys; sys.modules['matplotlib'] = None; sys.path.insert(0, sys.argv[1]); "
    "sys.argv[:] = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.mark.parametrize("script", sorted(path.name for path in ANALYSIS.glob("*.py")))
def test_no_figure_script_ends_in_a_traceback_without_matplotlib(script, tmp_path):
    words = [sys.executable, "-c", WITHOUT, str(ANALYSIS), str(ANALYSIS / script), "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.stderr == "figures are drawn with matplotlib, which is not here: pip install matplotlib\n"


@pytest.mark.parametrize("place", ["a file", "a file/below"])
def test_a_cache_that_cannot_be_made_is_one_sentence(place, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / place))
    with pytest.raises(
        Unservable, match=r"the cache folder .*a file.* cannot be used .*name another in JARVIS_CACHE"
    ):
        fetch.made(fetch.converted_folder("0" * 64), 1.0, lambda folder: pytest.fail("made"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")]
)
def test_a_file_system_without_locks_is_one_sentence(error, tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(Unservable, match="JARVIS_CACHE"), fetch.only_one(tmp_path / "model", 1.0):
        pass


def test_a_lock_that_another_holds_is_still_a_timeout(tmp_path):
    folder = tmp_path / "model"
    with (
        fetch.only_one(folder, 1.0),
        pytest.raises(Unservable, match="another process"),
        fetch.only_one(folder, 0.1),
    ):
        pass


def test_without_a_home_the_cache_must_be_named(monkeypatch):
    def nobody(_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("JARVIS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(Unservable, match=r"there is no home folder .*: name a folder in JARVIS_CACHE"):
        fetch.cache_folder()
