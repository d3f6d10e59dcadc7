"""The record: read while it grows, after kill -9, of every schema; runs that go on from it; figures drawn from it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from places import ROOT
from running import (
    MARK,
    WRITER,
    assert_nothing_is_left,
    can_mount,
    environments,
    mpirun,
    script,
    sentence,
    start,
    words_for,
)

from jarvis_mpi.record import replay
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.repair import mend
from jarvis_mpi.record.run import Unreadable

OLD = ROOT / "tests" / "records"
ONE_RUN, SEVERAL = ("hops", "timeline"), ("latency", "faults", "compare")


def test_records_are_read_without_mpi_and_torch():
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'mpi4py', 'psutil'])); import load"
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


# -- clocks


def test_moments_of_two_nodes_are_put_on_one_clock(tmp_path):
    """Node 1's clock is ahead by 500 s and gains 0.1 ms a second; the trips tell that to 0.2 ms."""
    from jarvis_mpi.protocol.events import Token
    from jarvis_mpi.protocol.wire import Kind, Message, Run
    from jarvis_mpi.record.writer import Record

    def theirs(at_s):
        return at_s * 1.0001 + 500

    record = Record(tmp_path / "run.h5", {"prompt": "", "hosts": {}}, 10.0, None)
    for step in range(200):
        now = 10.0 + step
        off = 0.005 if step % 3 else 0.0002  # every third trip was a quick one
        record.offset(now, 1, theirs(now) - now + 0.7 * off, off)
        piece = Message(
            Kind.STEP,
            step=step,
            start=step,
            rows=1,
            runs=(Run(1, range(3), 1, 0, 0.1, 0, 9, theirs(now + 0.3)),),
        )
        record.write(Token(0, step, step, 42, now + 0.5, 0.5, 0.1, (piece,)))
    record.close()
    run = load(tmp_path / "run.h5")
    at, within = run.on_one_clock(run.hops)
    assert np.abs(at - (np.arange(200) + 0.3)).max() < 0.0005
    assert (np.abs(at - (np.arange(200) + 0.3)) < within + 0.0001).all()


@pytest.mark.mpirun
def test_hops_of_a_real_run_follow_each_other_on_one_clock(small, tmp_path):
    log = tmp_path / "run.h5"
    assert mpirun(4, *words_for(small, log, "--ignore-eos")).returncode == 0
    run = load(log)
    at, within = run.on_one_clock(run.hops)
    assert not np.isnan(at).any()
    assert set(run.clocks["node"]) == {0, 1, 2, 3}
    for token in run.tokens:
        mine = run.hops["step"] == token["step"]
        begun, slack = at[mine], within[mine].max() * 2 + 1e-4
        assert (np.diff(begun) > -slack).all()
        assert begun[-1] <= token["at_s"] + slack
        assert begun[0] >= token["at_s"] - token["total_s"] - slack
        first, home = run.hops[mine][[0, -1]]
        assert first["node"] == home["node"] == 0
        # What the end user waited for is not its own work.
        assert first["at_s"] + first["compute_s"] + home["wait_s"] <= home["at_s"] + 1e-6
    assert (run.hops["memory_kib"] > 10_000).all()


# -- a run that is resumed


def killed_after(tokens: int, run: subprocess.Popen, log: Path) -> bytes:
    """Kill the end user of a run that is stalled after so many tokens. -> what had been shown."""
    end = time.monotonic() + 60
    while not log.exists() or len(load(log).tokens) != tokens:
        assert time.monotonic() < end
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    for process, environment in environments():
        if f"JARVIS_TEST={MARK}".encode() in environment and b"PMIX_RANK=0" in environment:
            os.kill(process, signal.SIGKILL)
    shown, _ = run.communicate(timeout=60)
    assert_nothing_is_left()
    return shown


def cut_off(small: Path, log: Path, *more: str, ranks: int = 3) -> bytes:
    """A run whose end user is killed during token 5. -> what had been shown."""
    words = words_for(
        small,
        log,
        "--copies",
        "0",
        "--ignore-eos",
        "--fault",
        "stall 1 @ 5 for 5s",
        "--progress-s",
        "90",
        *more,
    )
    run = start(ranks, *words)
    return killed_after(5, run, log)


