"""Where an end user dies: on this machine, or on the first of six hosts of one's own.

What a place can do: bring a fault on, take it back, and tell what is left of a run.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chain import over_hosts
from benchmarks.faults.launcher_dies import LIMIT_S, OrphanedRun
from benchmarks.faults.live_run import LAUNCHER, WORKERS, kill
from benchmarks.faults.successors import records, written
from jarvis_mpi.testbed import own_hosts, own_links, own_processes

STOPPED_S, CUT_S = 6.0, 5.0
LEAVES_S = 100.0  # a rank that was cut off has left: launch_agents.silence_s, and some
LOOK_S = 0.25
COMPILED = "torchinductor_"  # a cache of torch's: its folder in TMPDIR stays, for all programs


class Machine:
    """All ranks on this machine."""

    faults = ("killed", "killed with mpirun", "stopped for 6 s")
    longest_s = (0.0, 0.0, 0.0)  # wait for the next token; 0: not judged
    launcher: Sequence[str] = LAUNCHER

    def __init__(self, scratch: Path):
        self.folder = scratch / "tmp"
        self.folder.mkdir()

    def ready(self) -> None:
        """Make it as it is before a run."""

    def strike(self, run: OrphanedRun, fault: str) -> float:
        """Bring the fault on. -> when."""
        node_0 = run.pids().get(0)
        self.stopped, self.memory = node_0, run.shared_memory()
        at = time.monotonic()
        if fault == "stopped for 6 s" and node_0:
            os.kill(node_0, signal.SIGSTOP)
            return at
        kill([*([node_0] if node_0 else []), *(run.launchers() if "mpirun" in fault else [])])
        return at

    def mend(self, fault: str, struck_at: float) -> None:
        """Take back what passes."""
        if "stopped" in fault and self.stopped:
            time.sleep(max(0.0, struck_at + STOPPED_S - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.stopped, signal.SIGCONT)

    def left(self, run: OrphanedRun, fault: str) -> tuple[bytes, list[str], float]:
        """Wait until the run is gone. -> what it showed, what is left of it, and how long that took after the
        end of its text."""
        shown = run.process.stdout.read()
        return shown, *run.left(self.memory)


class Hosts:
    """Rank 0 and mpirun on host 0, a worker on each of five others."""

    faults = ("process killed", "machine killed", "power off", "link cut", "link cut for 5 s")
    longest_s = (2.0, 2.0, 4.0, 4.0, 4.0)
    folder = Path("/tmp")  # of each host's own

    def __init__(self, scratch: Path):
        own_hosts.up(WORKERS, scratch)
        self.before: dict[int, set[Path]] = {}

    @property
    def launcher(self) -> Sequence[str]:
        return over_hosts(LIMIT_S)  # by a process of host 0, which may have been booted

    def ready(self) -> None:
        for host in own_processes.every_host():
            kill(own_processes.busy(host))
            if not own_processes.processes(host):
                own_hosts.boot(host)
            own_links.mend(host)
        self.before = {host: files_of(host) for host in own_processes.every_host()}

    def strike(self, run: OrphanedRun, fault: str) -> float:
        node_0 = run.pids().get(0)
        at = time.monotonic()
        match fault:
            case "process killed":
                kill([node_0] if node_0 else [])
            case "machine killed":
                own_processes.kill(0)
            case "power off":
                own_hosts.off(0)
            case _:
                own_links.cut(0)
        return at

    def mend(self, fault: str, struck_at: float) -> None:
        if fault == "link cut for 5 s":
            time.sleep(max(0.0, struck_at + CUT_S - time.monotonic()))
            own_links.mend(0)

    def left(self, run: OrphanedRun, fault: str) -> tuple[bytes, list[str], float]:
        end = time.monotonic() + LEAVES_S
        while busy := {
            host: found for host in own_processes.every_host() if (found := own_processes.busy(host))
        }:
            if time.monotonic() > end:
                break
            time.sleep(LOOK_S)
        gone_at = time.monotonic()
        wrong = [f"still running on hosts: {busy}"] if busy else []
        kill(pid for found in busy.values() for pid in found)
        kill(run.processes())  # what brought it to host 0
        shown = run.process.stdout.read()
        run.reader.join(timeout=10)
        for host in own_processes.every_host():
            if own_processes.processes(host):  # not one whose power is off
                wrong += [f"left on host {host}: {path}" for path in files_of(host) - self.before[host]]
        done_at = [each.done_at for path in records(run.log) if (each := written(path)).is_done]
        return shown, wrong, gone_at - min(done_at, default=gone_at)


def busy_hosts() -> dict[int, list[int]]:
    """host -> what runs there beside sshd."""
    return {host: found for host in own_processes.every_host() if (found := own_processes.busy(host))}


def files_of(host: int) -> set[Path]:
    """What is in a host's memory that has a name, and in its /tmp, but for torch's cache."""
    [first, *_] = [*own_processes.processes(host), 0]
    root = Path(f"/proc/{first}/root")
    found = set[Path]()
    for folder in "dev/shm", "tmp":
        with contextlib.suppress(OSError):
            found |= {Path("/") / each.relative_to(root) for each in (root / folder).iterdir()}
    return {path for path in found if not path.name.startswith(COMPILED)}
