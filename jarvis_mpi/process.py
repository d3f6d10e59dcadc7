"""A process named so that it is known again: pids are used twice, and hosts fresh from the card have one name."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Told apart by the kernel's boot id where there is one."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return boot_id.read_text().strip() if boot_id.exists() else platform.node()


def named(pid: int) -> dict[str, str | int]:
    return {"host": platform.node(), "machine": machine(), "pid": pid, "begun": begun(pid)}


def begun(pid: int) -> str:
    """When it was started, in the kernel's own ticks; '' where that is not told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def lives(process: dict[str, str | int]) -> bool | None:
    """None: it cannot be known, because it was on another machine."""
    if process["machine"] != machine():
        return False if process["host"] == platform.node() else None  # this one has been booted since
    pid = int(process["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return begun(pid) == process["begun"]
