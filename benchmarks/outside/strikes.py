"""Brings a fault on, from outside: a signal, or bytes on a port."""

import contextlib
import os
import re
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.outside.cases import Order
from benchmarks.outside.evidence import LAUNCHER, NOBODY, Record

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "stop for good": signal.SIGSTOP}
LISTENS = "0A"
TEXT = b"x" * 16  # as long as what MPI expects first


def node_of(order: Order, records: Sequence[Record], said: str) -> int:
    """Return the node that an order means now; NOBODY where there is none."""
    match order.target:
        case "launcher":
            return LAUNCHER
        case "end user":
            return 0
        case "standby":
            if named := re.findall(r"node (\d+) stands by", said):
                return int(named[-1])
            nodes = [int(record.attributes.get("standby", NOBODY)) for record in records]
            return nodes[0] if nodes and nodes[0] > 0 else NOBODY
        case "successor":
            nodes = [event.node for record in records for event in record.named("takeover")]
            return nodes[-1] if nodes else NOBODY
    return order.node


def strike(order: Order, process: int, held: list[socket.socket]) -> bool:
    """Bring a fault on. -> whether it hit something."""
    if order.kind == "port":
        reached = False
        for door in ports(process):
            with contextlib.suppress(OSError):
                stranger = socket.create_connection(door, 1.0)
                held.append(stranger)
                stranger.sendall(TEXT)
                reached = True
        return reached
    with contextlib.suppress(OSError):
        _, _, rest = Path(f"/proc/{process}/stat").read_text().rpartition(")")
        if rest.split()[0] not in "ZX":
            os.kill(process, SIGNALS[order.kind])
            return True
    return False


def ports(process: int) -> list[tuple[str, int]]:
    """Return the addresses of this machine on which a process listens."""
    own = set()
    for path in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):
            own.add(str(path.readlink()))
    found = []
    tables: Mapping[str, str] = {"tcp": "127.0.0.1", "tcp6": "::1"}
    for table, address in tables.items():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == LISTENS and f"socket:[{words[9]}]" in own:
                    found.append((address, int(words[1].rpartition(":")[2], 16)))
    return found
