"""Standard input beside --prompt, and where a record goes: nothing is waited for longer than a few
seconds."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT

from jarvis_mpi.app import record_path
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.new_file import check_path
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.net.plan import option_notices

READ = """
import json, sys, time
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.app.piped_input import Piped
begun = time.monotonic()
try:
    outcome = Piped().appended_to("Sum it up:")
except Unservable as error:
    outcome = ["", str(error)]
print(json.dumps([*outcome, time.monotonic() - begun]))
"""
ALONE = [sys.executable, "-c", READ]
UNDER_MPIRUN = ["timeout", "-k", "5", "60", "mpirun", "-n", "1", *ALONE]
WAYS = [pytest.param(ALONE, id="alone"), pytest.param(UNDER_MPIRUN, id="mpirun", marks=pytest.mark.mpirun)]


def answer(command, **how):
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, timeout=90, check=True, **how)
    return json.loads(done.stdout)


@pytest.mark.mpirun
@pytest.mark.parametrize("command", WAYS)
def test_a_pipes_text_is_appended_with_a_notice(command):
    text = "Grüße, 世界\n" + "many lines\n" * 30_000
    prompt, notice, _ = answer(command, input=b"\xef\xbb\xbf" + text.encode())
    assert prompt == f"Sum it up:\n\n{text.rstrip()}"
    assert notice == f"standard input is appended to --prompt: {len(text)} characters"


@pytest.mark.mpirun
@pytest.mark.parametrize("command", WAYS)
def test_a_file_is_appended_whole(command, tmp_path):
    (tmp_path / "text").write_text("x" * 1_000_000)
    with (tmp_path / "text").open() as file:
        prompt, notice, _ = answer(command, stdin=file)
    assert len(prompt) == 1_000_012
    assert notice.endswith("1000000 characters")


@pytest.mark.mpirun
@pytest.mark.parametrize("command", WAYS)
def test_a_slow_writer_is_waited_for_once_it_writes(command):
    read, write = os.pipe()
    writer = subprocess.Popen(["sh", "-c", "sleep 1; echo one; sleep 3; echo two"], stdout=write)
    os.close(write)
    prompt, notice, _ = answer(command, stdin=read)
    os.close(read)
    writer.wait()
    assert prompt == "Sum it up:\n\none\ntwo"
    assert "did not come" not in notice


@pytest.mark.mpirun
@pytest.mark.parametrize("command", WAYS)
def test_where_nothing_comes_nothing_is_waited_for(command, tmp_path):
    (tmp_path / "empty").touch()
    assert answer(command, stdin=subprocess.DEVNULL)[:2] == ["Sum it up:", ""]
    assert answer(command, input=b"")[:2] == ["Sum it up:", ""]
    assert answer(command, input=b" \n\n")[:2] == ["Sum it up:", ""]
    with (tmp_path / "empty").open() as file:
        assert answer(command, stdin=file)[:2] == ["Sum it up:", ""]
    assert answer(["sh", "-c", 'exec "$@" <&-', "sh", *command])[0] == "Sum it up:"
    read, write = os.pipe()  # open, and nobody writes
    begun = time.monotonic()
    prompt, notice, waited_s = answer(command, stdin=read)
    assert prompt == "Sum it up:"
    assert ("nothing came on standard input within 2 s" in notice) == ("mpirun" in command)
    assert waited_s < 4
    assert time.monotonic() - begun < 30
    os.close(read)
    os.close(write)


@pytest.mark.slow
def test_a_pipe_that_stays_open_behind_a_text_is_noticed(monkeypatch):
    read, write = os.pipe()
    os.write(write, b"text")
    prompt, notice, waited_s = answer(ALONE, stdin=read)
    assert prompt == "Sum it up:\n\ntext"
    assert notice.endswith("4 characters; its end did not come within 10 s")
    assert waited_s < 12
    os.close(read)
    os.close(write)


def test_standard_input_may_be_all_of_the_prompt(tmp_path):
    command = [*ALONE[:-1], READ.replace('"Sum it up:"', '"-"')]
    assert answer(command, input=b"one\ntwo\n")[:2] == [
        "one\ntwo",
        "standard input is the prompt: 8 characters",
    ]
    nothing = "--prompt - takes the prompt from standard input, but nothing came there"
    assert answer(command, input=b" \n")[1] == nothing
    assert answer(command, stdin=subprocess.DEVNULL)[1] == nothing


def test_bytes_that_are_no_text_are_one_sentence():
    message = answer(ALONE, input=b"\x89PNG\r\n\xff")[1]
    assert message.startswith("standard input is not UTF-8 text, so it cannot be appended to --prompt")


def test_zero_bytes_are_one_sentence():
    assert answer(ALONE, input=b"a\0b")[1].startswith("standard input holds zero bytes, so it is no text")


@pytest.mark.mpirun
@pytest.mark.parametrize("command", WAYS)
def test_what_comes_beside_prompts_is_noticed_and_nothing_more_is_waited_for(command):
    code = READ.replace('Piped().appended_to("Sum it up:")', '["", Piped(0).left_out("there are prompts")]')
    left_out = "what comes on standard input is left out: there are prompts"
    for data, notice in ((b"text", left_out), (b"\xff\0" * 1_000_000, left_out), (b"", ""), (b" \n", "")):
        assert answer([*command[:-1], code], input=data)[1] == notice


def test_a_terminal_is_not_read():
    master, slave = os.openpty()
    begun = time.monotonic()
    assert answer(ALONE, stdin=slave)[:2] == ["Sum it up:", ""]
    assert time.monotonic() - begun < 5
    os.close(master)
    os.close(slave)


# -- where the record goes


def test_the_record_goes_where_it_can_be_written_with_a_notice(monkeypatch, tmp_path):
    notices: list[str] = []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    assert record_path.new_log(notices.append).parent == Path("runs")
    assert notices == []
    monkeypatch.chdir("/proc")  # where not even root can write
    path = record_path.new_log(notices.append)
    assert path.parent == tmp_path / "state/jarvis_mpi/runs"
    assert notices[0].startswith("runs/")
    assert notices[0].endswith(f": the record is {path}")
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(record_path.tempfile, "tempdir", None)
    path = record_path.new_log(notices.append)
    assert path.parent.parent == tmp_path
    assert str(path) in notices[1]
    monkeypatch.setattr(record_path.tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(OSError(30, "no")))
    with pytest.raises(Unservable, match="say --log FILE where one can be written"):
        record_path.new_log(notices.append)


def test_the_state_folder_is_below_home_and_may_be_none(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    for state_home in (None, "", "not/absolute"):
        monkeypatch.setenv("XDG_STATE_HOME", state_home or "")
        assert record_path.state_folder() == Path("/home/somebody/.local/state/jarvis_mpi/runs")
    monkeypatch.setattr(record_path.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert record_path.state_folder() is None


def test_a_folder_is_no_record(tmp_path):
    with pytest.raises(Unservable, match="cannot be written: it is a folder: name a file in it"):
        check_path(tmp_path)


# -- options that ask for more than there is


class Host:
    def __init__(self, cores, host="pi"):
        self.cores, self.host, self.machine = cores, host, host


def test_a_study_that_nothing_asks_is_noticed():
    hellos = {0: Host(4)}

    def lines(**asked):
        return list(option_notices(hellos, Settings(study="a.h5", **asked), 1, 300))

    assert lines(on_fault="copy") == [
        "--study a.h5 has no effect: it needs skip or patch in --on-fault, which is copy, or --copied-blocks"
    ]
    assert lines() == lines(on_fault="copy", copied_blocks=1) == []
    assert "a node that falls silent is given up at once" in lines(give_up_s=0.3)[0]


def test_what_asks_for_too_much_is_noticed():
    hellos = {0: Host(4, "laptop"), 1: Host(2)}
    lines = list(option_notices(hellos, Settings(threads=3, copies=9, top_k=999, temperature=1.0), 1, 300))
    assert lines == [
        "--threads 3 is more than the 2 cores of pi: a node has as many as its host's cores",
        "--copies 9 is more than there are nodes for: a block has 1 at most",
        "--top-k 999 is more than the 300 tokens that the model knows: it draws among all",
    ]
    assert (
        list(option_notices(hellos, Settings(threads=2, copies=1, top_k=300, temperature=1.0), 1, 300)) == []
    )
    assert "needs copy in --on-fault" in next(
        option_notices(hellos, Settings(copies=9, on_fault="skip"), 0, 300)
    )
    assert list(option_notices(hellos, Settings(streams=2, prompts="file"), 1, 300)) == []
    assert "is of --prompts alone" in next(option_notices(hellos, Settings(streams=2), 1, 300))
