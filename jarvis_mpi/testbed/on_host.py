"""Runs `python -m jarvis_mpi WORDS` on a host, by ssh where that is another machine."""

import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

import psutil

from ..common import variables
from ..common.errors import Unservable

OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=5",
    "ControlPath=none",
)


MOST_LINES = 1000  # that a shell may print before


def json_object(lines: Iterable[bytes]) -> dict[str, Any] | None:
    """Return the first line that is a JSON object, None if there is none: a shell may print lines of its own
    around it."""
    for line in islice(lines, MOST_LINES):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def is_here(host: str) -> bool:
    """Whether `host`, with or without a user, is this machine."""
    host = host.rpartition("@")[2]
    if host in ("localhost", socket.gethostname()):
        return True
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # UnicodeError: a part of the name is too long
        return False
    mine = {each.address.partition("%")[0] for nic in psutil.net_if_addrs().values() for each in nic}
    return bool(addresses & mine)


def start(host: str, *words: str, **more: Any) -> subprocess.Popen:
    """Start the command there, by this environment's path. Raises Unservable."""
    command = [sys.executable, "-m", "jarvis_mpi", *words]
    try:
        if not is_here(host):
            options = (word for option in OPTIONS for word in ("-o", option))
            command = [*variables.ssh(), *options, "--", host, shlex.join(command)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, **more)
    except variables.Wrong as error:
        raise Unservable(f"{host} cannot be reached by ssh: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in a word
        why = variables.not_started(error) if isinstance(error, OSError) else str(error)
        raise Unservable(f"{host} cannot be reached by ssh: {why}") from None
