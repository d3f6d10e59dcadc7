"""What tests over hosts of our own share: a run from host 0, its end, and what may happen to it meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from places import ROOT
from running import PROMPT

from jarvis_mpi.testbed import own_processes

COUNT = 3
HOSTFILE = own_processes.STATE / "hostfile"
LEAVES_S = 90.0  # launch.silence_s, and some


def start(
    *words: str, limit_s: int = 120, hostfile: Path = HOSTFILE, mpi: Sequence[str] = (), **how: Any
) -> subprocess.Popen:
    plain = ["mpirun", "-hostfile", str(hostfile), *mpi, "-n", str(COUNT + 1)]
    plain[1:1] = ["-x", "PYTHONPATH"] if "PYTHONPATH" in os.environ else []  # to test another tree
    return subprocess.Popen(
        own_processes.command(
            0, ["timeout", "-k", "5", str(limit_s), *plain, sys.executable, "-m", "jarvis_mpi", *words]
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        **how,
    )


def ended(run: subprocess.Popen) -> str:
    """What it said on standard error; nothing is left of it on any host."""
    errors = run.communicate(timeout=150)[1].decode()
    assert_nothing_runs()
    return errors


def assert_nothing_runs() -> None:
    """Nothing of a run is left on any host."""
    end = time.monotonic() + LEAVES_S
    while busy := {host: found for host in own_processes.every_host() if (found := own_processes.busy(host))}:
        assert time.monotonic() < end, busy
        time.sleep(0.2)


def ssh_that(host: str, command: str, folder: Path) -> str:
    """A command in ssh's place, that first does something else for one host."""
    stand_in = folder / "ssh"
    stand_in.write_text(f'#!/bin/sh\ncase "$*" in *" {host} "*) {command};; esac\nexec ssh "$@"\n')
    stand_in.chmod(0o755)
    return str(stand_in)


def await_on(host: int, mapped: str) -> None:
    """Wait until a process there has a library of that name."""
    end = time.monotonic() + 60
    while not any(mapped in own_processes.proc_file(pid, "maps") for pid in own_processes.busy(host)):
        assert time.monotonic() < end, f"nobody on {host} has {mapped}"
        time.sleep(0.02)


def interrupt() -> None:
    """Ctrl-C."""
    for pid in own_processes.processes(0):
        if Path(f"/proc/{pid}/comm").read_text().strip() == "prterun":
            os.kill(pid, signal.SIGINT)


def ends_at_ctrl_c(run: subprocess.Popen) -> None:
    """At once, without a traceback, and nothing of it is left."""
    begun = time.monotonic()
    interrupt()
    errors = ended(run)
    assert time.monotonic() - begun < 15
    assert run.returncode != 0
    assert "Traceback" not in errors


def long_words(log: Path) -> list[str]:
    return [
        "--dtype",
        "float32",
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "96",
        "--ignore-eos",
        "--log",
        str(log),
    ]