@pytest.mark.mpirun
def test_a_run_whose_end_user_died_goes_on_to_the_same_text(small, tmp_path):
    draws = ("--temperature", "1.5", "--seed", "3")  # greedy: a file of prompts, below
    whole = mpirun(3, *words_for(small, tmp_path / "whole.h5", "--ignore-eos", *draws))
    log = tmp_path / "run.h5"
    shown = cut_off(small, log, *draws)
    assert whole.stdout.startswith(shown.rstrip(b"\n"))
    done = mpirun(2, "--resume", str(log))  # with one node less
    assert done.returncode == 0, done.stderr.decode()
    assert "is resumed: 0 answered, the next after 5 tokens" in done.stderr.decode()
    assert done.stdout == whole.stdout
    run, reference = load(log), load(tmp_path / "whole.h5")
    assert run.tokens["token"].tolist() == reference.tokens["token"].tolist()
    assert run.ended == "done"
    assert [question.text for question in run.questions] == [
        question.text for question in reference.questions
    ]
    assert (np.diff(run.tokens["at_s"]) > 0).all()
    assert not any("NOT" in line for line in replay.replayed(log))
    again = mpirun(3, "--resume", str(log))
    assert (again.returncode, again.stdout) == (0, whole.stdout)
    assert "is done: there is nothing to resume" in again.stderr.decode()


@pytest.mark.mpirun
def test_a_file_of_prompts_is_gone_on_with_where_it_was_cut_off(small, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(["first", "x" * 500, "second", "third"]))
    asked = ("--prompts", str(file), "--max-new-tokens", "3")
    words = words_for(small, tmp_path / "whole.h5", *asked)
    del words[2:4]  # --prompt
    whole = mpirun(3, *words)
    log = tmp_path / "run.h5"
    words = words_for(
        small, log, *asked, "--copies", "0", "--fault", "stall 1 @ 4 for 5s", "--progress-s", "90"
    )
    del words[2:4]
    run = start(3, *words)
    killed_after(4, run, log)
    done = mpirun(3, "--resume", str(log))
    assert done.returncode == whole.returncode == 1  # for the one that is too long
    assert done.stdout == whole.stdout
    assert load(log).ended == "done"
    again = mpirun(2, "--resume", str(log))
    assert (again.returncode, again.stdout) == (1, whole.stdout)
    file.write_text("another\nfile")
    shutil.copy(log, tmp_path / "copy.h5")
    with h5py.File(tmp_path / "copy.h5", "r+") as record:
        record["events"].resize(len(record["events"]) - 1, axis=0)  # without its mark
    errors = mpirun(2, "--resume", str(tmp_path / "copy.h5")).stderr.decode()
    assert "line 1 of --prompts is not what was asked before: 'first'" in errors


@pytest.mark.mpirun
@pytest.mark.very_slow
def test_skipped_layers_are_named_when_a_run_is_resumed(small, tmp_path):
    log = tmp_path / "run.h5"
    cut_off(small, log, "--on-fault", "skip", "--fault", "kill 2 @ 2; stall 1 @ 5 for 5s", ranks=4)
    done = mpirun(4, "--resume", str(log))
    assert done.returncode == 0, done.stderr.decode()
    assert (
        "layers were skipped before the interruption: the text goes on with all that are here now"
        in done.stderr.decode()
    )
    assert load(log).tokens["layers"].tolist()[-1] == 6


