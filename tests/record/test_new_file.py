"""A record's name: nothing that is there is lost, whoever comes first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from running import can_mount, start, words_for

from jarvis_mpi.common import new_file, process_identity
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.writer import Record


@pytest.fixture(params=["", "no hard links", "no such call"])
def links(request, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted") if request.param == "no hard links" else OSError(38, "x")

    if request.param:
        monkeypatch.setattr(os, "link", refuse)


def test_a_name_is_given_where_nobody_has_it(links, tmp_path):
    part, path = new_file.fresh(tmp_path / "run.h5"), tmp_path / "run.h5"
    part.write_text("ours")
    new_file.publish(part, path)
    assert [each.name for each in tmp_path.iterdir()] == ["run.h5"]
    assert path.read_text() == "ours"


def test_what_came_meanwhile_stays(links, tmp_path):
    path = tmp_path / "run.h5"
    new_file.check_path(path)
    path.write_text("another's")
    with pytest.raises(
        Unservable, match=r"--log .*run.h5 cannot be written: a file of that name has come meanwhile"
    ):
        Record(path, {}, 0.0, None)  # type: ignore[arg-type]
    assert path.read_text() == "another's"
    assert [each.name for each in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize("name", ["", ".", "..", "/"])
def test_a_folder_is_no_file_whatever_it_is_called(name):
    with pytest.raises(Unservable, match="cannot be written: it is a folder: name a file in it"):
        new_file.check_path(Path(name))


def test_a_link_that_leads_nowhere_is_a_file_of_that_name(tmp_path):
    (tmp_path / "run.h5").symlink_to(tmp_path / "none")
    with pytest.raises(Unservable, match="there is a file of that name already"):
        new_file.check_path(tmp_path / "run.h5")


OTHERS = [
    "mine",
    "",
    "{}",
    "[1]",
    '{"machine": "m", "space": "s", "pid": "x", "begun": ""}',
    "x" * 9999,
    "\0\xff",
]


@pytest.mark.parametrize("text", OTHERS, ids=range(len(OTHERS)))
def test_a_file_of_the_users_is_not_in_the_way_and_stays(text, tmp_path):
    path, other = tmp_path / "run.h5", tmp_path / "run.h5.part"
    other.write_text(text, encoding="latin-1")
    new_file.check_path(path)
    new_file.claim(path)
    Record(path, {}, 0.0, None).close()  # type: ignore[arg-type]
    assert other.read_text(encoding="latin-1") == text
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.h5", "run.h5.part"]


def test_who_is_about_to_write_it_is_named(tmp_path):
    path, place = tmp_path / "run.h5", tmp_path / "run.h5.part"
    with subprocess.Popen(["sleep", "60"]) as other:
        place.write_text(json.dumps(process_identity.named(other.pid)))
        with pytest.raises(
            Unservable, match=f"process {other.pid} is about to write it .*: name another file"
        ):
            new_file.claim(path)
        assert place.exists()
        other.kill()
    new_file.claim(path)  # it is dead
    assert new_file.claimant(place)["pid"] == os.getpid()
    new_file.give_back()
    assert not place.exists()


def test_a_claim_is_given_back_by_the_claiming_process_alone(tmp_path):
    path, place = tmp_path / "run.h5", tmp_path / "run.h5.part"
    new_file.claim(path)
    place.write_text("another's")
    new_file.give_back(path)
    assert place.read_text() == "another's"


@can_mount
@pytest.mark.parametrize("size", ["4k", "20k"])
def test_a_disk_that_is_full_from_the_start_is_one_sentence(size, tmp_path):
    code = (
        "import sys, os, pathlib\nfrom jarvis_mpi.record.writer import Record\n"
        "try: Record(pathlib.Path(sys.argv[1]), {'a': 'x' * 30_000}, 0.0, None)\n"
        "except Exception as error: print(error, flush=True)\n"
        "import gc; gc.collect(); os._exit(0)"
    )
    mounted = 'mount -t tmpfs -o size=$1 tmpfs "$2"; "$3" -c "$4" "$2/run.h5"; ls "$2"'
    words = ["unshare", "--mount", "sh", "-c", mounted, "sh", size, str(tmp_path), sys.executable, code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"--log {tmp_path}/run.h5 cannot be written: No space left on device\n", done.stderr


@pytest.mark.mpirun
def test_of_two_runs_with_one_log_the_second_is_refused(small, tmp_path):
    path, place = tmp_path / "run.h5", tmp_path / "run.h5.part"
    words = words_for(small, path)
    with start(2, *words) as first:
        while not place.exists() and not path.exists():
            assert first.poll() is None
        second = subprocess.run(
            ["timeout", "100", *first.args[4:]], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert second.returncode
    assert "run.h5 cannot be written: " in second.stderr
    assert "Traceback" not in second.stderr
    assert len(load(path).tokens)
    assert [each.name for each in Path(tmp_path).iterdir()] == ["run.h5"]
