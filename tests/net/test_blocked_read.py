"""A thread that waits for a stranger's bytes is freed; one that waits for anything else is left alone."""

import os
import socket
import threading
import time

import pytest

from jarvis_mpi.net import blocked_read
from jarvis_mpi.net.blocked_read import BlockedReads, descriptor_read, shut_down

pytestmark = pytest.mark.skipif(
    not BlockedReads().reads, reason="only Linux tells what a thread waits for, on x86-64 and Arm"
)


def reading(inside: bool, seconds: float) -> tuple[bool, BlockedReads]:
    """Read from a connection on which nothing comes. -> whether that ended within so many seconds."""
    here, there = socket.socketpair()
    made: list[BlockedReads] = []

    def read() -> None:
        made.append(BlockedReads())
        if inside:
            with made[0]:
                here.recv(16)
        else:
            here.recv(16)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(seconds)
    ended = not thread.is_alive()
    there.close()
    thread.join(5.0)
    here.close()
    return ended, made[0]


def test_a_read_inside_mpi_is_ended(monkeypatch):
    monkeypatch.setattr(blocked_read, "BLOCKED_S", 0.3)
    ended, blocked = reading(inside=True, seconds=5.0)
    assert ended
    assert blocked.blocked_s() == 0.0


def test_a_read_outside_mpi_is_left_alone(monkeypatch):
    monkeypatch.setattr(blocked_read, "BLOCKED_S", 0.3)
    ended, _ = reading(inside=False, seconds=1.0)
    assert not ended


def test_no_other_call_is_taken_for_a_read():
    started = threading.Event()
    found: list[int] = []

    def sleep() -> None:
        found.append(threading.get_native_id())
        started.set()
        time.sleep(1.0)

    threading.Thread(target=sleep, daemon=True).start()
    started.wait(5.0)
    time.sleep(0.1)
    assert descriptor_read(found[0], blocked_read.READS[os.uname().machine]) is None
    assert descriptor_read(1 << 22, {0}) is None


def test_only_a_connection_is_shut_down(tmp_path):
    with (tmp_path / "file").open("w") as file:
        assert not shut_down(file.fileno())
    assert not shut_down(1 << 20)
