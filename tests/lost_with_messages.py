"""A process dies while messages to it are stuck, and its connection breaks only later, as that of a host
without power does: a program for test_faults.py, on three ranks. Open MPI must not end rank 0 then ("Send
error after request freed").
"""

import faulthandler
import os
import signal
import time

import pytest

from jarvis_mpi.net.mpi_link import MpiLink
from jarvis_mpi.protocol.link import Lost, Silence

CONNECTED_S = 6.0  # so long another process holds rank 1's connections
faulthandler.dump_traceback_later(60, exit=True)
link = MpiLink(30.0, speaks=True)
match link.me:
    case 0:
        pid, begun = int(link.receive(20.0)), time.monotonic()
        time.sleep(0.5)  # it has stopped
        for _ in range(400):  # more than the connection holds, each small enough to be sent unasked
            link.send(1, bytes(60_000))
        assert link.sending()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Lost):
            link.flush(3.0)
        assert not link.sending()
        with pytest.raises(Lost):
            link.send(1, b"more")
        with pytest.raises(Lost) as lost:  # who waits is told, too, whoever has sent something meanwhile
            link.receive(3.0)
        assert set(lost.value.nodes) == {1}
        assert time.monotonic() - begun < CONNECTED_S - 1
        while time.monotonic() - begun < CONNECTED_S + 1:
            with pytest.raises(Silence):
                link.receive(0.2)
        assert not link.sending()
        link.send(2, b"go")
        assert link.receive(20.0) == b"gone"
        print("as it should be", flush=True)
    case 1:
        if os.fork():
            link.send(0, str(os.getpid()).encode())
            link.flush(10.0)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.setsid()
            time.sleep(CONNECTED_S)
            os._exit(0)
    case 2:
        while True:
            try:
                assert link.receive(20.0) == b"go"
                break
            except Lost:
                pass
        link.send(0, b"gone")
link.flush(10.0)
link.leave(0, together=False)
