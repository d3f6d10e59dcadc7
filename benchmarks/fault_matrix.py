"""python benchmarks/fault_matrix.py [--repeats 2] [--rows kill ...] [--part] [--out FILE]: every fault, measured.

Real mpirun, real weights (SmolLM2, float32: equality is demanded), an end user and five workers; the signals
come from here, at a moment drawn from the prefill (odd repeats) or from decoding. Each row states what is
expected; a run counts only with at least 16 tokens after the fault. `--part` runs what CI has time for.
The table is the README's; the last line is JSON, with every run.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jarvis_mpi.record.reader import load

ROOT = Path(__file__).parent.parent
WORKERS = 5
TOKENS = 64
MOST_TOKENS = 256
AFTER = 16  # tokens, at least, after a fault
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


@dataclass(frozen=True)
class Row:
    fault: str
    copies: int
    expected: str  # exact; skipped; patched; back; skipped, back; first exact, goes on, goes on or sentence
    more: tuple[str, ...] = ()  # words for the run

    def nodes(self, place: str) -> list[int]:
        """Whom it hits."""
        node = PLACES[place]
        match self.fault.split(":")[0]:
            case "two neighbours":
                node = min(node, WORKERS - 1)
                return [node, node + 1]
            case "all but one":
                return [other for other in range(1, WORKERS + 1) if other != node]
        return [node]

    @property
    def tokens(self) -> int:
        """Enough that a node has come back before the last of them."""
        return TOKENS if self.expected != "back" else 2 * TOKENS if "3 s" in self.fault else MOST_TOKENS

    @property
    def name(self) -> str:
        return f"{self.fault}, copies {self.copies}{', ' + ' '.join(self.more) if self.more else ''}"


ROWS = [
    *(Row(fault, 1, "exact") for fault in ("SIGKILL", "exception", "exit 1", "SIGSTOP for good")),
    *(Row(fault, 0, "skipped") for fault in ("SIGKILL", "exception", "exit 1", "SIGSTOP for good")),
    Row("SIGSTOP for 3 s", 1, "back"),
    Row("stall of 10 s", 1, "back"),
    Row("stall of 10 s", 0, "back"),
    Row("two neighbours: SIGKILL", 1, "first exact"),
    Row("two neighbours: SIGKILL", 2, "exact"),
    Row("all but one: SIGKILL", 1, "goes on", ("--max-skipped", "99")),
    # New copies are made while the step is mended: in time or not, and then too much would have to be skipped.
    Row("all but one: SIGKILL", 1, "goes on or sentence"),
]
PART = {  # what CI runs: row -> place
    ("SIGKILL", 1): "middle", ("SIGSTOP for good", 0): "last",
    ("SIGSTOP for 3 s", 1): "first", ("stall of 10 s", 0): "middle", ("two neighbours: SIGKILL", 1): "middle",
    ("all but one: SIGKILL", 1): "first",
}  # fmt: skip


class Run:
    """One mpirun under way."""

    def __init__(
        self,
        log: Path,
        copies: int,
        tokens: int,
        more: tuple[str, ...] = (),
        limit_s: int = 180,
        launcher: Sequence[str] = LAUNCHER,
        asked: Sequence[str] = ("--prompt", PROMPT),
    ):
        words = ["timeout", "-k", "5", f"{limit_s}"]
        words += [*launcher, "-n", f"{WORKERS + 1}"]
        words += [sys.executable, "benchmarks/signalled.py", *asked, "--dtype", "float32"]
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
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "JARVIS_TEST": self.mark},
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
                    if b"signalled.py" in command and b"mpirun" not in command:
                        found[int(rank)] = int(path.parent.name)
        return found

    def wait(self) -> None:
        self.process.stdout.read()
        self.process.wait(timeout=self.limit_s + 20)
        self.reader.join(timeout=10)


def strike(run: Run, row: Row, place: str, in_prefill: bool, prefill_s: float, dice: random.Random) -> float:
    """Bring the fault on. -> when, on the monotonic clock that all processes of a machine share."""
    assert run.is_ready.wait(150), run.errors.decode()
    pids = run.pids()
    if in_prefill:
        time.sleep(dice.random() * prefill_s)
    else:
        run.process.stdout.read(dice.randint(4, 100))
        time.sleep(dice.random() * 0.1)
    return hit([pids[node] for node in row.nodes(place)], row.fault.split(": ")[-1])


def hit(pids: Sequence[int], fault: str) -> float:
    """-> as strike."""
    at = time.perf_counter()
    for pid in pids:
        os.kill(pid, SIGNALS[fault])
    if fault == "SIGSTOP for 3 s":
        time.sleep(3)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    return at


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


def judge(row: Row, place: str, run: Run, seen: dict, reference: list[int], struck_at: float) -> list[str]:
    """What is wrong with a run; [] if all is as the row expects."""
    wrong = []
    tokens, told = seen["tokens"]["token"].tolist(), [e for e in seen["events"] if e["event"] == "told"]
    how = "patched" if row.expected == "patched" else "skipped"
    skipped = [event for event in told if says(event["text"], how)]
    finished = seen["begun"] + seen["tokens"]["total_s"].cumsum()
    status = run.process.returncode
    if row.expected == "goes on or sentence" and status != 0:
        if "may be skipped (--max-skipped)" not in seen["ended"]:
            wrong.append(f"status {status}, ended: {seen['ended']}")
        return wrong
    if not any(event["event"].isupper() for event in seen["events"]):
        wrong.append("no sign of the fault")
    if status != 0 or seen["ended"] != "text":
        wrong.append(f"status {status}, ended: {seen['ended']}")
    if (finished > struck_at).sum() < AFTER:
        wrong.append(f"only {(finished > struck_at).sum()} tokens after the fault")
    exact = tokens == reference[: row.tokens] and not skipped
    if row.expected in ("exact", "back") and not exact:
        wrong.append(f"not exact: {[event['text'] for event in told]}")
    # Exact is better: the step they died in had passed them both, and before the next a copy was made anew.
    if (
        row.expected in ("skipped", "patched", "skipped, back", "first exact")
        and not skipped
        and not (exact and row.copies)
    ):
        wrong.append(f"nothing was {how}")
    if row.expected == "first exact" and skipped:
        first, second = row.nodes(place)
        if [event["node"] for event in skipped] != [second] or not any(
            event["node"] == first for event in told
        ):
            wrong.append(f"not the second alone was skipped: {[event['text'] for event in told]}")
    if row.expected in ("back", "skipped, back") and set(range(WORKERS + 1)) != set(
        seen["hops"][-WORKERS - 2 :]["node"].tolist()
    ):
        wrong.append("it did not come back into the chain")
    full, gone = 30, {}  # what was run is what was announced
    for step, ran in zip(seen["tokens"]["step"].tolist(), seen["tokens"]["layers"].tolist(), strict=True):
        for event in told:
            if event["step"] == step:
                gone[event["first_layer"]] = event["layers"] if event in skipped else 0
        if ran != full - sum(gone.values()):
            wrong.append(f"step {step} ran {ran} layers, announced missing: {gone}")
            break
    return wrong


def measure(row: Row, seen: dict, struck_at: float, in_prefill: bool, prefill_s: float) -> dict:
    """noticed_ms: from the fault to its first sign; gap_ms: from the last token before to the first after."""
    signs = [e["at_s"] + seen["begun"] - struck_at for e in seen["events"] if e["event"].isupper()]
    signs = [at for at in signs if at > 0]
    finished = seen["begun"] + seen["tokens"]["total_s"].cumsum()
    after = seen["tokens"]["total_s"][finished > struck_at][:3]
    gap = (max(after) if len(after) else float("nan")) - (prefill_s if in_prefill else 0.0)
    return {"noticed_ms": 1e3 * min(signs) if signs else None, "gap_ms": 1e3 * gap}


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


def parser(description: str | None) -> argparse.ArgumentParser:
    """What every matrix can be asked for."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--repeats", type=int, default=2)
    made.add_argument("--rows", nargs="+", default=[""], help="only rows whose name has one of these in it")
    made.add_argument("--places", nargs="+", default=list(PLACES), choices=list(PLACES))
    made.add_argument("--part", action="store_true", help="what CI has time for")
    made.add_argument("--seed", type=int, default=int(time.time()))
    made.add_argument("--out", help="the table as a file too")
    return made


