"""A process named so that it is known again: pids are used twice, and hosts fresh from the card have one name."""

import os
import platform
from pathlib import Path


def space() -> str:
    """In which its number is one process's: containers of one machine have numbers of their own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def machine() -> str:
    """Told apart by the kernel's boot id where there is one."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return boot_id.read_text().strip() if boot_id.exists() else platform.node()


def named(pid: int) -> dict[str, str | int]:
    return {"machine": machine(), "space": space(), "pid": pid, "begun": status(pid)[1]}


def status(pid: int) -> tuple[str, str]:
    """Its state's letter, and when it was started, in the kernel's own ticks; '' where that is not told."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except OSError:
        return "", ""


def lives(process: dict[str, str | int]) -> bool | None:
    """None: it cannot be known from here, because it was on another machine, or on this one before it was booted."""
    if (process["machine"], process["space"]) != (machine(), space()):
        return None
    pid = int(process["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state, begun = status(pid)
    return begun == process["begun"] and state != "Z"
