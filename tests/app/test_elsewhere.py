"""Somebody else's machine: what is not there, or may not be written, is one sentence."""

import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import filelock
import ggufs
import pytest
from places import ROOT
from running import planted

from jarvis_mpi.app import startup_laps
from jarvis_mpi.app.cli import COMMANDS
from jarvis_mpi.app.terminal import is_own_pipe
from jarvis_mpi.common import cache_folder
from jarvis_mpi.common import progress_bar as bar_module
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import download
from jarvis_mpi.record.reader import load

pytestmark = pytest.mark.slow

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
        download.made(download.converted_folder("0" * 64), 1.0, lambda folder: pytest.fail("made"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")]
)
def test_a_file_system_without_locks_is_one_sentence(error, tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(Unservable, match="JARVIS_CACHE"), cache_folder.only_one(tmp_path / "model", 1.0):
        pass


def test_a_lock_that_another_holds_is_still_a_timeout(tmp_path):
    folder = tmp_path / "model"
    with (
        cache_folder.only_one(folder, 1.0),
        pytest.raises(Unservable, match="another process"),
        cache_folder.only_one(folder, 0.1),
    ):
        pass


def test_without_a_home_the_cache_must_be_named(monkeypatch):
    def nobody(_):
        raise RuntimeError("Could not determine home directory.")

    for name in ("JARVIS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(Unservable, match=r"there is no home folder .*: name a folder in JARVIS_CACHE"):
        cache_folder.cache_folder()


# -- neighbours in the environment, to the commands that are no run of the model

FOR_PICTURES_AND_SOUND = ("torchvision", "PIL", "torchaudio", "peft", "timm", "scipy")


def test_no_command_ends_because_of_a_package_that_no_text_needs(small, tmp_path):
    for name in FOR_PICTURES_AND_SOUND:
        planted(tmp_path / "site", name, f"raise RuntimeError('operator {name}::nms does not exist')")
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    (tmp_path / "q.txt").write_text("\n".join(f"why {number}" for number in range(60)))
    ggufs.write(tmp_path / "a.gguf")
    (tmp_path / "converted").mkdir()
    for words in (
        ["convert-gguf", str(tmp_path / "a.gguf"), str(tmp_path / "converted")],
        ["fit-draft", "--model", str(small), "--prompts", str(tmp_path / "q.txt"), "--layers", "2",
         "--answer-tokens", "2", "--passes", "1", "--out", str(tmp_path / "draft")],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "jarvis_mpi", *words],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{words[0]}: {done.stdout[-500:]}{done.stderr[-1500:]}"
        assert "Traceback" not in done.stderr


# -- locale, standard streams, another user

PROMPT = "O\u00f9 est Gen\u00e8ve, \u65e5\u672c?"
ANCIENT = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def words_of(model: Path, log: Path | None, *more: str) -> list[str]:
    return [
        "timeout", "-k", "5", "150", "mpirun", "-hostfile", str(ROOT / "hostfiles/local"), "-n", "3",
        sys.executable, "-m", "jarvis_mpi", "--model", str(model), "--prompt", PROMPT, "--max-new-tokens",
        "8", "--ignore-eos",
        *(["--log", str(log)] if log else []), *more,
    ]  # fmt: skip


@pytest.mark.mpirun
def test_a_prompt_is_utf_8_whatever_the_locale():
    done = subprocess.run(
        [sys.executable, "-m", "jarvis_mpi", "--prompt", PROMPT],
        cwd=ROOT, env=os.environ | ANCIENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == "there is no worker: start at least two ranks (mpirun -n 2 or more)\n"


@pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="looks into /proc")
def test_a_pipe_from_a_process_to_itself_is_nobodys():
    ours, to_us = os.pipe()
    own = Path("/proc/self/fd")
    try:
        assert is_own_pipe(own / str(ours))
        assert is_own_pipe(own / str(to_us))
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as other:
            assert not is_own_pipe(own / str(other.stdin.fileno()))
            assert not is_own_pipe(Path(f"/proc/{other.pid}/fd/0"))
            assert not is_own_pipe(Path(f"/proc/{other.pid}/fd/1"))
    finally:
        os.close(ours)
        os.close(to_us)


def test_a_bar_is_lines_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(bar_module, "AGAIN_S", 0.0)
    with bar_module.bar(3, "windows") as advance:
        advance(1)
        advance(2)
    assert capsys.readouterr().err == "windows: 1 of 3 after 0 s\nwindows: 3 of 3 after 0 s\n"


def test_a_start_that_takes_long_is_reported_again(monkeypatch, capsys):
    monkeypatch.setattr(startup_laps, "AGAIN_S", 0.2)
    monkeypatch.setattr(startup_laps, "goes_to_a_file", lambda _: True)
    aloud = startup_laps.Aloud()
    aloud.begin("looking for a model")
    time.sleep(0.5)
    aloud.lap("model_s")
    aloud.lap(startup_laps.LAST)
    errors = capsys.readouterr().err
    time.sleep(0.5)
    assert errors.count("looking for a model") >= 2
    assert errors.endswith("importing torch and transformers\n")
    assert capsys.readouterr().err == ""


@pytest.mark.mpirun
def test_standard_output_and_input_closed_and_standard_error_a_file(small, tmp_path):
    """In the ancient locale, and neither a cache nor temporary files nor a home can be had."""
    (tmp_path / "a file").write_text("")
    environment = os.environ | ANCIENT
    environment |= {"HOME": str(tmp_path / "none"), "TMPDIR": str(tmp_path / "none")}
    environment["JARVIS_CACHE"] = str(tmp_path / "a file" / "below")  # a local folder needs none
    log, words = tmp_path / "run.h5", tmp_path / "words.txt"
    begun, first_s = time.monotonic(), 0.0
    with words.open("w") as errors:
        run = subprocess.Popen(
            ["bash", "-c", 'exec "$@" <&- >&-', "bash", *words_of(small, log)],
            cwd=ROOT, env=environment, stderr=errors,
        )  # fmt: skip
    while run.poll() is None:
        if not first_s and words.stat().st_size:
            first_s = time.monotonic() - begun
        time.sleep(0.05)
    errors = words.read_text()
    assert run.returncode == 0, errors
    assert errors.startswith("starting, 0 s: looking for "), errors
    assert "standard output is closed: the answer stands in the record only" in errors
    assert "Traceback" not in errors
    assert 0 < first_s < 5, "a second or less on a machine that does nothing else"
    record = load(log)
    assert len(record.tokens) == 8
    assert record.attributes["prompt"] == PROMPT


AS_NOBODY = """
set -eu
stage=$(mktemp -d)
mount --make-rprivate /
mount -t tmpfs tmpfs "$stage"
number=0
for needed in $NEEDED; do
    number=$((number + 1)); mkdir "$stage/$number"; mount --bind "$needed" "$stage/$number"
done
for closed in $CLOSED; do mount -t tmpfs -o mode=755 tmpfs "$closed"; done
number=0
for needed in $NEEDED; do
    number=$((number + 1)); mkdir -p "$needed"; mount --bind "$stage/$number" "$needed"
    mount -o remount,bind,ro "$needed"
done
mount -t tmpfs -o size=64k tmpfs /dev/shm
cd "$WHERE"
exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
"""


def namespaces() -> bool:
    """Whether this process may mount in a namespace of its own."""
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.mpirun
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not namespaces(), reason="mounting is not allowed here")
def test_an_ordinary_user_of_what_root_has_set_up(small):
    """The checkout and the environment can be read and not be written; no home; no room in /dev/shm; a prompt
    that is not ASCII."""
    needed = dict.fromkeys(map(Path, (ROOT, sys.prefix, sys.base_prefix)))
    closed = {
        folder for path in needed for folder in path.resolve().parents if not folder.stat().st_mode & 0o001
    }
    outermost = [folder for folder in closed if not closed & set(folder.parents)]
    with tempfile.TemporaryDirectory() as place:
        own = Path(place) / "with spaces"
        shutil.copytree(small, own / "model")
        for each in (Path(place), own, own / "model", *own.rglob("*")):
            shutil.chown(each, 65534, 65534)
        environment = os.environ | ANCIENT | {
            "NEEDED": " ".join(map(str, needed)), "CLOSED": " ".join(map(str, outermost)), "WHERE": str(ROOT),
            "HOME": "/nonexistent", "TMPDIR": str(own), "JARVIS_CACHE": str(own / "cache"),
        }  # fmt: skip
        done = subprocess.run(
            ["unshare", "-m", "bash", "-c", AS_NOBODY, "bash", *words_of(own / "model", None)],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=200,
        )  # fmt: skip
        errors = done.stderr.decode()
        assert done.returncode == 0, errors
        assert "Traceback" not in errors
        assert "Read-only file system, nor can the user's state folder: the record is" in errors
        (log,) = own.glob("jarvis_mpi-*/*.h5")
        run = load(log)
        assert len(run.tokens) == 8
        assert run.attributes["prompt"] == PROMPT


# -- python -OO, which has no words at a file's head


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_each_command_can_do_without_docstrings(command):
    words = [sys.executable, "-m", "jarvis_mpi", *command.split(), "--help"]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "PYTHONOPTIMIZE": "2"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert not done.stderr


def test_no_docstring_is_more_than_a_description():
    for path in (*ROOT.glob("jarvis_mpi/**/*.py"), *ANALYSIS.glob("*.py"), *ROOT.glob("benchmarks/*.py")):
        assert not re.search(r"__doc__\s*[.\[}]", path.read_text()), path
