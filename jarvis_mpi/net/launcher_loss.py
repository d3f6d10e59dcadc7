"""Lets a rank outlive mpirun.

Open MPI's library ends a process whose launcher is gone (PMIx's event "lost connection"), unless a handler of
the program's own answers that it has dealt with it. No other process ends the rank then, tells of deaths or
tidies up: so it looks for the others' deaths (mpi_link.py), and removes what MPI leaves behind.
"""

import contextlib
import ctypes
import math
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .ancestry import environment

# PMIx standard 4, pmix_common.h.
LOST_CONNECTION = -61
ACTION_COMPLETE = -334
REGISTERED_S = 5.0  # longest wait for PMIx's answer

Status, Size, Pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
Answer = ctypes.CFUNCTYPE(None, Status, Pointer, Size, Pointer, Pointer, Pointer)
Handler = ctypes.CFUNCTYPE(None, Size, Status, Pointer, Pointer, Size, Pointer, Size, Pointer, Pointer)
Registered = ctypes.CFUNCTYPE(None, Status, Size, Pointer)


class LauncherLoss:
    """Knows whether mpirun is gone: `happened` is set from another thread, `at_s` by time.monotonic."""

    def __init__(self) -> None:
        self.happened, self.at_s = threading.Event(), math.inf
        self.act: Callable[[], None] = lambda: None
        self.callbacks = (Handler(self.handle), Registered(self.take))  # PMIx keeps only their addresses
        self.answered, self.registered = threading.Event(), False

    def outlive(self, act: Callable[[], None]) -> bool:
        """Register with PMIx, after MPI has started. -> whether this process outlives mpirun.

        `act` is called in PMIx's thread when mpirun is gone, once, before `happened` is set.
        """
        self.act = act
        try:
            register = library_of_mpi().PMIx_Register_event_handler
        except (OSError, AttributeError):  # another MPI, or a PMIx whose names are hidden
            return False
        register((Status * 1)(LOST_CONNECTION), Size(1), None, Size(0), *self.callbacks, None)
        self.answered.wait(REGISTERED_S)
        return self.registered

    def take(self, status: int, number: int, data: Any) -> None:
        self.registered = status == 0
        self.answered.set()

    def handle(
        self, number: int, status: int, source: Any, info: Any, infos: int, results: Any, count: int,
        answer: Any, data: Any,
    ) -> None:  # fmt: skip
        """Be told that the connection to the launcher is lost."""
        if not self.happened.is_set():
            with contextlib.suppress(OSError):
                self.act()
            self.at_s = time.monotonic()
            self.happened.set()
        if answer:
            Answer(answer)(ACTION_COMPLETE, None, 0, None, None, data)


def library_of_mpi() -> ctypes.CDLL:
    """Return the MPI library that this process has loaded. Raises OSError where none can be found."""
    for path in mapped(r"libmpi\.so[.\d]*"):
        return ctypes.CDLL(path)
    raise OSError("no MPI library is loaded")


def mapped(name: str, process: int | str = "self") -> list[str]:
    """Return the paths of the files in a process's memory whose name matches."""
    try:
        lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    except OSError:  # it has ended
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return sorted(path for path in paths if re.fullmatch(name, path.rpartition("/")[2]))


def shared_memory(ranks: Iterable[int | str] = ("self",)) -> set[Path]:
    """Return the jobs' names of the memory that the ranks share: files of that name, a dot and a rank."""
    return {Path(path).with_suffix("") for rank in ranks for path in mapped(r"sm_segment\..*\.\d+", rank)}


def left_behind(memory: Iterable[Path]) -> list[Path]:
    """Return what mpirun would have removed: the shared memory of a job's ranks, and its folder."""
    folder = os.environ.get("PMIX_SERVER_TMPDIR")
    segments = [each for name in memory for each in name.parent.glob(f"{name.name}.*")]
    return [*segments, *([Path(folder)] if folder else [])]


def tidy(memory: Iterable[Path]) -> None:
    """Remove what mpirun would have removed."""
    for path in left_behind(memory):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# When the end user, process $1, has ended, ranks $3 that are stopped are killed after a second: mpirun, $2,
# waits for them. If that has ended by then, too, the other arguments are removed.
TIDIES = """
end_user=$1 launcher=$2 ranks=$3; shift 3
while kill -0 "$end_user" 2> /dev/null; do sleep 0.1; done
look=0
while [ "$look" -lt 50 ]; do
    look=$((look + 1)) left=
    for rank in $ranks; do
        kill -0 "$rank" 2> /dev/null || continue
        left=yes
        [ "$look" -gt 10 ] && grep -q '^State:.T' "/proc/$rank/status" 2> /dev/null && kill -9 "$rank"
    done
    [ "$left" ] || break
    sleep 0.1
done
kill -0 "$launcher" 2> /dev/null || exec rm -rf -- "$@"
"""


def tidy_later(end_user_pid: int, launcher_pid: int, ranks: Iterable[int], paths: Iterable[Path]) -> None:
    """Have ended and removed what the end user's process leaves: a rank that was stopped after its farewell,
    and `paths` should mpirun die, too."""
    words = [str(end_user_pid), str(launcher_pid), " ".join(map(str, ranks)), *map(str, paths)]
    with contextlib.suppress(OSError):
        subprocess.Popen(
            ["sh", "-c", TIDIES, "sh", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def other_ranks() -> list[int]:
    """Return the processes of the run's other ranks on this machine."""
    job, found = os.environ.get("PMIX_NAMESPACE"), []
    for folder in Path("/proc").glob("[0-9]*") if job else ():
        if int(folder.name) != os.getpid():
            words = environment(int(folder.name))
            if words.get("PMIX_NAMESPACE") == job and "PMIX_RANK" in words:
                found.append(int(folder.name))
    return found
