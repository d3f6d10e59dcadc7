"""Draws what faults cost: the gap around each, and its parts, beside a usual token.

    python analysis/faults.py RUN.h5 [more.h5] [--live]

`noticed`: from the token before it to the sign; `decided`: to the departure over another route; `mended`: to
the token.
"""

import argparse
import itertools

import figure
import numpy as np
from figure import BLUE, GREEN, ORANGE, RED, CannotDraw, Drawn, Figure, named
from matplotlib.axes import Axes

from jarvis_mpi.record.fault_costs import Fault
from jarvis_mpi.record.run import Run

COLUMNS = (
    "run", "node", "sign", "step", "noticed at s", "noticed ms", "decided ms", "mended ms", "gap ms",
    "usual ms", "recomputed", "announced",
)  # fmt: skip
PARTS = (  # column, what it is
    (5, "until it was noticed", RED),
    (6, "until another route was taken", ORANGE),
    (7, "until the token was there", BLUE),
)


def draw(runs: list[Run], words: argparse.Namespace) -> Drawn:
    rows = [row for run, name in zip(runs, named(runs), strict=True) for row in rows_of(run, name)]
    if not rows:
        raise CannotDraw(
            f"{', '.join(str(run.path) for run in runs)}: no fault was noticed, there is nothing to draw"
        )
    made = Figure(figsize=(7.2, 1.2 + 0.3 * len(rows)))
    draw_gaps(made.subplots(), rows, several=len(runs) > 1)
    made.legend(fontsize=7, ncols=4, loc="outside upper left")
    shown = [(*row[:4], *row[5:-1]) for row in rows]
    notes = [f"{row[0]}: {row[-1]}" for row in rows if row[-1]]
    return Drawn(made, COLUMNS, rows, (*COLUMNS[:4], *COLUMNS[5:-1]), shown, notes)


def rows_of(run: Run, name: str) -> list[tuple]:
    """Return a row of COLUMNS for each of the run's faults."""
    usual_ms = 1e3 * float(np.median(run.tokens["total_s"][run.follows])) if run.follows.any() else np.nan
    return [
        (
            name, fault.node, fault.sign, fault.step, fault.noticed_s, *parts_ms(fault), 1e3 * fault.gap_s,
            usual_ms,
            fault.recomputed, " / ".join(fault.announcements),
        )
        for fault in run.faults
    ]  # fmt: skip


def parts_ms(fault: Fault) -> list[float]:
    """Split a fault's gap into PARTS; NaN where there was no token to wait for."""
    if np.isnan(fault.gap_s):
        return [np.nan] * 3
    before_s = fault.mended_s - fault.gap_s
    moments = [before_s, max(before_s, fault.noticed_s), max(before_s, fault.decided_s), fault.mended_s]
    return [1e3 * (later - earlier) for earlier, later in itertools.pairwise(moments)]


def draw_gaps(axes: Axes, rows: list[tuple], several: bool) -> None:
    labels = [
        f"{f'{row[0]}: ' if several else ''}node {row[1]} {row[2].lower().replace('_', ' ')} @ {row[3]}"
        for row in rows
    ]
    where, left = np.arange(len(rows)), np.zeros(len(rows))
    for column, name, colour in PARTS:
        values = np.nan_to_num(np.array([row[column] for row in rows], float))
        axes.barh(where, values, left=left, color=colour, height=0.65, label=name)
        left += values
    usual_ms = [row[9] for row in rows]
    axes.plot(usual_ms, where, "|", color=GREEN, markersize=14, markeredgewidth=2, label="a usual token")
    axes.set_yticks(where, labels)
    axes.invert_yaxis()
    axes.set_xlabel("time of the token under way (ms)")


if __name__ == "__main__":
    figure.main(__doc__, draw)
