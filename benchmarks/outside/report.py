"""Counts a campaign: faults by kind, target and moment, and how many runs with them broke a rule."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.outside.evidence import Seen


@dataclass(frozen=True)
class Judged:
    """A run, as it is counted."""

    number: int
    seen: Seen
    outcome: str
    wrong: list[str]


def upper_bound(broken: int, count: int) -> float:
    """Return the 95 % upper bound of a rate: 3 / n where nothing was seen, else Wilson's."""
    if not count:
        return 1.0
    if not broken:
        return min(1.0, 3 / count)
    z, rate = 1.645, broken / count
    middle = rate + z * z / (2 * count)
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return min(1.0, (middle + spread) / (1 + z * z / count))


def table(judged: Sequence[Judged]) -> list[str]:
    """Return a Markdown table: one line a kind, target and moment."""
    counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for each in judged:
        for strike in each.seen.strikes:
            cell = counts[strike.kind, strike.target, strike.moment]
            cell[0] += 1
            cell[1] += bool(each.wrong)
    lines = [
        "| fault | at | moment | faults | in runs that broke a rule | 95 % bound |",
        "|---|---|---|---|---|---|",
    ]
    for (kind, target, moment), (count, broken) in sorted(counts.items()):
        lines.append(
            f"| {kind} | {target} | {moment} | {count} | {broken} | {upper_bound(broken, count):.1%} |"
        )
    return lines


def summary(judged: Sequence[Judged]) -> dict[str, object]:
    """Return the counts of all, for the last line."""
    outcomes: dict[str, int] = defaultdict(int)
    for each in judged:
        outcomes[each.outcome.split(" by ")[0]] += 1
    broken = [each.number for each in judged if each.wrong]
    return {
        "runs": len(judged),
        "faults": sum(len(each.seen.strikes) for each in judged),
        "broken": broken,
        "bound": round(upper_bound(len(broken), len(judged)), 4),
        "outcomes": dict(outcomes),
        "longest_s": round(max((each.seen.took_s for each in judged), default=0.0), 1),
    }
