"""A matrix of faults: what a row expects of its runs, what was wrong with one, and the table."""

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arguments import parser
from benchmarks.faults.live_run import PLACES, WORKERS, LiveRun, says

TOKENS = 64
MOST_TOKENS = 256
AFTER = 16  # tokens, at least, after a fault


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


def judge(
    row: Row, place: str, run: LiveRun, seen: dict, reference: list[int], struck_at: float
) -> list[str]:
    """What is wrong with a run; [] if all is as the row expects."""
    wrong = []
    tokens, told = seen["tokens"]["token"].tolist(), [e for e in seen["events"] if e["event"] == "rerouted"]
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
    # Exact is better: the step they died in had passed them both, and before the next a copy was made again.
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
    return wrong + announced_otherwise(seen, told, skipped)


def announced_otherwise(seen: dict, told: list[dict], skipped: list[dict]) -> list[str]:
    """What was run is what was announced: [] if so."""
    full, gone = 30, {}
    for step, ran in zip(seen["tokens"]["step"].tolist(), seen["tokens"]["layers"].tolist(), strict=True):
        for event in told:
            if event["step"] == step:
                gone[event["first_layer"]] = event["layers"] if event in skipped else 0
        if ran != full - sum(gone.values()):
            return [f"step {step} ran {ran} layers, announced missing: {gone}"]
    return []


def measure(row: Row, seen: dict, struck_at: float, in_prefill: bool, prefill_s: float) -> dict:
    """noticed_ms: from the fault to its first sign; gap_ms: from the last token before to the first after."""
    signs = [e["at_s"] + seen["begun"] - struck_at for e in seen["events"] if e["event"].isupper()]
    signs = [at for at in signs if at > 0]
    finished = seen["begun"] + seen["tokens"]["total_s"].cumsum()
    after = seen["tokens"]["total_s"][finished > struck_at][:3]
    gap = (max(after) if len(after) else float("nan")) - (prefill_s if in_prefill else 0.0)
    return {"noticed_ms": 1e3 * min(signs) if signs else None, "gap_ms": 1e3 * gap}


def matrix_parser(description: str | None) -> argparse.ArgumentParser:
    """What every matrix can be asked for."""
    made = parser(description)
    made.add_argument("--repeats", type=int, default=2)
    made.add_argument("--rows", nargs="+", default=[""], help="only rows whose name has one of these in it")
    made.add_argument("--places", nargs="+", default=list(PLACES), choices=list(PLACES))
    made.add_argument("--part", action="store_true", help="what CI has time for")
    made.add_argument("--seed", type=int, default=int(time.time()))
    made.add_argument("--out", help="the table as a file too")
    return made


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
        lines.append(
            f"| {name[0]} | {name[1]} | {fine} of {len(mine)} | {spread(noticed)} | {spread(gaps)} |"
        )
    return [*lines, f"A token takes {1e3 * token_s:.0f} ms without a fault."]


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ms ({max(values):.0f})" if values else "-"
