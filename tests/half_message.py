"""A large message stops half-way, because its sender does: a program for test_faults.py, on three ranks.

Rank 2 must go on hearing rank 0, and get the rest, in order, when rank 1 goes on.
"""

import faulthandler
import os
import signal
import time

from jarvis_mpi.net.mpi_link import MpiLink
from jarvis_mpi.protocol.link import Silence

faulthandler.dump_traceback_later(60, exit=True)
link = MpiLink(30.0, speaks=True)
LARGE = bytes(range(256)) * 80_000  # 20 MB: never sent before the receiver asks for it
match link.me:
    case 0:
        pid = int(link.receive(20.0))
        time.sleep(1.0)  # rank 1 has stopped
        link.send(2, b"from 0")
        assert link.receive(20.0) == b"heard", "rank 2 does not hear rank 0"
        os.kill(pid, signal.SIGCONT)
        assert link.receive(20.0) == b"whole, and in order"
        print("as it should be", flush=True)
    case 1:
        link.send(0, str(os.getpid()).encode())
        link.flush(10.0)
        link.send(2, b"first")  # so that they are connected
        link.flush(10.0)
        time.sleep(0.5)
        link.send(2, LARGE)
        link.send(2, b"after")
        os.kill(os.getpid(), signal.SIGSTOP)
        assert link.receive(20.0) == b"thanks"  # who leaves earlier takes what is on its way along
    case 2:
        assert link.receive(20.0) == b"first"
        assert link.receive(20.0) == b"from 0"
        try:
            raise AssertionError(f"the rest came: {len(link.receive(0.2))} bytes")
        except Silence:  # the next call goes on with it
            pass
        link.send(0, b"heard")
        whole, after = link.receive(20.0), link.receive(20.0)
        assert (whole, after) == (LARGE, b"after")
        link.send(1, b"thanks")
        link.send(0, b"whole, and in order")
link.flush(10.0)
link.leave(0, together=True)
