"""python -m benchmarks.faults.launcher_dies [--runs 50] [--hosts]:
mpirun is killed while a run starts, reads its prompt, decodes, waits in a chat, or ends; a worker is killed
after it in every second round.

Real mpirun, real weights (SmolLM2, float32), an end user and five workers, on this machine or on six hosts
(testbed/own_hosts.py: root, Linux, sshd). What is checked is seen from outside: standard output, the record,
the processes, /dev/shm and TMPDIR. The last line is JSON.
"""

import contextlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence, Set
from pathlib import Path

import h5py

from benchmarks.arguments import parser, require_hosts
from benchmarks.chain import over_hosts
from benchmarks.faults.live_run import LAUNCHER, PROMPT, WORKERS, PlainRun, kill
from jarvis_mpi.testbed import own_hosts

MOMENTS = ("start", "prefill", "decoding", "between turns", "end")
LIMIT_S, GONE_S, TOKENS = 300, 10.0, 64
BELLS = "ompi.*/bell.0"  # rank 0 has one in TMPDIR once MPI has started on one machine


class OrphanedRun(PlainRun):
    """One run, and what can be seen of it."""

    def __init__(
        self, folder: Path, log: Path, chat: bool, launcher: Sequence[str], more: tuple[str, ...] = (),
        prompt: str = PROMPT, tokens: int = TOKENS,
    ):  # fmt: skip
        self.folder = folder
        asks = not chat and "--prompts" not in more
        super().__init__(
            log, 1, tokens, more, LIMIT_S, launcher, ("--prompt", prompt) if asks else (),
            stdin=subprocess.PIPE if chat else subprocess.DEVNULL, environment={"TMPDIR": str(folder)},
        )  # fmt: skip
        if chat:
            self.process.stdin.write(f"{prompt}\n".encode())
            self.process.stdin.flush()

    def shared_memory(self) -> set[Path]:
        """Files in /dev/shm that the ranks have in their memory."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{process}/maps").read_text().split()
                found |= {Path(word) for word in words if word.startswith("/dev/shm/sm_segment")}
        return found

    def has_begun(self) -> bool:
        """Whether MPI has started."""
        return any(self.folder.glob(BELLS)) or b"importing" in self.errors

    def launchers(self) -> list[int]:
        """The processes of its mpirun."""
        return [process for process, name in self.processes().items() if name in ("prterun", "mpirun")]

    def reach(self, moment: str, dice: random.Random) -> bytes:
        """Wait for a moment after the start. -> what of the text was read meanwhile."""
        match moment:
            case "prefill":
                self.wait_for(self.is_ready.is_set, "not ready")
                time.sleep(dice.random())
            case "decoding":
                return self.process.stdout.read(dice.randint(4, 100))
            case "between turns":
                self.wait_for(lambda: b"the answer is cut after" in self.errors, "no answer")
                time.sleep(dice.random())
            case "end":
                self.wait_for(lambda: b"tokens: the first after" in self.errors, "no end")
                time.sleep(0.2 * dice.random())
        return b""

    def left(self, memory: Set[Path]) -> tuple[list[str], float]:
        """Wait until it is gone, after the end of its text; end and remove what is left of it.
        -> what was, of its processes, of `memory` and in TMPDIR, and how long it took."""
        ended_at = time.monotonic()
        while (left := self.processes()) and time.monotonic() < ended_at + GONE_S:
            time.sleep(0.05)
        gone_s = time.monotonic() - ended_at
        wrong = [f"still running: {left}"] if left else []
        wrong += [f"left in /dev/shm: {path}" for path in memory if path.exists()]
        kill(left)
        torchs = set(self.folder.glob("torchinductor_*"))
        for path in set(self.folder.iterdir()) - torchs:
            wrong.append(f"left in TMPDIR: {path.name}")
            shutil.rmtree(path)
        return wrong, gone_s


def strike(run: OrphanedRun, moment: str, start_s: float, dice: random.Random) -> set[Path]:
    """Kill mpirun. -> the memory that the ranks share."""
    run.wait_for(run.has_begun, "MPI has not started")
    if moment == "start":
        time.sleep(dice.random() * start_s)
    else:
        run.reach(moment, dice)
    memory = run.shared_memory()
    kill(run.launchers())
    return memory


def one(
    number: int, moment: str, kills_worker: bool, folder: Path, expected: bytes, start_s: float,
    dice: random.Random, launcher: Sequence[str],
) -> dict:  # fmt: skip
    """One run, judged."""
    run = OrphanedRun(folder / "tmp", folder / f"{number}.h5", moment == "between turns", launcher)
    memory = strike(run, moment, start_s, dice)
    worker = dice.randint(1, WORKERS)
    if kills_worker:
        time.sleep(dice.random())
        kill(pid for node, pid in run.pids().items() if node == worker)
    shown = run.process.stdout.read()
    wrong, gone_s = run.left(memory)
    if not expected.endswith(shown) or (moment != "decoding" and shown != expected):
        wrong.append(f"another text: {shown!r}")
    with h5py.File(run.log) as record:
        if record["events"][-1]["event"] != b"done" or len(record["tokens"]) != TOKENS:
            wrong.append(f"the record: {record['events'][-1]}, {len(record['tokens'])} tokens")
    if b"Traceback" in run.errors:
        wrong.append("a traceback")
    if wrong:
        print(run.errors.decode(), flush=True)
    return {"moment": moment, "worker": worker if kills_worker else 0, "gone_s": gone_s, "wrong": wrong}


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--runs", type=int, default=50)
    made.add_argument("--seed", type=int, default=int(time.time()))
    made.add_argument("--hosts", action="store_true", help="over hosts of one's own")
    asked = made.parse_args()
    if asked.hosts:
        require_hosts()
    dice, results = random.Random(asked.seed), []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        (folder / "tmp").mkdir()
        launcher: Sequence[str] = LAUNCHER
        if asked.hosts:
            own_hosts.up(WORKERS, folder)
            stack.callback(own_hosts.down)
            launcher = over_hosts(LIMIT_S)
        run, begun = OrphanedRun(folder / "tmp", folder / "whole.h5", False, launcher), time.monotonic()
        run.wait_for(run.has_begun, "MPI has not started")
        first = time.monotonic()
        run.wait_for(run.is_ready.is_set, "not ready")
        start_s = time.monotonic() - first
        expected = run.process.stdout.read()
        run.wait()
        print(
            f"seed {asked.seed}; no fault: {time.monotonic() - begun:.1f} s, {start_s:.1f} s of it the start"
        )
        for number in range(asked.runs):
            moment, kills_worker = MOMENTS[number % len(MOMENTS)], number // len(MOMENTS) % 2 == 1
            results.append(one(number, moment, kills_worker, folder, expected, start_s, dice, launcher))
            last = results[-1]
            outcome = "; ".join(last["wrong"]) or "whole"
            print(
                f"{number + 1}/{asked.runs} {moment}, worker {last['worker'] or 'none'} | ranks gone after "
                f"{last['gone_s']:.1f} s | {outcome}",
                flush=True,
            )
    for moment in MOMENTS:
        mine = [each for each in results if each["moment"] == moment]
        if mine:
            gone = statistics.median(each["gone_s"] for each in mine)
            print(f"| {moment} | {sum(not each['wrong'] for each in mine)} of {len(mine)} | {gone:.1f} s |")
    print(json.dumps(results))
    return sum(bool(each["wrong"]) for each in results)


if __name__ == "__main__":
    sys.exit(main())
