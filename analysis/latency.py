"""Draws a token's time over a run, its distribution, the time to the first token; marks faults.

python analysis/latency.py RUN.h5 [more.h5] [--live]
"""

import argparse

import figure
import numpy as np
from figure import COLOURS, SIGN_COLOURS, Drawn, Figure, named

from jarvis_mpi.record.run import Run, tokens_per_s


def draw(runs: list[Run], words: argparse.Namespace) -> Drawn:
    made = Figure(figsize=(7.2, 3.0))
    over, spread = made.subplots(1, 2, width_ratios=(3, 1.2))
    rows, shown, highest, signs = [], [], 0.0, {}
    for number, (run, name) in enumerate(zip(runs, named(runs), strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        ms, follows = 1e3 * run.tokens["total_s"], run.follows
        at = run.tokens["at_s"] - run.questions[0].at_s if run.questions else run.tokens["at_s"]
        over.plot(at[follows], ms[follows], ".", color=colour, markersize=4, label=name)
        over.plot(at[~follows], ms[~follows], "^", color=colour, markersize=5, markerfacecolor="none")
        noticed = [(fault.sign, fault.noticed_s) for fault in run.faults]
        noticed += [("mpirun died", event.at_s) for event in run.events if event.event == "orphaned"]
        for sign, at_s in noticed:
            signs.setdefault(sign, []).append(at_s - (run.questions[0].at_s if run.questions else 0.0))
        later = ms[follows] if follows.any() else ms
        spread.plot(
            np.sort(later), np.arange(1, len(later) + 1) / len(later), color=colour, drawstyle="steps-post"
        )
        highest = max(highest, ms.max() / np.median(later))
        rows += [
            (name, *row)
            for row in zip(
                run.tokens["step"].tolist(), at.tolist(), ms.tolist(), follows.tolist(), strict=True
            )
        ]
        shown.append((
            name, len(ms), *(1e-3 * ms[~follows][:1]), *map(float, np.percentile(later, (50, 90, 99))),
            float(later.max()),
            tokens_per_s(run), len(run.faults),
        ))  # fmt: skip
    for sign, times in signs.items():
        for at in times:
            over.axvline(at, color=SIGN_COLOURS.get(sign, "grey"), linewidth=0.8, zorder=0)
        over.plot(
            [],
            [],
            "|",
            color=SIGN_COLOURS.get(sign, "grey"),
            markersize=9,
            label=sign.lower().replace("_", " "),
        )
    over.plot([], [], "^", color="grey", markersize=5, markerfacecolor="none", label="first of an answer")
    for axes, set_scale in ((over, over.set_yscale), (spread, spread.set_xscale)):
        if highest > 8:
            set_scale("log")
        else:
            (axes.set_ylim if axes is over else axes.set_xlim)(0)
    over.set(xlabel="time since the first question (s)", ylabel="time of a token (ms)")
    spread.set(xlabel="time of a token (ms)", ylabel="share of tokens at or below", ylim=(0, 1.01))
    over.legend(fontsize=7, loc="best")
    columns = ("run", "step", "at_s", "total_ms", "follows_another")
    return Drawn(
        made, columns, rows,
        ("run", "tokens", "first s", "median ms", "90 % ms", "99 % ms", "most ms", "tokens/s", "signs"),
        shown,
    )  # fmt: skip


if __name__ == "__main__":
    figure.main(__doc__, draw)
