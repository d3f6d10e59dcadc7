"""python -m benchmarks.faults.host_matrix [--repeats 2] [--rows killed ...] [--part] [--out FILE]:
hosts that are lost.

As fault_matrix.py, but an end user and five workers on six hosts (testbed/own_hosts.py: root, Linux, sshd),
and what strikes is a host's power or its link. Gaps are those while decoding. The table is the README's; the
last line is JSON, with every run.
"""

import math
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import require_hosts
from benchmarks.chain import over_hosts
from benchmarks.faults.live_run import WORKERS, LiveRun, PlainRun, left_over, read
from benchmarks.faults.rows import Row, judge, matrix_parser, measure, report
from jarvis_mpi.testbed import own_hosts, own_links, own_processes

LIMIT_S = 240
LEAVES_S = 100.0  # a rank that was cut off has left: launch.silence_s, and some
BACK_S = {"link down for 5 s": 5.0, "link down for 30 s": 30.0, "reboot": 10.0}


@dataclass(frozen=True)
class HostRow(Row):
    @property
    def tokens(self) -> int:
        """Enough that a node has come back before the last of them.
        After 30 s without a link TCP tries again 51 s after its loss."""
        return 768 if "30 s" in self.fault else 256 if "back" in self.expected else 128


ROWS = [
    *(
        HostRow(fault, copies, "exact" if copies else "skipped")
        for fault in ("rank killed", "host killed", "power off", "link down for good", "reboot")
        for copies in (1, 0)
    ),
    *(HostRow(fault, copies, "back" if copies else "skipped, back")
      for fault in ("link down for 5 s", "link down for 30 s") for copies in (1, 0)),
    HostRow("two neighbours: host killed", 2, "exact"),
    HostRow("two neighbours: host killed", 1, "first exact"),
    HostRow("two neighbours: power off", 2, "exact"),
]  # fmt: skip
PART = {("host killed", 1): "middle", ("power off", 0): "last", ("link down for 5 s", 1): "first"}


def strike(
    run: LiveRun, row: HostRow, place: str, in_prefill: bool, prefill_s: float, dice: random.Random
) -> float:
    """Bring the fault on. -> when, on the monotonic clock that all hosts share here."""
    assert run.is_ready.wait(LIMIT_S), run.errors.decode()
    pids = run.pids()
    if in_prefill:
        time.sleep(dice.random() * prefill_s)
    else:
        run.process.stdout.read(dice.randint(4, 100))
    at, nodes = time.perf_counter(), row.nodes(place)
    match row.fault.split(": ")[-1]:
        case "rank killed":
            os.kill(pids[nodes[0]], signal.SIGKILL)
        case "host killed" | "reboot":
            own_processes.kill(*nodes)
        case "power off":
            own_hosts.off(*nodes)
        case _:
            own_links.cut(nodes[0])
    if row.fault in BACK_S:
        time.sleep(BACK_S[row.fault])
        for node in nodes:
            (own_hosts.boot if row.fault == "reboot" else own_links.mend)(node)
    return at


def anything_left() -> str:
    """What goes on after a run on any host that is up; '' if nothing but sshd does."""
    end = time.monotonic() + LEAVES_S
    while True:
        busy = {host: found for host in own_processes.every_host() if (found := own_processes.busy(host))}
        if not busy and not left_over():
            return ""
        if time.monotonic() > end:
            return f"still running on hosts: {busy}"
        time.sleep(0.5)


def cell(number: int, row: HostRow, place: str, in_prefill: bool, scratch: Path, whole: dict, dice) -> dict:
    """One run, judged and measured."""
    for host in range(WORKERS + 1):
        if not own_processes.processes(host):
            own_hosts.boot(host)
        own_links.mend(host)
    run = PlainRun(scratch / f"{number}.h5", row.copies, row.tokens, row.more, LIMIT_S, over_hosts(LIMIT_S))
    struck_at = strike(run, row, place, in_prefill, whole["prefill_s"], dice)
    run.wait()
    ended_at = time.perf_counter()
    seen = read(run.log)
    wrong = judge(row, place, run, seen, whole["tokens"], struck_at)
    figures = measure(row, seen, struck_at, in_prefill, whole["prefill_s"])
    if in_prefill:  # on six hosts of one machine a prompt's own time varies by more than that
        figures["gap_ms"] = math.nan
    told_at = seen["begun"] + float(seen["tokens"]["total_s"].sum())
    if left := anything_left():
        wrong.append(left)
    pairs = zip(seen["tokens"]["token"].tolist(), whole["tokens"], strict=False)
    if wrong and (differing := [step for step, (ours, theirs) in enumerate(pairs) if ours != theirs]):
        wrong.append(f"differs from step {differing[0]} on")
    if wrong:
        print(run.errors.decode(), *seen["events"], sep="\n", flush=True)
    return {
        "row": row.name, "expected": row.expected, "place": place,
        "moment": "prefill" if in_prefill else "decoding",
        "wrong": wrong, "end_s": ended_at - told_at, "left_s": time.perf_counter() - ended_at,
        **figures,
    }  # fmt: skip


def no_fault(scratch: Path, tokens: int) -> dict:
    """The text to compare with: where the machine is loaded, a copy keeps it whole."""
    for log, length in ("cold.h5", 1), ("whole.h5", tokens):  # the first one reads the weights from the disk
        run = PlainRun(scratch / log, 1, length, (), LIMIT_S, over_hosts(LIMIT_S))
        run.wait()
    assert run.process.returncode == 0, run.errors.decode()
    seen = read(run.log)
    assert all(seen["tokens"]["layers"] == seen["tokens"]["layers"].max()), run.errors.decode()
    times = seen["tokens"]["total_s"]
    return {
        "tokens": seen["tokens"]["token"].tolist(),
        "prefill_s": float(times[0]),
        "token_s": float(statistics.median(times[1:])),
    }


def main() -> int:
    words = matrix_parser(__doc__).parse_args()
    require_hosts()
    os.chdir(ROOT)
    dice, results = random.Random(words.seed), []
    cells = [
        (row, place, repeat)
        for repeat in range(1 if words.part else words.repeats)
        for row in ROWS
        for place in words.places
        if any(each in row.name for each in words.rows)
        and (not words.part or PART.get((row.fault, row.copies)) == place)
    ]
    print(f"seed {words.seed}, {len(cells)} runs", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            own_hosts.up(WORKERS, Path(folder))
            whole = no_fault(Path(folder), max(row.tokens for row, _, _ in cells))
            print(
                f"no fault: prefill {whole['prefill_s']:.2f} s, a token {1e3 * whole['token_s']:.0f} ms",
                flush=True,
            )
            for number, (row, place, repeat) in enumerate(cells):
                in_prefill = (number if words.part else repeat) % 2 == 1
                result = cell(number, row, place, in_prefill, Path(folder), whole, dice)
                results.append(result)
                noticed = f"{result['noticed_ms'] or float('nan'):.0f} ms"
                print(
                    f"{number + 1}/{len(cells)} {row.name} | {place} | {result['moment']} | noticed "
                    f"{noticed}, gap {result['gap_ms']:.0f} ms, mpirun back {result['end_s']:.1f} s after "
                    f"the last token, hosts empty {result['left_s']:.1f} s later | "
                    f"{'; '.join(result['wrong']) or 'as expected: ' + row.expected}",
                    flush=True,
                )
    finally:
        own_hosts.down()
    return report(results, whole["prefill_s"], whole["token_s"], words.out)


if __name__ == "__main__":
    sys.exit(main())
