"""A chat in a terminal: keys, Ctrl-C and Ctrl-D."""

import contextlib
import json
import os
import signal
import sys
import termios
from collections.abc import Iterator

import pytest
from running import assert_nothing_is_left, events
from terminals import Terminal

pytestmark = pytest.mark.mpirun

LIMIT_S = 120


@pytest.fixture
def terminal(tmp_path) -> Iterator[Terminal]:
    run = Terminal(
        "timeout", "--foreground", "-k", "5", str(LIMIT_S), "mpirun", "-hostfile", "hostfiles/local", "-n",
        "3",
        sys.executable, "-m", "jarvis_mpi", "--ignore-eos", "--max-new-tokens", "1000", "--log",
        str(tmp_path / "run.h5"),
    )  # fmt: skip
    run.await_text("besides a question")
    run.await_text("> ")
    yield run
    with contextlib.suppress(OSError):
        os.kill(run.pid, signal.SIGTERM)
        os.waitpid(run.pid, 0)
    os.close(run.end)
    assert_nothing_is_left()


def test_a_chat_in_a_terminal(terminal, tmp_path):
    terminal.type("Write a very long story about 世界 and a 👩‍🚀.\n")
    terminal.await_more(80)  # it streams
    terminal.type("/stats\n")  # ahead
    terminal.type("\x03")
    terminal.await_text("tokens/s")  # the answer was stopped, the chat goes on with what was typed
    terminal.await_text("> ")
    terminal.type("/reset\n")
    terminal.await_text("a new conversation")
    terminal.type("x" * 5000 + "\n")
    terminal.await_text("a terminal cuts lines")
    terminal.await_text("> ")
    terminal.type("Again.\n")
    terminal.await_more(40)
    terminal.type("\x03")
    terminal.await_text("> ")
    terminal.type("\x03")  # twice
    assert terminal.status() == 0, terminal.seen
    assert "tokens/s" in terminal.seen
    assert events(tmp_path / "run.h5", "answered") == ["interrupted", "interrupted"]
    asked = [json.loads(event) for event in events(tmp_path / "run.h5", "asked")]
    assert [(each["sequence"], each["cached"]) for each in asked] == [(0, 0), (1, 0)]


def test_ctrl_c_twice_in_an_answer_ends_the_program(terminal, tmp_path):
    terminal.type("Write a very long story.\n")
    terminal.await_more(80)
    terminal.type("\x03\x03\x03")
    assert terminal.status() in (0, 1), terminal.seen
    assert "Traceback" not in terminal.seen
    assert events(tmp_path / "run.h5", "answered") == ["interrupted"]
    assert termios.tcgetattr(terminal.end) == terminal.before


def test_ctrl_d_ends_a_chat_and_leaves_the_terminal_as_it_was(terminal):
    while_it_chats = termios.tcgetattr(terminal.end)
    terminal.type("\x04")
    assert terminal.status() == 0, terminal.seen
    assert termios.tcgetattr(terminal.end) == terminal.before != while_it_chats
