"""One run under way: started, struck, and watched until nothing is left of it."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from benchmarks import ROOT
from benchmarks.outside.auditor import SILENCE_S
from benchmarks.outside.cases import PROMPT, QUESTIONS, Drawn, Order
from benchmarks.outside.evidence import (
    LAUNCHER,
    MARK,
    Record,
    Seen,
    Strike,
    left_over,
    memory_of,
    processes,
    ranks,
    read_record,
)
from benchmarks.outside.facts import LONG_STOP_S
from benchmarks.outside.moments import Moments
from benchmarks.outside.strikes import node_of, strike

LIMIT_S, GONE_S, LOOK_S, TABLE_S = 170.0, 10.0, 0.015, 0.2
NUMBER = itertools.count()


class Live:
    """A run, from exec to exit."""

    def __init__(self, drawn: Drawn, folder: Path, total: int):
        self.drawn, self.folder = drawn, folder
        self.temporary = folder / "t"
        self.temporary.mkdir(parents=True)
        self.mark = f"outside-{os.getpid()}.{next(NUMBER)}"
        self.moments = Moments(total)
        self.stdout, self.errors = bytearray(), bytearray()
        self.strikes: list[Strike] = []
        self.held: list[socket.socket] = []
        self.stopped: dict[int, float] = {}  # process -> when it goes on
        self.memory: set[Path] = set()
        self.sizes: dict[Path, tuple[int, int]] = {}
        self.records: dict[Path, Record] = {}
        self.changed = time.monotonic()
        self.longest_s, self.looked, self.ranks = 0.0, 0.0, dict[int, int]()
        self.process = self.start()
        self.readers = [
            threading.Thread(target=self.read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.stdout), (self.process.stderr, self.errors))
        ]
        for reader in self.readers:
            reader.start()

    def start(self) -> subprocess.Popen[bytes]:
        drawn, asked = self.drawn, ["--log", str(self.folder / "run.h5"), *self.drawn.words()]
        if drawn.way == "prompt":
            asked += ["--prompt", PROMPT]
        if drawn.way == "prompts":
            (self.folder / "prompts.txt").write_text("".join(f"{each}\n" for each in QUESTIONS))
            asked += ["--prompts", str(self.folder / "prompts.txt")]
        words = ["mpirun", "-hostfile", "hostfiles/local", "-n", str(drawn.ranks)]
        process = subprocess.Popen(
            [*words, sys.executable, "-m", "jarvis_mpi", *asked], cwd=ROOT,
            stdin=subprocess.PIPE if drawn.way == "chat" else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, MARK: self.mark, "TMPDIR": str(self.temporary)},
        )  # fmt: skip
        if process.stdin:
            process.stdin.write("".join(f"{each}\n" for each in QUESTIONS[:2]).encode())
            process.stdin.close()
        return process

    def read(self, pipe: IO[bytes], into: bytearray) -> None:
        while data := os.read(pipe.fileno(), 65536):
            into += data
            self.changed = time.monotonic()

    def go(self) -> Seen:
        """Strike when the moments come, until the run is over. -> what was seen."""
        pending: list[tuple[Order, float]] = [(order, 0.0) for order in self.drawn.orders]
        begun, limit = time.monotonic(), ""
        while not self.is_over():
            now = time.monotonic()
            self.look(now)
            pending = list(self.advance(pending, now))
            self.wake(now)
            if now - self.changed > SILENCE_S + 5 or now - begun > LIMIT_S:
                limit = f"after {now - begun:.0f} s"
                break
            time.sleep(LOOK_S)
        took_s, left = time.monotonic() - begun, self.leave()
        self.look(time.monotonic())
        return Seen(
            bytes(self.stdout), self.errors.decode(errors="replace"), self.process.poll(),
            [self.records[path] for path in sorted(self.records, key=lambda path: path.stem != "run")],
            self.strikes, left, self.longest_s, limit, took_s,
        )  # fmt: skip

    def is_over(self) -> bool:
        """Whether mpirun is gone, and what it has left is, too, or has had its time."""
        if self.process.poll() is None or self.stopped:
            return False
        if not processes(self.mark):
            return True
        orphaned = any(strike.node == LAUNCHER and strike.kind == "kill" for strike in self.strikes)
        if orphaned and not any(record.end for record in self.records.values()):
            return False
        return time.monotonic() - self.changed > GONE_S

    def look(self, now: float) -> None:
        """Look at the records and the process table, as often as is needed."""
        for path in self.folder.glob("run*.h5"):
            with contextlib.suppress(OSError):
                size = (path.stat().st_size, path.stat().st_mtime_ns)
                if self.sizes.get(path) != size:
                    if record := read_record(path):
                        self.sizes[path], self.records[path] = size, record
                    self.changed = now
        self.longest_s = max(self.longest_s, now - self.changed)
        self.moments.errors = self.errors.decode(errors="replace")
        self.moments.records = list(self.records.values())
        if now > self.looked + TABLE_S:
            self.looked, self.ranks = now, ranks(self.mark)
            self.memory |= memory_of(self.ranks.values())

    def advance(self, pending: list[tuple[Order, float]], now: float) -> Iterator[tuple[Order, float]]:
        """Bring on what is due. -> what is not, and when it is (0: its moment has not come)."""
        for order, due in pending:
            node = node_of(order, self.moments.records, self.moments.errors)
            if not due and self.moments.has_come(order, lambda node=node: self.ranks.get(node)):
                due = now + order.delay_s
            if not due or now < due or (process := self.ranks.get(node)) is None:
                yield order, due
            elif strike(order, process, self.held):
                state = Strike(
                    order.kind, order.target, order.moment, node, now - self.moments.begun,
                    order.lasts_s if order.kind == "stop" else 0.0, "ready in" not in self.moments.errors,
                )  # fmt: skip
                self.strikes.append(state)
                if order.kind == "stop" and order.lasts_s > LONG_STOP_S / 10:
                    self.stopped[process] = now + order.lasts_s
            # else: there was nothing to hit

    def wake(self, now: float) -> None:
        """Let those go on whose stop is over; not those that are stopped for good meanwhile."""
        for process, until in list(self.stopped.items()):
            if now >= until:
                del self.stopped[process]
                forever = {
                    self.ranks.get(strike.node) for strike in self.strikes if strike.kind == "stop for good"
                }
                if process not in forever:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGCONT)

    def leave(self) -> list[str]:
        """Wait for the rest of the run, and remove it. -> what was left."""
        end = time.monotonic() + 1.0
        while (left := left_over(self.mark, self.memory, self.temporary)) and time.monotonic() < end:
            time.sleep(0.05)
        for process in processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        for reader in self.readers:
            reader.join(timeout=5)
        for path in self.memory:
            path.unlink(missing_ok=True)
        for stranger in self.held:
            stranger.close()
        shutil.rmtree(self.temporary, ignore_errors=True)
        return left
