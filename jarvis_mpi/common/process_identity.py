"""Name a process uniquely: pids are reused, and hosts fresh from the card share one name."""

import os
import platform
from pathlib import Path


def space() -> str:
    """Return the pid namespace: containers of one machine have numbers of their own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def machine() -> str:
    """Return this machine's identity: the kernel's boot id where there is one."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return boot_id.read_text().strip() if boot_id.exists() else platform.node()


def named(pid: int) -> dict[str, str | int]:
    return {"machine": machine(), "space": space(), "pid": pid, "begun": status(pid)[1]}


def status(pid: int) -> tuple[str, str]:
    """Return the letter of a process's state, and its start in the kernel's ticks; '' where they are not
    known."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return words[0], words[19]
    except OSError:
        return "", ""


def lives(process: dict[str, str | int] | None) -> bool | None:
    """Return whether a process lives; None where that cannot be known: it is not named, was on another
    machine, or on this one before its boot."""
    if process is None or (process["machine"], process["space"]) != (machine(), space()):
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
