"""python -m benchmarks.faults.process_matrix [--repeats 2] [--rows kill ...] [--part] [--out FILE]:
every fault of a process, measured.

Real mpirun, real weights (SmolLM2, float32: equality is demanded), an end user and five workers; the signals
come from here, at a moment drawn from the prefill (odd repeats) or from decoding. Each row states what is
expected; a run counts only with at least 16 tokens after the fault. `--part` runs what CI has time for.
The table is that of docs/faults.md; the last line is JSON, with every run.
"""

import argparse
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.live_run import LAUNCHER, LiveRun, hit, left_over, read
from benchmarks.faults.rows import MOST_TOKENS, Row, judge, matrix_parser, measure, report

ROWS = [
    *(Row(fault, 1, "exact") for fault in ("SIGKILL", "exception", "exit 1", "SIGSTOP for good")),
    *(Row(fault, 0, "skipped") for fault in ("SIGKILL", "exception", "exit 1", "SIGSTOP for good")),
    Row("SIGSTOP for 3 s", 1, "back"),
    Row("stall of 10 s", 1, "back"),
    Row("stall of 10 s", 0, "back"),
    Row("two neighbours: SIGKILL", 1, "first exact"),
    Row("two neighbours: SIGKILL", 2, "exact"),
    Row("all but one: SIGKILL", 1, "goes on", ("--max-skipped", "99")),
    # New copies are made while the step is mended: in time or not, and then too much would have to be
    # skipped.
    Row("all but one: SIGKILL", 1, "goes on or sentence"),
]
PART = {  # what CI runs: row -> place
    ("SIGKILL", 1): "middle", ("SIGSTOP for good", 0): "last",
    ("SIGSTOP for 3 s", 1): "first", ("two neighbours: SIGKILL", 1): "middle",
    ("all but one: SIGKILL", 1): "first",
}  # fmt: skip


def strike(
    run: LiveRun, row: Row, place: str, in_prefill: bool, prefill_s: float, dice: random.Random
) -> float:
    """Bring the fault on. -> when, on the monotonic clock that all processes of a machine share."""
    assert run.is_ready.wait(150), run.errors.decode()
    pids = run.pids()
    if in_prefill:
        time.sleep(dice.random() * prefill_s)
    else:
        run.process.stdout.read(dice.randint(4, 100))
        time.sleep(dice.random() * 0.1)
    return hit([pids[node] for node in row.nodes(place)], row.fault.split(": ")[-1])


class Whole(NamedTuple):
    """A run without a fault, to compare with."""

    tokens: list[int]
    prefill_s: float
    token_s: float


def without_fault(log: Path, launcher: Sequence[str]) -> Whole:
    run = LiveRun(log, 0, MOST_TOKENS, launcher=launcher)
    run.wait()
    tokens = read(run.log)["tokens"]
    times = tokens["total_s"]
    whole = Whole(tokens["token"].tolist(), float(times[0]), float(statistics.median(times[1:])))
    print(
        f"no fault: {len(whole.tokens)} tokens, prefill {whole.prefill_s:.2f} s, "
        f"a token {1e3 * whole.token_s:.0f} ms",
        flush=True,
    )
    return whole


def cell(
    row: Row,
    place: str,
    in_prefill: bool,
    log: Path,
    whole: Whole,
    dice: random.Random,
    launcher: Sequence[str],
) -> dict:
    """One run, judged and measured."""
    run = LiveRun(log, row.copies, row.tokens, row.more, launcher=launcher)
    struck_at = strike(run, row, place, in_prefill, whole.prefill_s, dice)
    run.wait()
    seen = read(run.log)
    wrong = judge(row, place, run, seen, whole.tokens, struck_at)
    if left := left_over():
        wrong.append(f"still running: {left}")
    if wrong:
        print(run.errors.decode(), *seen["events"], sep="\n", flush=True)
    moment = "prefill" if in_prefill else "decoding"
    figures = measure(row, seen, struck_at, in_prefill, whole.prefill_s)
    return {
        "row": row.name,
        "expected": row.expected,
        "place": place,
        "moment": moment,
        "wrong": wrong,
        **figures,
    }


def line(result: dict) -> str:
    noticed = result["noticed_ms"]
    noticed = f"noticed after {noticed:.0f} ms" if noticed is not None else "no sign"
    outcome = "; ".join(result["wrong"]) or f"as expected: {result['expected']}"
    return (
        f"{result['row']} | {result['place']} | {result['moment']} | {noticed}, "
        f"gap {result['gap_ms']:.0f} ms | {outcome}"
    )


def chosen(asked: argparse.Namespace) -> list[tuple[Row, str, int]]:
    """Row, place, repeat."""
    rows = ROWS
    if asked.patches:
        more = ("--patches", str(Path(asked.patches).absolute()))
        rows = [replace(row, expected="patched", more=more) for row in ROWS if row.expected == "skipped"]
    return [
        (row, place, repeat)
        for row in rows
        for place in asked.places
        for repeat in range(1 if asked.part else asked.repeats)
        if any(each in row.name for each in asked.rows)
        and (not asked.part or (PART.get((row.fault, row.copies)) == place and row.expected != "goes on"))
    ]


def main() -> int:
    parser = matrix_parser(__doc__)
    parser.add_argument(
        "--launcher", default=shlex.join(LAUNCHER), help='of MPICH: "mpiexec -disable-auto-cleanup"'
    )
    parser.add_argument(
        "--patches",
        help="of fit-patches --workers 5: the rows that skip are run with it, and patched is expected",
    )
    asked = parser.parse_args()
    dice, launcher = random.Random(asked.seed), shlex.split(asked.launcher)
    cells = chosen(asked)
    print(f"seed {asked.seed}, {len(cells)} runs", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = without_fault(Path(scratch) / "whole.h5", launcher)
        for number, (row, place, repeat) in enumerate(cells):
            in_prefill = (number if asked.part else repeat) % 2 == 1
            log = Path(scratch) / f"{number}.h5"
            results.append(cell(row, place, in_prefill, log, whole, dice, launcher))
            print(f"{number + 1}/{len(cells)} {line(results[-1])}", flush=True)
    return report(results, whole.prefill_s, whole.token_s, asked.out)


if __name__ == "__main__":
    sys.exit(main())
