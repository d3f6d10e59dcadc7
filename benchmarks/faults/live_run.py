"""A run of jarvis_mpi under way, that signals from here can hit; what a record says of it afterwards.

Real mpirun, real weights (SmolLM2, float32: equality is demanded), an end user and five workers.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from benchmarks import ROOT
from jarvis_mpi.record.reader import load

WORKERS = 5
PROMPT = (
    "Tell me, in order, what happens to a raindrop from the cloud to the sea, and name every river. " * 12
)
LAUNCHER = ("mpirun", "-hostfile", "hostfiles/local")
MARK = f"fault-matrix-{os.getpid()}"
NUMBER = itertools.count()
SIGNALS = {
    "SIGKILL": signal.SIGKILL,
    "exception": signal.SIGRTMIN + 1,
    # sys.exit: that of a library of C is met by silence only, and mpirun reports it
    "exit 1": signal.SIGRTMIN + 2,
    "SIGSTOP for good": signal.SIGSTOP,
    "SIGSTOP for 3 s": signal.SIGSTOP,
    "stall of 10 s": signal.SIGRTMIN,
}
PLACES = {"first": 1, "middle": 3, "last": 5}


class LiveRun:
    """One mpirun under way."""

    program: Sequence[str] = ("benchmarks/faults/signalled.py",)

    def __init__(
        self,
        log: Path,
        copies: int,
        tokens: int,
        more: tuple[str, ...] = (),
        limit_s: int = 180,
        launcher: Sequence[str] = LAUNCHER,
        asked: Sequence[str] = ("--prompt", PROMPT),
        stdin: int | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ):
        words = ["timeout", "-k", "5", f"{limit_s}"]
        words += [*launcher, "-n", f"{WORKERS + 1}"]
        words += [sys.executable, *self.program, *asked, "--dtype", "float32"]
        words += [
            "--max-new-tokens",
            str(tokens),
            "--ignore-eos",
            "--copies",
            str(copies),
            "--log",
            str(log),
            *more,
        ]
        self.log, self.limit_s = log, limit_s
        self.mark = f"{MARK}.{next(NUMBER)}"
        self.process = subprocess.Popen(
            words,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "JARVIS_TEST": self.mark, **environment},
        )
        self.errors = b""
        self.is_ready = threading.Event()
        self.reader = threading.Thread(target=self.read_errors, daemon=True)
        self.reader.start()

    def read_errors(self) -> None:
        for line in self.process.stderr:
            self.errors += line
            if b"ready in" in line:
                self.is_ready.set()

    def pids(self) -> dict[int, int]:
        """node -> process."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                said = dict(word.partition(b"=")[::2] for word in path.read_bytes().split(b"\0"))
                if b"JARVIS_HOST" in said:  # what stands here for a rank on another host
                    continue
                if said.get(b"JARVIS_TEST") == self.mark.encode() and (
                    rank := said.get(b"PMIX_RANK", said.get(b"PMI_RANK"))
                ):
                    command = (path.parent / "cmdline").read_bytes()
                    if self.program[-1].encode() in command and b"mpirun" not in command:
                        pid = int(path.parent.name)
                        found[int(rank)] = min(pid, found.get(int(rank), pid))  # not a child of it
        return found

    def processes(self) -> dict[int, str]:
        """process -> its name; also of what stands here for ranks on other hosts, not of zombies."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"JARVIS_TEST={self.mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "comm").read_text().strip()
        return found

    def wait_for(self, comes_true: Callable[[], object], what: str) -> None:
        end = time.monotonic() + self.limit_s
        while not comes_true():
            assert time.monotonic() < end, f"{what}: {self.errors.decode()}"
            assert self.process.poll() is None, f"{what}: {self.errors.decode()}"
            time.sleep(0.01)

    def wait(self) -> None:
        self.process.stdout.read()
        self.process.wait(timeout=self.limit_s + 20)
        self.reader.join(timeout=10)


class PlainRun(LiveRun):
    """A run of the program itself, as over hosts: for another one less is done (net/launch_agents.py)."""

    program = ("-m", "jarvis_mpi")


def hit(pids: Sequence[int], fault: str) -> float:
    """Bring the fault on. -> when, on the monotonic clock that all processes of a machine share."""
    at = time.perf_counter()
    for pid in pids:
        os.kill(pid, SIGNALS[fault])
    if fault == "SIGSTOP for 3 s":
        time.sleep(3)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return at


def kill(processes: Iterable[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def says(told: str, what: str) -> bool:
    """Whether a line that the person was told says that layers are `what`: skipped, patched."""
    return what in told.split(":", 1)[1].split(",")[0]


def read(log: Path) -> dict:
    run = load(log)
    events = [
        {**vars(event), "first_layer": event.block.start, "layers": len(event.block)} for event in run.events
    ]
    return {
        "tokens": run.tokens,
        "hops": run.hops,
        "events": events,
        "begun": run.clock_at_begin_s,
        "ended": (run.events[-1].payload["sentence"] or "text") if run.ended else "",
    }


def left_over() -> list[int]:
    """Processes of a run that go on after it, for more than seconds."""
    end = time.monotonic() + 5
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"\0JARVIS_TEST={MARK}.".encode() in b"\0" + path.read_bytes():
                    found.append(int(path.parent.name))
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)
