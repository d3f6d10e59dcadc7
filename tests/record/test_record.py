"""The record: read while it grows, after kill -9, of every schema, and with damaged files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from places import RECORDS, ROOT
from running import (
    ONE_RUN,
    SEVERAL,
    WRITER,
    can_mount,
    script,
    start,
    words_for,
)

from jarvis_mpi.record import replay
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.repair import mend
from jarvis_mpi.record.run import Unreadable

pytestmark = pytest.mark.slow


def test_records_are_read_without_mpi_and_torch():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'mpi4py', 'psutil'])); "
        "import load"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "analysis", check=True, timeout=60)


def consistent(path: Path) -> int:
    """-> tokens in the record, of which only whole rows show, while somebody writes it."""
    run = load(path)
    steps = run.tokens["step"].tolist()
    assert steps == list(range(len(steps)))
    assert (run.tokens["total_s"] > 0).all()
    assert len(run.hops) == run.tokens["hops"].sum()
    assert (run.hops["layers"] > 0).all()
    assert (np.repeat(run.tokens["step"], run.tokens["hops"]) == run.hops["step"]).all()
    assert all(event.event for event in run.events)
    assert all(question.prompt for question in run.questions)
    return len(steps)


def test_another_process_sees_only_whole_rows_while_a_record_grows(tmp_path):
    path = tmp_path / "run.h5"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        seen = [consistent(path) for _ in range(300)]
        with pytest.raises(Unreadable, match=f"still being written, by process {writer.pid} of this machine"):
            mend(path)
        writer.kill()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] + 300


def test_a_record_tells_that_mpirun_died(tmp_path, capsys):
    path = tmp_path / "run.h5"
    code = WRITER.replace("print(step", "step == 3 and record.orphaned(4.5, 3); print(step")
    code = code.replace('"prompt"', '"model": "m", "hosts": {"1": "here"}, "started": "today", "prompt"', 1)
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        while int(writer.stdout.readline()) < 9:
            pass
        writer.kill()
    (event,) = (event for event in load(path).events if event.event == "orphaned")
    assert (event.step, event.at_s) == (3, 4.5)
    assert script("load", path) == ""
    assert "    4.500 s  mpirun died: the ranks go on without it" in capsys.readouterr().out
    assert script("latency", path, "--out", tmp_path, "--formats", "svg") == ""
    assert "mpirun died" in (tmp_path / "run-latency.svg").read_text()


@pytest.mark.mpirun
def test_a_run_is_followed_from_first_row_to_mark(small, tmp_path):
    log = tmp_path / "run.h5"
    run = start(3, *words_for(small, log, "--max-new-tokens", "100", "--ignore-eos", "--fault", "slow 1 x5"))
    seen = []
    while run.poll() is None:
        if log.exists():
            seen.append(consistent(log))
    run.communicate()
    assert run.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 10
    assert consistent(log) == 100
    assert load(log).ended == "done"


# -- what goes wrong with a file


@pytest.mark.mpirun
@can_mount
def test_a_full_disk_ends_the_record_and_not_the_text(small, tmp_path):
    disk, file = tmp_path / "disk", tmp_path / "prompts.txt"
    disk.mkdir()
    file.write_text("again\n" * 30)
    words = words_for(
        small, disk / "run.h5", "--prompts", str(file), "--max-new-tokens", "40", "--ignore-eos"
    )
    del words[2:4]  # --prompt
    mpi = [
        "timeout",
        "-k",
        "5",
        "100",
        "mpirun",
        "-hostfile",
        "hostfiles/local",
        "-n",
        "3",
        sys.executable,
        "-m",
        "jarvis_mpi",
    ]
    mounted = (
        f'mount -t tmpfs -o size=250k tmpfs {disk}; "$@"; status=$?; cp {disk}/run.h5 {tmp_path}; '
        "exit $status"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted, "sh", *mpi, *words],
        cwd=ROOT,
        capture_output=True,
        timeout=150,
    )
    errors = done.stderr.decode()
    assert done.returncode == 0, errors
    assert [json.loads(line)["tokens"] for line in done.stdout.splitlines()] == [40] * 30
    assert "ends here, the run goes on: No space left on device" in errors
    assert "Traceback" not in errors
    run = load(tmp_path / "run.h5")
    assert 100 < consistent(tmp_path / "run.h5") < 1200
    assert run.ended == ""


def bad_files(folder: Path) -> dict[str, str]:
    """name -> what must be said of it."""
    (folder / "text.h5").write_text("no record\n" * 100)
    (folder / "empty.h5").write_bytes(b"")
    whole = (RECORDS / "schema3.h5").read_bytes()
    (folder / "short.h5").write_bytes(whole[: len(whole) // 2])
    killed = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder / "killed.h5")], stdout=subprocess.PIPE
    )
    for _ in range(2000):
        killed.stdout.readline()
    killed.kill()
    killed.communicate()
    mend(folder / "killed.h5")
    whole = (folder / "killed.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) // 3])
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = 1
    with h5py.File(folder / "newer.h5", "w") as newer:
        newer.attrs["schema"] = 99
    (folder / "folder.h5").mkdir()
    return {
        "none.h5": "does not exist",
        "text.h5": "is no HDF5 file",
        "empty.h5": "is no HDF5 file",
        "short.h5": "is damaged: it is cut short",
        "cut.h5": "is damaged: it is cut short",
        "other.h5": "is no record of a run",
        "newer.h5": "is a record of schema 99, newer than this reader's 7: update jarvis_mpi",
        "folder.h5": "is no file",
    }


@pytest.mark.parametrize("name", [*ONE_RUN, *SEVERAL, "load"])
def test_a_file_that_is_no_record_is_one_sentence(name, tmp_path, capsys):
    for file, expected in bad_files(tmp_path).items():
        exits = script(name, tmp_path / file)
        assert str(tmp_path / file) in exits
        assert expected in exits
        assert "\n" not in exits
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_records_of_every_schema_can_be_read_and_drawn(number, tmp_path):
    run = load(RECORDS / f"schema{number}.h5")
    assert run.schema == number
    assert run.tokens["step"].tolist() == list(range(8))
    assert len(run.hops) == run.tokens["hops"].sum()
    assert (np.diff(run.tokens["at_s"]) > 0).all()
    for name in ("latency", "compare", "hops"):
        assert script(name, run.path, "--out", tmp_path, "--formats", "svg") == ""
    if number < 4:
        assert "in which clocks were not compared" in script("timeline", run.path)
    if number > 1:
        assert [fault.sign for fault in run.faults] == ["LOST"]
        assert script("faults", run.path, "--out", tmp_path, "--formats", "svg") == ""
        assert not any("NOT" in line for line in replay.replayed(run.path))


# -- a file system without locks

NO_LOCKS = """
#include <errno.h>
#include <fcntl.h>
int flock(int fd, int operation) { errno = ENOLCK; return -1; }
"""
LOCKLESS = """
import sys
from pathlib import Path
import fcntl, os
from jarvis_mpi.record import links_file, study_file
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.repair import mend
from jarvis_mpi.record.writer import Record
folder = Path(sys.argv[1])
try:
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)
    sys.exit("there are locks here: this tests nothing")
