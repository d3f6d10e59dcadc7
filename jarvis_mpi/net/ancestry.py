"""Looks at the processes above one and below mpirun (proc(5), Linux; nothing is found elsewhere).

Only the standard library, and little of it: see launch_agents.py.
"""

import contextlib
import os
import time

LAUNCHERS = ("prterun", "mpirun", "mpiexec")  # what mpirun's process may be called
DEAD, STOPPED = ("Z", "X", ""), ("T", "t")  # states of a process
DYING_S = 0.15  # for mpirun to be gone, where it is: SIGKILL follows SIGTERM after a quarter of a second


def launcher_above(pid: int) -> int:
    """Return the nearest process from `pid` upward that is mpirun's; 0 where there is none."""
    while pid > 1:
        name, status, parent = stat(pid)
        if name in LAUNCHERS and status not in DEAD:
            return pid
        pid = parent
    return 0


def stat(pid: int) -> tuple[str, str, int]:
    """Return a process's name, state and parent; ('', '', 0) where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 (see launch_agents.py)
            name, _, rest = file.read().rpartition(")")
    except OSError:
        return "", "", 0
    status, parent, *_ = rest.split()
    return name.partition("(")[2], status, int(parent)


def state(pid: int) -> str:
    return stat(pid)[1]


def children(pid: int) -> set[int]:
    """Return a process's children that live; none where the kernel does not list them."""
    found = set[int]()
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:  # noqa: PTH123
                found.update(map(int, file.read().split()))
    return {child for child in found if state(child) not in DEAD}


def environment(pid: int) -> dict[str, str]:
    """Return a process's environment; {} where it may not be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            words = file.read().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def is_gone(pid: int) -> bool:
    """Whether the process is gone, after DYING_S at the latest."""
    end = time.monotonic() + DYING_S
    while pid and launcher_above(pid) == pid:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return pid != 0
