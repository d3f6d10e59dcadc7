"""Finds mpirun among the processes above one.

Only the standard library, and little of it: see launch_agents.py.
"""

import time

LAUNCHERS = ("prterun", "mpirun", "mpiexec")  # what mpirun's process may be called
DEAD = "ZX"  # proc(5), stat: a process that has ended
DYING_S = 0.15  # for mpirun to be gone, where it is: SIGKILL follows SIGTERM after a quarter of a second


def launcher_above(pid: int) -> int:
    """Return the nearest process above `pid` that is mpirun's; 0 where there is none."""
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 (see launch_agents.py)
                name, _, rest = file.read().rpartition(")")
        except OSError:
            return 0
        state, parent, *_ = rest.split()
        if name.partition("(")[2] in LAUNCHERS and state not in DEAD:
            return pid
        pid = int(parent)
    return 0


def is_gone(pid: int) -> bool:
    """Whether the process is gone, after DYING_S at the latest."""
    end = time.monotonic() + DYING_S
    while pid and launcher_above(pid) == pid:
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return pid != 0
