"""What the hosts and the Slurm of one's own share: what they need, their names, and what runs on each of
them."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from pathlib import Path

from ..common.errors import Unservable

PREFIX = "jv"
AIR = f"{PREFIX}air"  # the namespace of the bridge
STATE = Path("/run/jarvis_hosts")  # keys, configurations, logs
WAIT_S = 10.0


def sh(command: str, check: bool = True) -> str:
    """Run a command. -> its standard output. Raises Unservable with what it said."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise Unservable(f"{command}: {done.stderr.strip()}")
    return done.stdout


def lacking(need: str, tools: Iterable[str], packages: str) -> str:
    """'' if root and the `tools` are here, else one sentence that begins with `need` ("hosts need")."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return f"{need} Linux and root"
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if absent := [tool for tool in tools if not shutil.which(tool)]:
        return f"{need} {', '.join(absent)}: apt-get install {packages}"
    return ""


def until(comes_true: Callable[[], bool], sentence: str, wait_s: float = WAIT_S) -> None:
    """Raises Unservable with `sentence` where it does not within `wait_s`."""
    end = time.monotonic() + wait_s
    while not comes_true():
        if time.monotonic() > end:
            raise Unservable(sentence)
        time.sleep(0.02)


def name(host: int) -> str:
    return f"{PREFIX}{host}"


def address(host: int) -> str:
    return f"10.98.0.{10 + host}"


def every_host() -> list[int]:
    words = (line.split()[0] for line in sh("ip netns list").splitlines() if line.strip())
    return sorted(int(word[len(PREFIX) :]) for word in words if word[len(PREFIX) :].isdigit())


def processes(host: int | str) -> list[int]:
    """All on a host, by their numbers here; the first is the host's own process 1, if it is up."""
    found = map(int, sh(f"ip netns pids {host if host == AIR else name(int(host))}", check=False).split())
    return sorted(found, key=lambda pid: (number_on_host(pid) != 1, pid))


def busy(host: int) -> list[int]:
    """What runs on a host beside sshd, which continues for minutes after a peer that is out of reach."""
    return [
        pid
        for pid in processes(host)
        if number_on_host(pid) > 1 and not proc_file(pid, "comm").startswith("sshd")
    ]


def proc_file(pid: int, what: str) -> str:
    """A file of the process's in /proc; '' once it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_text()
    return ""


def number_on_host(pid: int) -> int:
    """A process's number on its host; 0 if it belongs to none."""
    numbers = next(
        (line.split()[1:] for line in proc_file(pid, "status").splitlines() if "NSpid" in line), []
    )
    return int(numbers[-1]) if len(numbers) > 1 else 0


def command(host: int, words: list[str]) -> list[str]:
    """What runs `words` on a host, in this folder. Raises Unservable if it is down."""
    first = next((pid for pid in processes(host) if number_on_host(pid) == 1), None)
    if first is None:
        raise Unservable(f"{name(host)} is down: boot {host}")
    spaces = ["nsenter", "-t", str(first), "-m", "-u", "-i", "-n", "-p", f"--wdns={Path.cwd()}"]
    return [*spaces, *words]


def kill(*chosen: int | str) -> None:
    """Kill every process of these hosts at once, their first processes first: each takes the others along."""
    for pid in chain(*zip_longest(*map(processes, chosen))):
        with contextlib.suppress(ProcessLookupError):
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
