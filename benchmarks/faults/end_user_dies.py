"""Kills, or stops, the end user at four moments of a run, with or without mpirun and a worker.

    python -m benchmarks.faults.end_user_dies --runs 40 [--seed 1]

The standby is to go on: the same text in its record, marked done, all ranks gone within 10 s of its end, and
nothing left behind. Whoever reads what mpirun writes sees the same text, or lacks a token at the seam.
"""

import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import h5py

from benchmarks.arguments import parser
from benchmarks.faults.launcher_dies import OrphanedRun
from benchmarks.faults.live_run import LAUNCHER, WORKERS, kill

MOMENTS = ("prefill", "decoding", "between turns", "end")
FAULTS = ("killed", "killed with mpirun", "stopped for 6 s")
MORE = ("--standby", "1")
STOPPED_S, LATER_S = 6.0, 1.0


def strike(run: OrphanedRun, fault: str) -> float:
    """Bring the fault on. -> when."""
    node_0 = run.pids().get(0)
    at = time.monotonic()
    if fault == "stopped for 6 s" and node_0:
        os.kill(node_0, signal.SIGSTOP)
        return at
    kill([*([node_0] if node_0 else []), *(run.launchers() if "mpirun" in fault else [])])
    return at


def records(run: OrphanedRun) -> list[Path]:
    """The record of the end user, and those of the standbys."""
    return [
        path for path in run.log.parent.glob(f"{run.log.stem}*.h5") if path.stem.split("-")[0] == run.log.stem
    ]


def standby_of(path: Path) -> int:
    with h5py.File(path, swmr=True, locking=False) as record:
        return int(record.attrs["standby"])


def answers(path: Path) -> tuple[list[str], bool]:
    """Return the answers in a record, and whether it is done."""
    with h5py.File(path, swmr=True, locking=False) as record:  # its writer may have been killed
        events, text = record["events"][:], record["text"][:].tobytes()
    payloads = [
        json.loads(text[each["text_at"] : each["text_at"] + each["text_bytes"]])
        for each in events
        if each["event"] == b"answered"
    ]
    return [each["text"] for each in payloads], events[-1]["event"] == b"done"


def one(
    number: int, moment: str, fault: str, kills_worker: bool, folder: Path, expected: str,
    dice: random.Random, launcher: Sequence[str],
) -> dict:  # fmt: skip
    """One run, judged."""
    run = OrphanedRun(folder / "tmp", folder / f"{number}.h5", moment == "between turns", launcher, MORE)
    shown = run.reach(moment, dice)
    memory = run.shared_memory()
    stopped = run.pids().get(0)
    standby = standby_of(run.log)
    struck_at = strike(run, fault)
    worker = dice.choice([node for node in range(1, WORKERS + 1) if node != standby])
    if kills_worker:
        time.sleep(LATER_S * dice.random())
        kill(pid for node, pid in run.pids().items() if node == worker)
    if "stopped" in fault and stopped:
        time.sleep(max(0.0, struck_at + STOPPED_S - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGCONT)
    first = run.process.stdout.read(1)
    waited_s = time.monotonic() - struck_at
    shown += first + run.process.stdout.read()
    wrong, gone_s = run.left(memory)
    found = {path.stem: answers(path) for path in records(run)}
    whole = [stem for stem, (texts, done) in found.items() if done and texts == [expected]]
    if not whole:
        wrong.append(f"no record has the whole text: {found}")
    if b"Traceback" in run.errors:
        wrong.append("a traceback")
    if wrong:
        print(run.errors.decode(), flush=True)
    return {
        "moment": moment, "fault": fault, "worker": worker if kills_worker else 0, "gone_s": gone_s,
        "waited_s": waited_s, "by": whole[0] if whole else "",
        "terminal": shown.decode().strip() == expected.strip(), "wrong": wrong,
    }  # fmt: skip


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--runs", type=int, default=40)
    made.add_argument("--first", type=int, default=0, help="number of the first run")
    made.add_argument("--seed", type=int, default=int(time.time()))
    asked = made.parse_args()
    dice, results = random.Random(asked.seed), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "tmp").mkdir()
        run = OrphanedRun(folder / "tmp", folder / "whole.h5", False, LAUNCHER, MORE)
        run.wait()
        [expected], _ = answers(run.log)
        print(f"seed {asked.seed}", flush=True)
        for number in range(asked.first, asked.first + asked.runs):
            moment = MOMENTS[number % len(MOMENTS)]
            fault = FAULTS[number // len(MOMENTS) % len(FAULTS)]
            kills_worker = number // len(MOMENTS) // len(FAULTS) % 2 == 1
            results.append(one(number, moment, fault, kills_worker, folder, expected, dice, LAUNCHER))
            last = results[-1]
            terminal = "whole" if last["terminal"] else "not whole"
            outcome = "; ".join(last["wrong"]) or "whole"
            print(
                f"{number + 1}: {moment}, {fault}, worker {last['worker'] or 'none'} | next output after "
                f"{last['waited_s']:.1f} s, ranks gone after {last['gone_s']:.1f} s, by {last['by']}, "
                f"terminal {terminal} | {outcome}",
                flush=True,
            )
    for fault in FAULTS:
        for moment in MOMENTS:
            mine = [each for each in results if (each["moment"], each["fault"]) == (moment, fault)]
            if mine:
                waited = statistics.median(each["waited_s"] for each in mine)
                whole = sum(not each["wrong"] for each in mine)
                print(f"| {fault} | {moment} | {whole} of {len(mine)} | {waited:.1f} s |")
    print(json.dumps(results))
    return sum(bool(each["wrong"]) for each in results)


if __name__ == "__main__":
    sys.exit(main())
