"""What can be seen of a run from outside it, over hosts of our own: on the wire, and in the list of
processes."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from over_hosts import COUNT, assert_nothing_runs, start
from running import tokens_of, words_for

from jarvis_mpi.net import run_key
from jarvis_mpi.testbed import own_hosts, own_processes

pytestmark = [pytest.mark.hosts, pytest.mark.mpirun]

SECRET = "xylophone"
# On a host, until its standard input ends: how often which words pass any of its interfaces.
CAPTURE = """
import json, select, socket, sys
words = {word: 0 for word in sys.argv[1:]}
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
print(flush=True)
while True:
    ready = select.select([wire, sys.stdin], [], [])[0]
    if wire in ready:
        data = wire.recv(1 << 17)
        for word in words:
            words[word] += data.count(word.encode())
    elif sys.stdin in ready:
        break
print(json.dumps(words))
"""
WORDS = ("JMPI", "JSL1", "fingerprint")  # a message's magic, a sealed one's, and a word of every hello


@pytest.fixture(scope="module", autouse=True)
def everyone(tmp_path_factory):
    own_hosts.up(COUNT, tmp_path_factory.getbasetemp())
    yield
    own_hosts.down()


@contextmanager
def captured(host: int) -> Iterator[dict[str, int]]:
    """Count what passes on a host inside the `with`."""
    command = own_processes.command(host, [sys.executable, "-c", CAPTURE, *WORDS])
    counts = dict[str, int]()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as capture:
        capture.stdout.readline()
        try:
            yield counts
        finally:
            counts |= json.loads(capture.communicate(timeout=20)[0])


class Onlooker:
    """Reads all processes' words again and again, as `ps` does, and as root the keys that they were given."""

    def __init__(self) -> None:
        self.over, self.commands, self.keys = threading.Event(), set[bytes](), set[bytes]()
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        while not self.over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self.commands.add((process / "cmdline").read_bytes())
                    for word in (process / "environ").read_bytes().split(b"\0"):
                        if word.startswith(f"{run_key.KEY}=".encode()):
                            self.keys.add(word.partition(b"=")[2])

    def __enter__(self) -> "Onlooker":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(10.0)


def words(small: Path, log: Path, *more: str) -> list[str]:
    given = words_for(small, log, *more)
    given[given.index("--prompt") + 1] = "-"
    return given


def run_with_input(text: str, *asked: str, **how) -> str:
    run = start(*asked, stdin=subprocess.PIPE, **how)
    errors = run.communicate(text.encode(), timeout=150)[1].decode()
    assert run.returncode == 0, errors
    return errors


def test_nothing_can_be_read_between_hosts_or_in_the_list_of_processes(small, tmp_path):
    plain, log = tmp_path / "plain.h5", tmp_path / "run.h5"
    with captured(1) as seen:
        errors = run_with_input(SECRET, *words(small, plain, "--secure", "off"))
    assert seen["JMPI"] > 10
    assert seen["fingerprint"]
    assert not seen["JSL1"]
    with captured(1) as seen, Onlooker() as onlooker:
        errors = run_with_input(SECRET, *words(small, log))
    assert seen["JSL1"] > 10
    assert not seen["JMPI"] + seen["fingerprint"]
    assert tokens_of(log) == tokens_of(plain)
    assert "in the clear" not in errors
    assert "dropped" not in errors
    assert f"standard input is the prompt: {len(SECRET)} characters" in errors
    assert_nothing_runs()
    (key,) = onlooker.keys
    assert len(bytes.fromhex(key.decode())) == run_key.KEY_BYTES
    assert any(b"jarvis_mpi" in command for command in onlooker.commands)
    assert not [command for command in onlooker.commands if key in command or SECRET.encode() in command]


@pytest.mark.very_slow
def test_a_rank_0_elsewhere_has_the_key_and_standard_input(small, tmp_path):
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("".join(f"jv{host} slots=1\n" for host in (1, 2, 3, 0)))
    with captured(2) as seen:
        errors = run_with_input(
            SECRET, *words(small, tmp_path / "run.h5", "--secure", "on"), hostfile=hostfile
        )
    assert seen["JSL1"] > 10
    assert not seen["JMPI"]
    assert "end user  jv1" in errors
    assert f"standard input is the prompt: {len(SECRET)} characters" in errors
    assert len(tokens_of(tmp_path / "run.h5")) == 8
    assert_nothing_runs()