@pytest.mark.mpirun
def test_what_cannot_be_resumed_is_one_sentence(small, tmp_path):
    log = tmp_path / "run.h5"
    cut_off(small, log)
    for words, expected in (
        (("--resume", str(tmp_path / "none.h5")), "none.h5 does not exist"),
        (("--resume", str(OLD / "schema4.h5")), "is a record of schema 4: only those of schema 5 and later"),
        (("--resume", str(log), "--prompt", "another"), "--prompt is 'another', but the run in"),
        (("--resume", str(log), "--log", "x.h5"), "--log x.h5 and --resume"),
        (("--resume", str(log), "--model", "smollm2-135m-instruct"), "was made with other model files"),
    ):
        assert expected in sentence(mpirun(3, *words))
    assert load(log).ended == ""
    assert len(load(log).tokens) == 5


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
    mounted = f'mount -t tmpfs -o size=250k tmpfs {disk}; "$@"; status=$?; cp {disk}/run.h5 {tmp_path}; exit $status'
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
    whole = (OLD / "schema3.h5").read_bytes()
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


@pytest.mark.mpirun
@pytest.mark.parametrize("name", [*ONE_RUN, *SEVERAL])
def test_a_folder_that_cannot_be_written_is_one_sentence(name, tmp_path, killed_and_mended):
    (tmp_path / "file").write_text("")
    exits = script(name, killed_and_mended, "--out", tmp_path / "file" / "figures")
    assert "cannot be written: Not a directory (--out says where else)" in exits


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_records_of_every_schema_can_be_read_and_drawn(number, tmp_path):
    run = load(OLD / f"schema{number}.h5")
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


# -- figures


@pytest.fixture(scope="module")
def killed_and_mended(small, tmp_path_factory) -> Path:
    """The record of a run in which a worker died."""
    log = tmp_path_factory.mktemp("figures") / "run.h5"
    words = words_for(small, log, "--max-new-tokens", "30", "--ignore-eos", "--fault", "kill 2 @ 9")
    assert mpirun(4, *words).returncode == 0
    return log


@pytest.mark.mpirun
def test_every_figure_comes_with_the_numbers_behind_it(killed_and_mended, tmp_path, capsys):
    run, tables = load(killed_and_mended), {}
    for name in (*ONE_RUN, *SEVERAL):
        assert script(name, killed_and_mended, "--out", tmp_path, "--formats", "png,pdf,svg") == ""
        assert f"run-{name}.{{png,pdf,svg,csv}}" in capsys.readouterr().out
        for suffix in ("png", "pdf", "svg"):
            assert (tmp_path / f"run-{name}.{suffix}").stat().st_size > 3000
        tables[name] = list(csv.DictReader((tmp_path / f"run-{name}.csv").open()))
    assert [float(row["total_ms"]) for row in tables["latency"]] == pytest.approx(1e3 * run.tokens["total_s"])
    assert [row["node"] for row in tables["hops"]] == ["0", "1", "2", "3"]
    (fault,) = tables["faults"]
    assert (fault["node"], fault["sign"], fault["step"]) == ("2", "LOST", "9")
    parts = sum(float(fault[part]) for part in ("noticed ms", "decided ms", "mended ms"))
    assert parts == pytest.approx(float(fault["gap ms"]))
    assert {int(row["step"]) for row in tables["timeline"]} == {8, 9, 10}
    assert float(tables["compare"][0]["tokens"]) == 30


@pytest.mark.mpirun
def test_live_figures_end_with_the_run(small, tmp_path):
    log = tmp_path / "run.h5"
    run = start(3, *words_for(small, log, "--max-new-tokens", "40", "--ignore-eos"))
    while not log.exists():
        time.sleep(0.05)
    words = [sys.executable, "analysis/latency.py", str(log), "--live", "--formats", "png"]
    followed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=90)
    run.communicate(timeout=60)
    assert (followed.returncode, followed.stderr) == (0, "")
    assert len(list(csv.reader((tmp_path / "run-latency.csv").open()))) == 41


@pytest.mark.mpirun
def test_runs_are_compared_by_any_option_of_theirs(killed_and_mended, tmp_path, capsys):
    other = OLD / "schema3.h5"
    assert script("compare", killed_and_mended, other, "--by", "copies", "--out", tmp_path) == ""
    assert script("compare", killed_and_mended, other, "--by", "nodes", "--out", tmp_path) == ""
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [row["nodes"] for row in rows] == ["4", str(len(load(other).hosts))]
    assert "has no such option" in script("compare", other, "--by", "colour")


