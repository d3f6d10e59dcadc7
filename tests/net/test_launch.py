"""How ranks come to other hosts, as far as it can be seen on one: the words, and the deadline of a start."""

import signal
import subprocess
import sys

import pytest

from jarvis_mpi.net import far_command, launch_agents, run_key

GUARDED = """
import ctypes, os, time
from jarvis_mpi.net.init_watchdog import guarded
with guarded({timeout}, {sentence!r}):
    {body}
print("through")
"""


def guard(body: str, timeout: float, sentence: str = "it did not start") -> subprocess.CompletedProcess:
    script = GUARDED.format(timeout=timeout, sentence=sentence, body=body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)


# PyDLL holds the interpreter's lock, as MPI_Init does.
@pytest.mark.parametrize("body", ["ctypes.PyDLL(None).sleep(20)", "time.sleep(20)"])
def test_a_start_that_takes_too_long_is_ended_with_a_sentence(body):
    done = guard(body, 0.3)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "", "it did not start\n")


@pytest.mark.parametrize("sentence", ["it did not start", ""])
def test_a_start_that_succeeds_says_nothing(sentence):
    done = guard("pass", 0.3, sentence)
    assert (done.returncode, done.stdout, done.stderr) == (0, "through\n", "")


@pytest.mark.parametrize(
    ("words", "silence_s"),
    [
        ([], 75.0),
        (["--give-up-s", "300"], 315.0),
        (["--give-up-s=300"], 315.0),
        (["--give-up-s", "5"], 75.0),
        (["--give-up-s", "soon"], 75.0),
        (["--give-up-s"], 75.0),
    ],
)
def test_a_silent_host_is_lost_after_the_node_was_given_up(words, silence_s):
    assert launch_agents.silence_s(["python", "-m", "jarvis_mpi", *words]) == silence_s


def test_words_and_environment_reach_the_other_shell_whole(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/nowhere/bin/jarvis_mpi-rank"])
    monkeypatch.setenv("PMIX_SERVER_URI41", "prterun-a-1@0.0;tcp4://127.0.0.1:4242")
    monkeypatch.setenv("LETTER", 'it\'s "two\nlines" $HOME')
    monkeypatch.setenv("odd-name", "goes, too")
    monkeypatch.setenv("PPID", "is the shell's")
    monkeypatch.setenv("TMPDIR", "/only/here")
    monkeypatch.setenv(far_command.HOST, "jv1")
    code = "import os, sys; print(repr((sys.argv[1:], dict(os.environ), os.getcwd())))"
    script, home = far_command.remote([sys.executable, "-c", code, "a b", "it's"], 23456, 75.0, "00ff")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    arguments, environment, folder = eval(done.stdout)
    assert home == {"127.0.0.1:4242"}
    assert arguments == ["a b", "it's"]
    assert folder == str(tmp_path)
    assert environment["PMIX_SERVER_URI41"] == "prterun-a-1@0.0;tcp4://127.0.0.1:23456"
    assert environment["LETTER"] == 'it\'s "two\nlines" $HOME'
    assert (environment["odd-name"], environment["PPID"]) == ("goes, too", "is the shell's")
    assert environment[run_key.KEY] == "00ff"
    assert script.count("00ff") == 1
    assert "00ff" not in script[script.index(" exec env ") :]  # `ps` shows what env is given
    assert environment[far_command.SSH_KEEPALIVE] == "75.0"
    assert environment["PATH"] == "/nowhere/bin:/usr/bin:/bin"
    assert not {"TMPDIR", far_command.HOST} & environment.keys()
    assert done.stderr.encode() == far_command.MARKS[far_command.StartPhase.SHELL_ANSWERED]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["-m", "jarvis_mpi", "--prompt", "Why?", "--seed", "1"], ["-m", "jarvis_mpi", "--seed", "1"]),
        (["-m", "jarvis_mpi", "--prompt=Why?"], ["-m", "jarvis_mpi"]),
        (["-m", "jarvis_mpi", "--prompts", "FILE"], ["-m", "jarvis_mpi", "--prompts", "FILE"]),
        (["-m", "jarvis_mpi", "--prompt"], ["-m", "jarvis_mpi"]),
    ],
)
def test_a_worker_elsewhere_is_not_given_the_prompt(words, left):
    assert far_command.without_prompt(words) == left