except OSError as error:
    assert error.errno == 37, error
attributes = {"prompt": "x", "settings": {"prompt": "x"}, "hosts": {"0": "a"}}
record = Record(folder / "run.h5", attributes, 0.0, None)
record.asked(0.5, 0, 0, "x", [1], 0)
assert load(folder / "run.h5").questions
record.close()
mend(folder / "run.h5")
resumed = Record.resumed(folder / "run.h5", attributes, 0.0, None, 1.0, 0)
assert load(folder / "run.h5").questions
resumed.close()
items = [study_file.Item("text", "", 0, 0, -1, 10, 40)]
for _ in range(2):
    made = study_file.StudyFile(folder / "study.h5", [frozenset()], items, [], {"depth": 4, "model": "m"})
    made.file.close()
hosts = {"a": {"host": "a"}, "b": {"host": "b"}}
links_file.write(folder / "links.h5", ["a", "b"], hosts, [(0, 1, 0.1, 9.0)])
assert links_file.links_in(folder / "links.h5") == {frozenset("ab"): [0.1, 9.0]}
"""


@pytest.mark.skipif(
    not shutil.which("cc"), reason="a file system without locks is a small library, and there is no cc"
)
def test_files_are_written_and_read_without_locks(tmp_path):
    (tmp_path / "no_locks.c").write_text(NO_LOCKS)
    library = tmp_path / "no_locks.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "no_locks.c"], check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-c", LOCKLESS, tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={**os.environ, "LD_PRELOAD": str(library)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_s_record_is_no_study():
    from jarvis_mpi.common.errors import Unservable
    from jarvis_mpi.record.study_file import costs_in

    with pytest.raises(
        Unservable, match=r"schema5.h5 is no study: it has no cases: python -m jarvis_mpi study makes one"
    ):
        costs_in(RECORDS / "schema5.h5", 4)


def test_a_study_does_not_write_into_another_kind_of_file(tmp_path):
    from jarvis_mpi.common.errors import Unservable
    from jarvis_mpi.record.study_file import StudyFile

    shutil.copy(RECORDS / "schema5.h5", tmp_path / "run.h5")
    with pytest.raises(Unservable, match=r"run.h5 is no study, it holds clocks: name another file"):
        StudyFile(tmp_path / "run.h5", [frozenset()], [], [], {"depth": 4, "model": "m"})
    assert len(load(tmp_path / "run.h5").tokens) == 8
    with h5py.File(tmp_path / "half.h5", "w") as half:  # killed while it was made
        half["items"] = [1]
    StudyFile(tmp_path / "half.h5", [frozenset()], [], [], {"depth": 4, "model": "m"}).file.close()


def test_two_do_not_write_one_study(tmp_path):
    from jarvis_mpi.common.errors import Unservable
    from jarvis_mpi.record.study_file import StudyFile

    first = StudyFile(tmp_path / "study.h5", [frozenset()], [], [], {"depth": 4, "model": "m"})
    with pytest.raises(Unservable, match=r"--log .*study.h5 cannot be used: another process has it open"):
        StudyFile(tmp_path / "study.h5", [frozenset()], [], [], {"depth": 4, "model": "m"})
    first.file.close()
