"""Somebody else's machine: what is not there, or may not be written, is one sentence."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import filelock
import ggufs
import pytest
from test_light import planted
from test_mpirun import small  # noqa: F401 (a fixture)
from test_parts import bytes_folder  # noqa: F401 (a fixture)

from jarvis_mpi import fetch
from jarvis_mpi.link import Unservable

ROOT = Path(__file__).parent.parent
ANALYSIS = ROOT / "analysis"
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


# -- neighbours in the environment, to the commands that are no run of the model

FOR_PICTURES_AND_SOUND = ("torchvision", "PIL", "torchaudio", "peft", "timm", "scipy")


def commands(folder: Path, model: Path) -> dict[str, list[str]]:
    (folder / "q.txt").write_text("\n".join(f"why {number}" for number in range(60)))
    ggufs.write(folder / "a.gguf")
    (folder / "converted").mkdir()
    fits = ["--model", str(model), "--text", "README.md", "--workers", "2", "--tokens", "512", "--steps", "0"]
    drafts = [
        "--model",
        str(model),
        "--prompts",
        str(folder / "q.txt"),
        "--layers",
        "2",
        "--answer-tokens",
        "2",
    ]
    return {
        "convert-gguf": [str(folder / "a.gguf"), str(folder / "converted")],
        "fit-patches": [*fits, "--out", str(folder / "p.safetensors")],
        "fit-draft": [*drafts, "--passes", "1", "--out", str(folder / "draft")],
        "doctor": ["--model", str(model)],
    }


def test_no_command_ends_because_of_a_package_that_no_text_needs(small, tmp_path):  # noqa: F811
    for name in FOR_PICTURES_AND_SOUND:
        planted(tmp_path / "site", name, f"raise RuntimeError('operator {name}::nms does not exist')")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    for name, words in commands(tmp_path, small).items():
        done = subprocess.run(
            [sys.executable, "-m", "jarvis_mpi", name, *words],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout[-500:]}{done.stderr[-1500:]}"
        assert "Traceback" not in done.stderr
