"""What can be seen of a run from outside: which ranks are in MPI_Init, what MPI leaves in memory."""

import contextlib
import re
from pathlib import Path

from benchmarks.faults.live_run import LiveRun
from jarvis_mpi.net.ancestry import children, environment

MEMORY = Path("/dev/shm")
ALONE = re.compile(r"0000\.0$")  # a job's number without an mpirun, and its only rank


def in_init(run: LiveRun) -> dict[int, int]:
    """node -> process, of the ranks that are in MPI_Init: a child of theirs watches over them then."""
    found = {}
    for process in run.processes():
        if watches(process):
            words = environment(process)
            if "JARVIS_HOST" not in words and "PMIX_RANK" in words:
                found[int(words["PMIX_RANK"])] = process
    return found


def watches(process: int) -> set[int]:
    """The children of a process that are copies of it: net/init_watchdog.py."""
    found = set()
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes()
        if b"jarvis_mpi" in words:
            for child in children(process):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/cmdline").read_bytes() == words:
                        found.add(child)
    return found


def left_in_memory() -> set[Path]:
    """What MPI keeps in memory that has a name, and no process uses; not what programs without an mpirun
    leave."""
    used = set[str]()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            used |= {word for word in maps.read_text().split() if word.startswith(f"{MEMORY}/")}
    return {path for path in MEMORY.iterdir() if str(path) not in used and not ALONE.search(path.name)}
