"""Looks at the processes above one and below mpirun (proc(5), Linux; nothing is found elsewhere).

Only the standard library, and little of it: see launch_agents.py.
"""

import contextlib
import os
import signal
import time
from typing import NamedTuple

LAUNCHERS = ("prterun", "mpirun", "mpiexec")  # what mpirun's process may be called
DEAD, STOPPED = ("Z", "X", ""), ("T", "t")  # states of a process


class Stat(NamedTuple):
    """What is read of a process; its first values where there is none."""

    name: str = ""
    state: str = ""
    parent: int = 0
    terminal: int = 0  # that controls it; 0: none, also once that is closed


def stat(pid: int) -> Stat:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 (see launch_agents.py)
            name, _, rest = file.read().rpartition(")")
    except OSError:
        return Stat()
    state, parent, _, _, terminal, *_ = rest.split()
    return Stat(name.partition("(")[2], state, int(parent), int(terminal))


def launcher_above(pid: int) -> int:
    """Return the nearest process from `pid` upward that is mpirun's; 0 where there is none."""
    while pid > 1:
        found = stat(pid)
        if found.name in LAUNCHERS and found.state not in DEAD:
            return pid
        pid = found.parent
    return 0


def children(pid: int) -> set[int]:
    """Return a process's children that live; none where the kernel does not list them."""
    found = set[int]()
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:  # noqa: PTH123
                found.update(map(int, file.read().split()))
    return {child for child in found if stat(child).state not in DEAD}


def environment(pid: int) -> dict[str, str]:
    """Return a process's environment; {} where it may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            words = file.read().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def has_ended(pid: int, within_s: float) -> bool:
    """Whether the process has ended, or does so in time."""
    end = time.monotonic() + within_s
    while stat(pid).state not in DEAD:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_by_signal(number: int, frame: object = None) -> None:
    """End this process by the signal, as if it had not been caught."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