def main() -> int:
    asked = parser(__doc__)
    asked.add_argument(
        "--launcher", default=shlex.join(LAUNCHER), help='of MPICH: "mpiexec -disable-auto-cleanup"'
    )
    asked.add_argument(
        "--patches",
        help="of fit-patches --workers 5: the rows that skip are run with it, and patched is expected",
    )
    words = asked.parse_args()
    dice, launcher = random.Random(words.seed), shlex.split(words.launcher)
    rows = ROWS
    if words.patches:
        more = ("--patches", str(Path(words.patches).absolute()))
        rows = [replace(row, expected="patched", more=more) for row in ROWS if row.expected == "skipped"]
    cells = [
        (row, place, repeat)
        for row in rows
        for place in words.places
        for repeat in range(1 if words.part else words.repeats)
        if any(each in row.name for each in words.rows)
        and (not words.part or (PART.get((row.fault, row.copies)) == place and row.expected != "goes on"))
    ]
    print(f"seed {words.seed}, {len(cells)} runs", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = Run(Path(scratch) / "whole.h5", 0, MOST_TOKENS, launcher=launcher)
        whole.wait()
        seen = read(whole.log)
        reference = seen["tokens"]["token"].tolist()
        prefill_s = float(seen["tokens"]["total_s"][0])
        token_s = float(statistics.median(seen["tokens"]["total_s"][1:]))
        print(
            f"no fault: {len(reference)} tokens, prefill {prefill_s:.2f} s, a token {1e3 * token_s:.0f} ms",
            flush=True,
        )
        for number, (row, place, repeat) in enumerate(cells):
            in_prefill = (number if words.part else repeat) % 2 == 1
            run = Run(Path(scratch) / f"{number}.h5", row.copies, row.tokens, row.more, launcher=launcher)
            struck_at = strike(run, row, place, in_prefill, prefill_s, dice)
            run.wait()
            seen = read(run.log)
            wrong = judge(row, place, run, seen, reference, struck_at)
            if left := left_over():
                wrong.append(f"still running: {left}")
            figures = measure(row, seen, struck_at, in_prefill, prefill_s)
            moment = "prefill" if in_prefill else "decoding"
            results.append(
                {
                    "row": row.name,
                    "expected": row.expected,
                    "place": place,
                    "moment": moment,
                    "wrong": wrong,
                    **figures,
                }
            )
            noticed = figures["noticed_ms"]
            noticed = f"noticed after {noticed:.0f} ms" if noticed is not None else "no sign"
            print(f"{number + 1}/{len(cells)} {row.name} | {place} | {moment} | {noticed}, gap {figures['gap_ms']:.0f} ms | {'; '.join(wrong) or 'as expected: ' + row.expected}", flush=True)  # fmt: skip
            if wrong:
                print(run.errors.decode(), *seen["events"], sep="\n", flush=True)
    return report(results, prefill_s, token_s, words.out)


def report(results: list[dict], prefill_s: float, token_s: float, out: str | None) -> int:
    """Print the table and the JSON line. -> how many runs were not as expected."""
    text = "\n".join(table(results, token_s))
    print(text)
    if out:
        Path(out).write_text(text + "\n")
    print(json.dumps({"token_ms": 1e3 * token_s, "prefill_ms": 1e3 * prefill_s, "runs": results}))
    return sum(bool(result["wrong"]) for result in results)


def table(results: list[dict], token_s: float) -> list[str]:
    lines = [
        "| fault | expected | as expected | noticed after, median (maximum) | gap, median (maximum) |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys((result["row"], result["expected"]) for result in results):
        mine = [result for result in results if (result["row"], result["expected"]) == name]
        fine = sum(not result["wrong"] for result in mine)
        noticed = [result["noticed_ms"] for result in mine if result["noticed_ms"] is not None]
        gaps = [result["gap_ms"] for result in mine if not math.isnan(result["gap_ms"])]
        lines.append(f"| {name[0]} | {name[1]} | {fine} of {len(mine)} | {spread(noticed)} | {spread(gaps)} |")  # fmt: skip
    return [*lines, f"A token takes {1e3 * token_s:.0f} ms without a fault."]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ms ({max(values):.0f})" if values else "-"


if __name__ == "__main__":
    sys.exit(main())
