"""Several runs side by side: time of a token, time to the first one, bytes a token.

    python analysis/compare.py runs/*.h5                     each by its name
    python analysis/compare.py runs/*.h5 --by nodes          by the number of nodes
    python analysis/compare.py runs/*.h5 --by copies         by any option of the run (see its `settings`)

Of runs with the same value each is a point, and the line goes through their medians.
"""

import argparse
import statistics
from collections import defaultdict
from typing import Any

import figure
import numpy as np
from figure import BLUE, CannotDraw, Drawn, Figure, name_of
from load import Run


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
    rows = []
    for run in runs:
        later = run.tokens[run.follows] if run.follows.any() else run.tokens
        hops = run.hops[np.isin(run.hops["step"], later["step"])]
        low, middle, high = (1e3 * float(each) for each in np.percentile(later["total_s"], (10, 50, 90)))
        rows.append((
            name_of(run), value(run, words.by), len(run.tokens), float(run.tokens["total_s"][0]), low, middle, high,
            len(later) / float(later["total_s"].sum()), float(hops["received_bytes"].sum()) / len(later), len(run.faults),
        ))  # fmt: skip
    values = list(dict.fromkeys(row[1] for row in rows))
    numeric = all(isinstance(each, int | float) for each in values)
    if numeric:
        values.sort()
    where = {each: each if numeric else number for number, each in enumerate(values)}
    made = Figure(figsize=(7.2, 2.6))
    for axes, column, label in zip(
        made.subplots(1, 3),
        (5, 3, 8),
        ("time of a token (ms)", "time to the first token (s)", "sent a token (kB)"),
        strict=True,
    ):
        by_value = defaultdict(list)
        scale = 1e-3 if column == 8 else 1.0
        for row in rows:
            by_value[row[1]].append(scale * row[column])
            axes.plot(where[row[1]], scale * row[column], "o", color=BLUE, markersize=5, alpha=0.8)
            if column == 5:
                axes.plot([where[row[1]]] * 2, [row[4], row[6]], color=BLUE, linewidth=1, alpha=0.6)
        if numeric:
            axes.plot(
                values,
                [statistics.median(by_value[each]) for each in values],
                color=BLUE,
                linewidth=0.8,
                alpha=0.6,
            )
        if numeric and len(values) > 6:
            axes.set_xlabel(words.by)
        else:
            axes.set_xticks(
                list(where.values()),
                list(map(str, where)),
                rotation=0 if numeric else 30,
                ha="center" if numeric else "right",
            )
            axes.set_xlabel(words.by if words.by != "name" else "")
            axes.margins(x=0.15)
        axes.set(ylabel=label)
        axes.set_ylim(0)
    columns = (
        "run",
        words.by,
        "tokens",
        "first s",
        "10 % ms",
        "median ms",
        "90 % ms",
        "tokens/s",
        "bytes",
        "signs",
    )
    return Drawn(made, columns, rows, columns, rows)


if __name__ == "__main__":
    figure.main(__doc__, draw, more)
