"""Compares runs side by side: time of a token, time to the first one, bytes a token.

    python analysis/compare.py runs/*.h5                     each by its name
    python analysis/compare.py runs/*.h5 --by nodes          by the number of nodes
    python analysis/compare.py runs/*.h5 --by copies         by any option of the run (see its `settings`)

Runs with the same value are a point each, and the line goes through their medians.
"""

import argparse
import statistics
from collections import defaultdict
from typing import Any

import figure
import numpy as np
from figure import BLUE, CannotDraw, Drawn, Figure, name_of
from matplotlib.axes import Axes

from jarvis_mpi.record.run import Run, tokens_per_s

FIRST, MEDIAN, BYTES = 3, 5, 8  # columns
PARTS = (
    (MEDIAN, "time of a token (ms)"),
    (FIRST, "time to the first token (s)"),
    (BYTES, "sent a token (kB)"),
)


def more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by", default="name", help="name, nodes, model, faults, or an option such as copies, split, seed"
    )


def value(run: Run, by: str) -> Any:
    special = {
        "name": name_of(run),
        "nodes": len(run.hosts),
        "model": run.settings["model"],
        "faults": len(run.faults),
    }
    by = by.replace("-", "_")
    if by not in special and by not in run.settings:
        raise CannotDraw(
            f"--by {by}: {run.path} has no such option; it has {', '.join([*special, *run.settings])}"
        )
    found = special.get(by, run.settings.get(by))
    return found if isinstance(found, int | float) and not isinstance(found, bool) else str(found)


def draw(runs: list[Run], words: argparse.Namespace) -> Drawn:
    rows = [row_of(run, words.by) for run in runs]
    values = list(dict.fromkeys(row[1] for row in rows))
    numeric = all(isinstance(each, int | float) for each in values)
    if numeric:
        values.sort()
    where = {each: each if numeric else number for number, each in enumerate(values)}
    made = Figure(figsize=(7.2, 2.6))
    for axes, (column, label) in zip(made.subplots(1, 3), PARTS, strict=True):
        draw_part(axes, rows, column, where, numeric)
        if numeric and len(values) > 6:
            axes.set_xlabel(words.by)
        else:
            turned: dict[str, Any] = {} if numeric else {"rotation": 30, "ha": "right"}
            axes.set_xticks(list(where.values()), list(map(str, where)), **turned)
            axes.set_xlabel(words.by if words.by != "name" else "")
            axes.margins(x=0.15)
        axes.set(ylabel=label)
        axes.set_ylim(0)
    columns = (
        "run", words.by, "tokens", "first s", "10 % ms", "median ms", "90 % ms", "tokens/s", "bytes", "signs",
    )  # fmt: skip
    return Drawn(made, columns, rows, columns, rows)


def row_of(run: Run, by: str) -> tuple:
    """Return a run's row of the CSV file."""
    later = run.tokens[run.follows] if run.follows.any() else run.tokens
    hops = run.hops[np.isin(run.hops["step"], later["step"])]
    low, middle, high = (1e3 * float(each) for each in np.percentile(later["total_s"], (10, 50, 90)))
    return (
        name_of(run), value(run, by), len(run.tokens), float(run.tokens["total_s"][0]), low, middle, high,
        tokens_per_s(run), float(hops["received_bytes"].sum()) / len(later),
        len(run.faults),
    )  # fmt: skip


def draw_part(axes: Axes, rows: list[tuple], column: int, where: dict[Any, float], numeric: bool) -> None:
    """Draw one column: a point a run, with its range for a token's time; over numbers, a line of medians."""
    by_value, scale = defaultdict(list), 1e-3 if column == BYTES else 1.0
    for row in rows:
        by_value[row[1]].append(scale * row[column])
        axes.plot(where[row[1]], scale * row[column], "o", color=BLUE, markersize=5, alpha=0.8)
        if column == MEDIAN:
            axes.plot([where[row[1]]] * 2, [row[4], row[6]], color=BLUE, linewidth=1, alpha=0.6)
    if numeric:
        medians = [statistics.median(by_value[each]) for each in where]
        axes.plot(list(where), medians, color=BLUE, linewidth=0.8, alpha=0.6)


if __name__ == "__main__":
    figure.main(__doc__, draw, more)
