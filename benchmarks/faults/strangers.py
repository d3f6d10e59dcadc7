"""python -m benchmarks.faults.strangers [--secure off on] [--attacks ...]:
somebody connects to the ports of a run, and sends what nobody understands.

Real mpirun, SmolLM2, an end user and five workers on this machine. Each attack is tried on the ports of every
rank and of mpirun: one after the other within a run, then on all at once. The text must be whole; told is the
longest time that a token took meanwhile. The last line is JSON.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.arguments import parser
from benchmarks.faults.live_run import LiveRun
from jarvis_mpi.record.reader import load

PROMPT = "Name a sea animal, and tell what it eats."
TOKENS, PACE_S, HELD_S, LIMIT_S = 200, "0.004", 1.5, 240


class Attack:
    """So many connections, each with these bytes; `half`: the stranger's half of it is closed then."""

    def __init__(self, connections: int, data: bytes, half: bool = False):
        self.connections, self.data, self.half = connections, data, half

    def strike(self, doors: Iterable[tuple[str, int]], held: contextlib.ExitStack) -> int:
        """Connect to them, and hold the connections. -> how many there are."""
        count = 0
        for door in doors:
            for _ in range(self.connections):
                with contextlib.suppress(OSError):  # it was shut down already
                    stranger = held.enter_context(socket.create_connection(door, 5.0))
                    stranger.sendall(self.data)
                    if self.half:
                        stranger.shutdown(socket.SHUT_WR)
                    count += 1
        return count


ATTACKS = {
    "16 bytes held": Attack(1, b"x" * 16),
    "100 idle connections": Attack(100, b""),
    "a huge length": Attack(1, b"\xff" * 8),
    "random bytes": Attack(1, os.urandom(4096)),
    "half closed": Attack(1, b"x" * 5, half=True),
}


def doors(processes: Iterable[int]) -> Iterator[tuple[str, int]]:
    """The addresses on which these processes listen."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in psutil.Process(process).net_connections():
                if connection.status == psutil.CONN_LISTEN:
                    own = "::1" if connection.family == socket.AF_INET6 else "127.0.0.1"
                    yield own, connection.laddr.port


def run_until_done(run: LiveRun) -> None:
    """Wait until its record is marked done, or it has ended."""
    while run.process.poll() is None and load(run.log).ended != "done":
        time.sleep(0.2)


def one(attack: Attack, secure: str, at_once: bool, log: Path, expected: bytes | None) -> dict:
    """One run, judged. `expected`: its text; None: nobody attacks."""
    words = ("--secure", secure, "--pace-s", PACE_S)
    run = LiveRun(log, 1, TOKENS, words, LIMIT_S, asked=("--prompt", PROMPT))
    shown = run.process.stdout.read(4)
    ranks = sorted(set(doors(run.pids().values())))
    others = sorted(set(doors(run.processes())) - set(ranks))  # of mpirun and its daemons
    with contextlib.ExitStack() as held:
        begun, count = time.monotonic(), 0
        for group in ([] if expected is None else [[*ranks, *others]] if at_once else
                      [[door] for door in (*ranks, *others)]):  # fmt: skip
            with contextlib.ExitStack() as briefly:
                count += attack.strike(group, held if at_once else briefly)
                time.sleep(HELD_S)
        attacked_s = time.monotonic() - begun
        run_until_done(run)  # mpirun itself does not end while its own ports are held: docs/security.md
    shown += run.process.stdout.read()
    run.wait()
    record = load(log)
    wrong = []
    if expected is not None and shown != expected:
        wrong.append("another text")
    if run.process.returncode:
        wrong.append(f"status {run.process.returncode}")
    if "Traceback" in run.errors.decode():
        wrong.append("a traceback")
    return {
        "secure": secure, "at_once": at_once, "rank_ports": len(ranks), "launcher_ports": len(others),
        "connections": count, "attacked_s": attacked_s,
        "longest_s": float(record.tokens["total_s"][1:].max()), "wrong": wrong, "text": shown.decode(),
    }  # fmt: skip


def campaign(attacks: Sequence[str], secures: Sequence[str], folder: Path) -> list[dict]:
    results, expected = [], None
    print("attack | --secure | ports of ranks, of mpirun | connections | longest time of a token | outcome\n"
          "|---|---|---|---|---|---|")  # fmt: skip
    for secure in secures:
        for name in ("nobody", *attacks):
            for at_once in (True,) if name == "nobody" else (False, True):
                log = folder / f"{len(results)}.h5"
                attack = ATTACKS.get(name, Attack(0, b""))
                seen = one(attack, secure, at_once, log, None if name == "nobody" else expected)
                expected = expected or seen["text"].encode()
                results.append({"attack": name, **seen})
                how = "" if name == "nobody" else ", all at once" if at_once else ", one after the other"
                outcome = "; ".join(seen["wrong"]) or "whole"
                print(
                    f"| {name}{how} | {secure} | {seen['rank_ports']}, {seen['launcher_ports']} | "
                    f"{seen['connections']} | {seen['longest_s']:.2f} s | {outcome} |",
                    flush=True,
                )
    return results


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--secure", nargs="+", default=["off", "on"])
    made.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    asked = made.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = campaign(asked.attacks, asked.secure, Path(scratch))
    print(json.dumps([{**each, "text": len(each["text"])} for each in results]))
    return sum(bool(each["wrong"]) for each in results)


if __name__ == "__main__":
    sys.exit(main())
