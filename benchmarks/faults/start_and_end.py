"""python -m benchmarks.faults.start_and_end [--runs 40] [--hosts]:
a rank is killed, or in every third run stopped, inside MPI_Init; a worker is killed while a run ends.

Real mpirun, a tiny model, an end user and five workers, on this machine or on six hosts
(testbed/own_hosts.py: root, Linux, sshd). What is checked is seen from outside. Killed in MPI_Init: the run
ends within 10 s, with one sentence that names the node and a status that is neither 0 nor a time limit's.
Killed while the run ends: status 0, the whole text, the record marked done, gone a second after what it takes
without a fault at the most. Never a traceback; nothing is left in /dev/shm, TMPDIR or the process table. The
last line is JSON.
"""

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.arguments import parser, require_hosts
from benchmarks.chain import over_hosts
from benchmarks.faults.live_run import LAUNCHER, WORKERS, LiveRun, PlainRun, kill, read
from benchmarks.faults.outside import MEMORY, in_init, left_in_memory, watches
from benchmarks.shapes import make_tiny
from jarvis_mpi.net.ancestry import STOPPED, has_ended, stat
from jarvis_mpi.testbed import own_hosts

TOKENS, LAYERS = 12, 12
DIED = re.compile("while MPI started|died, and with it the run")  # of the end user, the latter
LIMIT_S, START_S, LATER_S = 60, 10.0, 1.0
PLAIN = 3  # runs without a fault, at first


@dataclass
class Result:
    """What became of one run."""

    kind: str  # "killed in MPI_Init", "stopped in MPI_Init", "killed at the end"
    node: int
    after_s: float  # from the moment that it is aimed at
    hit: bool = True  # in the window that was meant
    whole: bool = False  # answered as if there had been no fault
    gone_s: float = 0.0  # from the fault, or at the end from the last token, until no process is left
    wrong: list[str] = field(default_factory=list)


class Campaign:
    """Runs of one kind of launcher, and what such a run does without a fault."""

    def __init__(self, folder: Path, launcher: Sequence[str], dice: random.Random):
        self.folder, self.launcher, self.dice = folder, launcher, dice
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.number = itertools.count()
        make_tiny(folder / "model", LAYERS)
        self.expected = b""
        # Medians of seconds: how long each rank is in MPI_Init, and all are; from the last token until the
        # first worker leaves, and until nothing is left.
        self.init_s: list[float] = []
        self.together_s = self.leave_s = self.end_s = 0.0

    def run(self) -> LiveRun:
        return PlainRun(
            self.folder / f"{next(self.number)}.h5", 1, TOKENS, ("--model", str(self.folder / "model")),
            LIMIT_S, self.launcher, ("--prompt", "abc"), stdin=subprocess.DEVNULL,
            environment={"TMPDIR": str(self.temporary)},
        )  # fmt: skip

    def measure(self) -> None:
        """Run without a fault."""
        first = self.run()
        self.expected = first.process.stdout.read()
        first.wait()
        windows, together, leaves, ends = [], [], [], []
        for _ in range(PLAIN):
            run, seen = self.run(), dict[int, list[float]]()
            run.wait_for(lambda run=run, seen=seen: self.looked(run, seen), "MPI did not start")
            windows.append([max(seen[node]) - min(seen[node]) for node in range(WORKERS + 1)])
            together.append(min(map(max, seen.values())) - max(map(min, seen.values())))
            run.wait_for(run.is_ready.is_set, "not ready")
            workers = [pid for node, pid in run.pids().items() if node]
            begun = self.last_token(run)
            while not any(has_ended(worker, 0.0) for worker in workers):
                time.sleep(0.005)
            leaves.append(time.monotonic() - begun)
            ends.append(self.gone(run) - begun)
            assert run.process.returncode == 0, run.errors.decode()
        self.init_s = [statistics.median(each) for each in zip(*windows, strict=True)]
        self.together_s, self.leave_s = max(0.05, statistics.median(together)), statistics.median(leaves)
        self.end_s = statistics.median(ends)

    @staticmethod
    def looked(run: LiveRun, seen: dict[int, list[float]]) -> bool:
        """Note which ranks are in MPI_Init. -> whether all have been."""
        inside = in_init(run)
        for node in inside:
            seen.setdefault(node, []).append(time.monotonic())
        return len(seen) == WORKERS + 1 and not inside

    def last_token(self, run: LiveRun) -> float:
        """Wait for the whole text. -> when it was there."""
        text = self.expected.rstrip()
        shown = run.process.stdout.read(len(text))
        assert shown == text, run.errors.decode()
        return time.monotonic()

    def gone(self, run: LiveRun) -> float:
        """Wait for the end. -> when no process was left, mpirun included."""
        run.wait()
        end = time.monotonic() + LIMIT_S
        while run.processes() and time.monotonic() < end:
            time.sleep(0.02)
        return time.monotonic()

    def start(self, number: int) -> Result:
        """A rank dies or stops in MPI_Init."""
        stops, dice = number % 3 == 2, self.dice
        node = dice.randint(0, WORKERS)
        before, run = left_in_memory(), self.run()
        # Half of the faults come when all ranks are inside: MPI works then, before it only waits.
        everyone = number % 2 == 1
        needed = set(range(WORKERS + 1)) if everyone else {node}
        run.wait_for(lambda: needed <= in_init(run).keys(), f"{needed} not in MPI_Init")
        pid = in_init(run).get(node, 0)
        after_s = dice.random() * (self.together_s if everyone else self.init_s[node])
        time.sleep(after_s)
        result = Result(f"{'stopped' if stops else 'killed'} in MPI_Init", node, after_s)
        result.hit = bool(watches(pid))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP if stops else signal.SIGKILL)
        struck = time.monotonic()
        if stops:  # too late for the end user to be missed by anybody
            time.sleep(1.0)
            if not watches(pid) and node == 0 and stat(pid).state in STOPPED:
                result.hit = False
                os.kill(pid, signal.SIGCONT)
        shown = run.process.stdout.read()
        result.gone_s = self.gone(run) - struck
        errors, status = run.errors.decode(), run.process.returncode
        result.whole = shown == self.expected and status == 0
        if not result.whole:
            told = [line for line in errors.splitlines() if DIED.search(line)]
            if len(told) != 1 or not names(told[0], node):
                result.wrong.append(f"it says {told}, of node {node}")
            if status in (0, 124, 137):
                result.wrong.append(f"status {status}")
            if result.gone_s > START_S:
                result.wrong.append(f"it took {result.gone_s:.1f} s")
            if not self.expected.startswith(shown):
                result.wrong.append(f"another text: {shown!r}")
        self.judge(run, before, result)
        return result

    def end(self) -> Result:
        """A worker dies while the run ends."""
        node = self.dice.randint(1, WORKERS)
        before, run = left_in_memory(), self.run()
        run.wait_for(run.is_ready.is_set, "not ready")
        pid = run.pids()[node]
        begun = self.last_token(run)
        after_s = self.dice.random() * self.leave_s
        time.sleep(after_s)
        result = Result("killed at the end", node, after_s, hit=not has_ended(pid, 0.0))
        kill([pid])
        rest = run.process.stdout.read()
        result.gone_s = self.gone(run) - begun
        if self.expected.rstrip() + rest != self.expected:
            result.wrong.append(f"after the text: {rest!r}")
        if run.process.returncode:
            result.wrong.append(f"status {run.process.returncode}")
        if result.gone_s > self.end_s + LATER_S:
            result.wrong.append(f"it took {result.gone_s:.1f} s")
        if (ended := read(run.log)["ended"]) != "text":
            result.wrong.append(f"the record: {ended or 'not ended'}")
        result.whole = not result.wrong
        self.judge(run, before, result)
        return result

    def judge(self, run: LiveRun, before: set[Path], result: Result) -> None:
        """Add what is wrong with every run alike, and show what it said where anything is."""
        if b"Traceback" in run.errors:
            result.wrong.append("a traceback")
        if left := run.processes():
            result.wrong.append(f"still running: {left}")
            kill(left)
        if more := left_in_memory() - before:
            time.sleep(2)  # another program's may be about to go
            result.wrong += [f"left in {MEMORY}: {path.name}" for path in (left_in_memory() & more)]
        for path in self.temporary.iterdir():
            if path.name.startswith("torchinductor_"):  # torch's own
                continue
            result.wrong.append(f"left in TMPDIR: {path.name}")
            shutil.rmtree(path)
        if result.wrong:
            print(run.errors.decode(), flush=True)


