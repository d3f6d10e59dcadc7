"""Hostfiles as mpirun reads them, and one command on a host of it by ssh."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from .launch import SSH
from .link import Unservable


def ranks(path: Path) -> list[str]:
    """The host of each rank: a line's slots one after the other. Raises Unservable."""
    try:
        lines = [line.partition("#")[0].split() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise Unservable(
            f"--hostfile {path} cannot be read: {getattr(error, 'strerror', 'it is not text')}"
        ) from None
    found: list[str] = []
    for host, *words in filter(None, lines):
        slots = dict(word.partition("=")[::2] for word in words).get("slots", "")
        if not slots:
            raise Unservable(
                f"--hostfile {path}: {host} has no slots, and mpirun would take its cores for them: write slots=1"
            )
        if not slots.isdigit():
            raise Unservable(f"--hostfile {path}: {host} has slots={slots}, which is no number")
        found += [host] * int(slots)
    if len(found) < 2:
        raise Unservable(f"--hostfile {path} names {len(found)} slots: an end user and a worker need two")
    return found


def is_here(host: str) -> bool:
    """Whether `host` is this machine."""
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    mine = {each.address.partition("%")[0] for nic in psutil.net_if_addrs().values() for each in nic}
    return bool(addresses & mine)


def start(host: str, *words: str, **more: Any) -> subprocess.Popen:
    """`python -m jarvis_mpi WORDS` on the host, by this environment's path there."""
    command = [sys.executable, "-m", "jarvis_mpi", *words]
    if not is_here(host):
        ssh = shlex.split(os.environ.get(SSH, "ssh"))
        options = (
            "BatchMode=yes",
            "ConnectTimeout=10",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=5",
            "ControlPath=none",
        )
        command = [*ssh, *(word for option in options for word in ("-o", option)), host, shlex.join(command)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **more)
