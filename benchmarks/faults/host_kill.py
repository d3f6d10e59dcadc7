"""python -m benchmarks.faults.host_kill [--tokens 64]:
the same kill of one of five hosts, under both kinds of daemons.

Side by side: our daemons at home (net/launch_agents.py), and Open MPI's own on the hosts (--prtemca
plm_ssh_agent ssh). Hosts of our own on this machine (testbed/own_hosts.py): root, Linux, sshd.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser, require_hosts
from benchmarks.faults.live_run import PROMPT, read
from benchmarks.speed.host_start import WAYS, started
from jarvis_mpi.testbed import own_hosts, own_processes

RANKS = 5
VICTIM = 2
SEEN = 20  # characters of the answer before the kill


def killed(way: str, tokens: int, log: Path) -> str:
    """A row of the table."""
    words = ("--prompt", PROMPT, "--max-new-tokens", str(tokens), "--ignore-eos")
    with started(RANKS, way, log, *words) as run:
        run.stdout.read(SEEN)
        own_processes.kill(VICTIM)
        begun = time.perf_counter()
        said = run.communicate()[1].decode(errors="replace")
    took_s = time.perf_counter() - begun
    came = len(read(log)["tokens"])
    lines = [
        line.strip() for line in said.splitlines() if "node 2 lost" in line or "lost communication" in line
    ]
    why = lines[0] if lines else "-"
    return f"| {way} | {came} of {tokens} | {run.returncode} | {took_s:.1f} s | {why} |"


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--tokens", type=int, default=64)
    asked = made.parse_args()
    require_hosts()
    os.chdir(ROOT)
    print("| daemons | tokens | mpirun's status | ended after | what was said |\n|---|---|---|---|---|")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            own_hosts.up(RANKS - 1, Path(scratch))
            for number, way in enumerate(WAYS):
                print(killed(way, asked.tokens, Path(scratch) / f"{number}.h5"), flush=True)
                own_hosts.boot(VICTIM)
    finally:
        own_hosts.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
