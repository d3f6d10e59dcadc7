"""A run in which node 2 sends nonsense for its beats once it has worked: python tests/babbling.py OPTIONS."""

import os
import random
import runpy

from sim.world import A_STEP, nonsense

from jarvis_mpi.net.mpi_link import MpiLink

if os.environ.get("OMPI_COMM_WORLD_RANK") == "2":
    dice, receive, beat, worked = random.Random(1), MpiLink.receive, MpiLink.beat, []

    def noting(self, timeout_s):
        data = receive(self, timeout_s)
        worked.extend([True] * (data[: len(A_STEP)] == A_STEP))
        return data

    def babbling(self, node, data):
        beat(self, node, nonsense(dice) if worked else data)

    MpiLink.receive, MpiLink.beat = noting, babbling  # type: ignore[method-assign]
runpy.run_module("jarvis_mpi", run_name="__main__", alter_sys=True)
