"""Strangers at the ranks' ports: whatever they send and hold, the text is whole."""

import contextlib
import os
import socket
from collections.abc import Iterator

import psutil
import pytest
from running import assert_nothing_is_left, mpirun, processes, start, words_for

pytestmark = pytest.mark.mpirun

RANKS = 3
SLOWLY = ("--max-new-tokens", "12", "--ignore-eos", "--pace-s", "0.1")


def doors() -> Iterator[tuple[str, int]]:
    """The addresses on which this test's ranks listen."""
    for process in (process for rank in range(RANKS) for process in processes(rank=rank)):
        with contextlib.suppress(psutil.Error):
            for connection in psutil.Process(process).net_connections():
                if connection.status == psutil.CONN_LISTEN:
                    is_new = connection.family == socket.AF_INET6
                    yield "::1" if is_new else "127.0.0.1", connection.laddr.port


@pytest.fixture(scope="module")
def expected(small, tmp_path_factory) -> bytes:
    """What is answered where no stranger comes."""
    return mpirun(RANKS, *words_for(small, tmp_path_factory.mktemp("alone") / "run.h5", *SLOWLY)).stdout


@pytest.mark.parametrize(
    ("connections", "data", "secure"),
    [
        pytest.param(1, b"x" * 16, "off", id="16 bytes, held", marks=pytest.mark.very_slow),
        pytest.param(100, b"", "off", id="100 idle ones", marks=pytest.mark.very_slow),
        pytest.param(1, b"\xff" * 8, "off", id="a huge length", marks=pytest.mark.very_slow),
        pytest.param(1, os.urandom(4096), "off", id="random", marks=pytest.mark.very_slow),
        pytest.param(8, b"x" * 16, "off", id="16 bytes, eight times"),
        pytest.param(8, b"x" * 16, "on", id="16 bytes, sealed", marks=pytest.mark.very_slow),
        pytest.param(1, os.urandom(4096), "on", id="random, sealed", marks=pytest.mark.very_slow),
    ],
)
def test_what_strangers_send_holds_nobody_up(connections, data, secure, small, expected, tmp_path):
    run = start(RANKS, *words_for(small, tmp_path / "run.h5", *SLOWLY, "--secure", secure))
    with contextlib.ExitStack() as held:
        shown = os.read(run.stdout.fileno(), 1)  # the answer comes
        reached = set(doors())
        for door in reached:
            for _ in range(connections):
                stranger = held.enter_context(socket.create_connection(door, 5.0))
                stranger.sendall(data)
        more, errors = run.communicate(timeout=60)
    assert len(reached) >= RANKS
    assert (run.returncode, shown + more) == (0, expected), errors.decode()
    assert_nothing_is_left()