@pytest.mark.mpirun
def test_a_summary_tells_what_is_in_a_record(killed_and_mended, capsys):
    assert script("load", killed_and_mended) == ""
    printed = capsys.readouterr().out
    assert "30 tokens in" in printed
    assert "node 2 lost at step 9" in printed
    assert script("load", "--done", killed_and_mended) == ""
    assert script("load", "--done", OLD / "schema3.h5") == ""
    assert script("load", "--done", OLD / "schema1.h5") == "1"  # it had no mark yet
    assert json.loads(json.dumps(load(killed_and_mended).settings))["prompt"] == "abc"


def test_clocks_of_a_run_that_was_resumed_on_machines_that_were_booted(tmp_path):
    from jarvis_mpi.protocol.events import Token
    from jarvis_mpi.protocol.wire import Kind, Message, Run
    from jarvis_mpi.record.writer import Record

    def go_on(record, users_clock, others_clock, steps):
        for step in steps:
            now = users_clock + step - steps[0]
            record.offset(now, 1, others_clock - users_clock, 1e-4)
            begun = now + 0.3 + others_clock - users_clock
            runs = (Run(0, range(1), 1, 0, 0.1, 0, 0, now + 0.1), Run(1, range(3), 1, 0, 0.1, 0, 9, begun))
            message = Message(Kind.STEP, step=step, start=step, rows=1, runs=runs)
            record.write(Token(0, step, step, 42, now + 0.5, 0.5, 0.1, (message,)))
        record.close()

    path = tmp_path / "run.h5"
    attributes = {"hosts": {"0": "a", "1": "b"}, "settings": {"prompt": "x"}}
    go_on(Record(path, attributes, 1000.0, None), 1000.0, 50.0, range(5))
    resumed = Record.resumed(
        path, {**attributes, "hosts": {"0": "a", "2": "c"}}, 20.0, None, load(path).length_s, 5
    )
    go_on(resumed, 20.0, 9000.0, range(5, 10))
    run = load(path)
    at, _ = run.on_one_clock(run.hops)
    assert at == pytest.approx(np.repeat(run.tokens["at_s"], 2) - np.tile([0.4, 0.2], 10), abs=1e-6)
    assert (np.diff(run.tokens["at_s"]) > 0).all()
    assert run.follows.tolist() == [step not in (0, 5) for step in range(10)]
    assert run.hosts == {"0": "a", "1": "b", "2": "c"}


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
    study_file.StudyFile(folder / "study.h5", [frozenset()], items, [], {"depth": 4, "model": "m"}).file.close()
links_file.write(folder / "links.h5", ["a", "b"], {"a": {"host": "a"}, "b": {"host": "b"}}, [(0, 1, 0.1, 9.0)])
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


def test_a_study_does_not_write_into_another_kind_of_file(tmp_path):
    from jarvis_mpi.common.errors import Unservable
    from jarvis_mpi.record.study_file import StudyFile

    shutil.copy(OLD / "schema5.h5", tmp_path / "run.h5")
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


@pytest.mark.parametrize("name", ["skip_map", "skip_tasks", "predict", "patches", "load", "latency"])
def test_every_script_ends_in_a_sentence_where_a_file_is_another(name, tmp_path, capsys):
    (tmp_path / "garbage").write_bytes(bytes(range(256)))
    (tmp_path / "list").write_text("[" * 100_000)
    with h5py.File(tmp_path / "half.h5", "w") as half:
        half["cases"] = ["", "1"]
        half.attrs["schema"] = 6
    shutil.copy(OLD / "schema5.h5", tmp_path / "linked.h5")
    with h5py.File(tmp_path / "linked.h5", "r+") as linked:
        del linked["events"]
        linked["events"] = h5py.ExternalLink("/etc/hostname", "events")
    for file in ("garbage", "list", "half.h5", "linked.h5", "none"):
        message = script(name, tmp_path / file)
        assert str(tmp_path / file) in message or name == "patches", message
        assert len(message.splitlines()) == 1
    assert capsys.readouterr().out == ""
