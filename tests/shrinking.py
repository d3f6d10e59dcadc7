"""One node is lost, or hangs, and the others shrink the communicator: a program for test_faults.py.

python tests/shrinking.py SIGKILL|SIGSTOP: each survivor prints its launch rank, the new communicator's nodes,
and the sum of the launch ranks over it.
"""

import faulthandler
import os
import signal
import sys
import time

from mpi4py import MPI

from jarvis_mpi.net.communicator import Membership

VICTIM = 2
faulthandler.dump_traceback_later(40, exit=True)
world = MPI.COMM_WORLD
world.Set_errhandler(MPI.ERRORS_RETURN)
which = signal.Signals[sys.argv[1]]
end = time.monotonic() + 30
membership = Membership(MPI, world)
pids = world.allgather(os.getpid())
left = [node for node in range(world.size) if node != VICTIM]
if world.rank == VICTIM:
    os.kill(os.getpid(), which)
while which is signal.SIGKILL and time.monotonic() < end:  # until MPI knows
    try:
        world.Iprobe(VICTIM)
        time.sleep(0.001)
    except MPI.Exception:
        break
assert membership.begin(1, left, which is signal.SIGKILL)
done = None
while done is None and time.monotonic() < end:
    done = membership.poll()
    time.sleep(0.001)
assert done, f"no communicator: {done}"
total = membership.comm.allreduce(world.rank)
print(f"rank {world.rank}: {membership.nodes}, sum {total}", flush=True)
over = time.monotonic() + 1
while time.monotonic() < over:  # what the others still need of this one leaves only while it calls MPI
    membership.comm.Iprobe()
    time.sleep(0.001)
if world.rank == 0 and which is signal.SIGSTOP:
    os.kill(pids[VICTIM], signal.SIGKILL)
os._exit(0)
