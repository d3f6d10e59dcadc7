"""python -m benchmarks.speed.host_start [--hosts 9] [--rounds 3]:
from the mpirun line to the first token, over hosts.

Side by side: our daemons at home (net/launch_agents.py), and Open MPI's own on the hosts (--prtemca
plm_ssh_agent ssh). Hosts of our own on this machine (testbed/own_hosts.py): root, Linux, sshd.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser, require_hosts
from benchmarks.chain import command
from jarvis_mpi.testbed import own_hosts, own_processes

WAYS = {"daemons at home": (), "Open MPI's own": ("--prtemca", "plm_ssh_agent", "ssh")}


def started(ranks: int, way: str, log: Path, *more: str) -> subprocess.Popen:
    """A run over all hosts."""
    words = command(ranks, log, *more)
    at = words.index("mpirun") + 1
    words[at:at] = ["-hostfile", str(own_processes.STATE / "hostfile"), *WAYS[way]]
    return subprocess.Popen(
        own_processes.command(0, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )


def first_token_s(ranks: int, way: str) -> float:
    with tempfile.TemporaryDirectory(dir=own_processes.STATE) as scratch:
        begun = time.perf_counter()
        words = ("--prompt", "Why is the sky blue?", "--max-new-tokens", "4")
        with started(ranks, way, Path(scratch) / "run.h5", *words) as run:
            run.stdout.read(1)
            took_s = time.perf_counter() - begun
            said = run.communicate()[1].decode()
    if run.returncode:
        raise SystemExit(said)
    return took_s


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--hosts", type=int, default=9)
    made.add_argument("--rounds", type=int, default=3)
    asked = made.parse_args()
    require_hosts()
    os.chdir(ROOT)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        own_hosts.up(asked.hosts - 1)
        for number in range(asked.rounds):
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                times[way].append(first_token_s(asked.hosts, way))
                print(f"{way}: first token after {times[way][-1]:.1f} s", flush=True)
    finally:
        own_hosts.down()
    ours, theirs = (statistics.median(each) for each in times.values())
    print(
        f"{asked.hosts} hosts: {ours:.1f} s, Open MPI's own daemons {theirs:.1f} s: {ours / theirs:.2f} of it"
    )
    print(json.dumps({"hosts": asked.hosts, "seconds": times, "ratio": ours / theirs}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
