"""Standard output that cannot be written, or that nobody reads: one sentence or none, and never a file's
fault."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from running import words_for

pytestmark = pytest.mark.slow

RECORD = sorted((ROOT / "tests" / "records").glob("*.h5"))[-1]
FULL = "standard output cannot be written: No space left on device: make room there, or send it elsewhere\n"
COMMANDS = [
    ["-m", "jarvis_mpi", "doctor", "--model", "/nowhere"],
    ["-m", "jarvis_mpi", "doctor", "--help"],
    ["-m", "jarvis_mpi", "setup", "--help"],
    ["-m", "jarvis_mpi", "study", "--help"],
    ["-m", "jarvis_mpi", "--version"],
    ["-m", "jarvis_mpi.net.hostfile", "hostfiles/local"],
    ["-m", "jarvis_mpi.record.replay", str(RECORD)],
    ["-m", "jarvis_mpi.common.options"],
    ["-m", "jarvis_mpi.record.schema"],
    ["analysis/load.py", str(RECORD)],
    ["analysis/load.py", "--help"],
    ["-u", "-m", "jarvis_mpi", "doctor", "--model", "/nowhere"],
]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


def name_of(words: list[str]) -> str:
    return " ".join(Path(word).name for word in words)


@needs_full
@pytest.mark.parametrize("words", COMMANDS, ids=name_of)
def test_a_full_disk_is_one_sentence(words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.stderr == FULL
    assert done.returncode == 1


@pytest.mark.parametrize("words", COMMANDS, ids=name_of)
def test_a_reader_that_has_gone_ends_a_command_quietly(words):
    from_it, to_it = os.pipe()
    os.close(from_it)
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, stdout=to_it, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(to_it)
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_standard_error_that_cannot_be_written_ends_nothing():
    code = f'exec "{sys.executable}" -m jarvis_mpi doctor --model /nowhere 2>/dev/full'
    done = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "1 thing to mend" in done.stdout
    code = f'exec "{sys.executable}" -m jarvis_mpi doctor --model /nowhere >&- 2>&-'
    assert subprocess.run(["bash", "-c", code], cwd=ROOT, timeout=120).returncode == 1


def test_standard_output_that_does_not_block_is_waited_for():
    """As what shares a terminal with a program that has made it so."""
    from_it, to_it = os.pipe()
    os.set_blocking(to_it, False)
    code = "from jarvis_mpi.common.output import spoken\nwith spoken(): print('\\u00e9' * 400_000)"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=to_it, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    ) as it:
        os.close(to_it)
        with os.fdopen(from_it, "rb") as reader:
            data = reader.read()
    assert data.decode() == "\u00e9" * 400_000 + "\n"
    assert it.returncode == 0


@pytest.mark.parametrize("words", ["probe", "receive-model now", "convert-gguf one"])
def test_what_only_programs_call_says_so(words):
    done = subprocess.run(
        [sys.executable, "-m", "jarvis_mpi", *words.split()], cwd=ROOT, capture_output=True, text=True,
        timeout=60
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("this command is called by others of jarvis_mpi only")


@pytest.mark.mpirun
@needs_full
def test_a_run_whose_answer_finds_no_room(small, tmp_path):
    words = [sys.executable, "-m", "jarvis_mpi", *words_for(small, tmp_path / "run.h5")]
    command = ["timeout", "-k", "5", "150", "mpirun", "-hostfile", "hostfiles/local", "-n", "2", *words]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=180)
    assert done.returncode == 1
    assert "standard output cannot be written" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