def names(line: str, node: int) -> bool:
    """Whether the line says that the rank was lost while MPI started, or, of the end user, later."""
    of_node = r"the end user \(node 0\)" if node == 0 else f"(node {node}|{own_hosts.name(node)}: its rank)"
    return bool(re.match(of_node + " (died|was stopped|was lost|ended)", line))


def told(result: Result, end_s: float) -> str:
    """One line on a run."""
    what = "whole" if result.whole else "ended"
    what += "" if result.hit else ", too late" if result.kind != "killed at the end" else ", it had left"
    more = f" ({end_s:.1f} s without a fault)" if result.kind == "killed at the end" else ""
    wrong = "; ".join(result.wrong) or "as it should be"
    return (
        f"node {result.node} {result.kind} after {result.after_s:.2f} s | {what} | all gone after "
        f"{result.gone_s:.1f} s{more} | {wrong}"
    )


def table(results: Sequence[Result]) -> None:
    for kind in dict.fromkeys(result.kind for result in results):
        mine = [result for result in results if result.kind == kind]
        right = [result for result in mine if not result.wrong]
        in_time = [result for result in right if result.hit and (result.whole == (kind[-3:] == "end"))]
        gone = sorted(result.gone_s for result in in_time) or [0.0]
        print(
            f"| {kind} | {len(right)} of {len(mine)} right | {len(in_time)} in its window | "
            f"gone after {statistics.median(gone):.1f} s ({gone[-1]:.1f}) |"
        )


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--runs", type=int, default=40, help="of the start, and of the end")
    made.add_argument("--seed", type=int, default=int(time.time()))
    made.add_argument("--only", choices=("start", "end"))
    made.add_argument("--hosts", action="store_true", help="over hosts of one's own")
    asked = made.parse_args()
    if asked.hosts:
        require_hosts()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        launcher: Sequence[str] = LAUNCHER
        if asked.hosts:
            own_hosts.up(WORKERS, Path(scratch))
            stack.callback(own_hosts.down)
            launcher = over_hosts(LIMIT_S)
        campaign = Campaign(Path(scratch), launcher, random.Random(asked.seed))
        campaign.measure()
        print(
            f"seed {asked.seed}; no fault: ranks are in MPI_Init up to {max(campaign.init_s):.2f} s, all of "
            f"them for {campaign.together_s:.2f} s; from the last token {campaign.leave_s:.2f} s until a "
            f"worker leaves, {campaign.end_s:.2f} s in all",
            flush=True,
        )
        for number in range(asked.runs):
            for moment in ("start", "end"):
                if asked.only not in (None, moment):
                    continue
                results.append(campaign.start(number) if moment == "start" else campaign.end())
                print(f"{number + 1}/{asked.runs} {told(results[-1], campaign.end_s)}", flush=True)
    table(results)
    print(json.dumps([asdict(result) for result in results]))
    return sum(bool(result.wrong) for result in results)


if __name__ == "__main__":
    sys.exit(main())
