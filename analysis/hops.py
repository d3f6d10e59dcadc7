"""Draws where the time of a token goes, node by node: computing, sending, waiting; bytes; memory, temperature
and clock.

    python analysis/hops.py RUN.h5 [--live]

Means over the tokens that follow another of their answer. A node's waiting is the time in which others
worked.
"""

import argparse

import figure
import numpy as np
from figure import BLUE, GREEN, ORANGE, CannotDraw, Drawn, Figure

from jarvis_mpi.record.run import Run


def draw(runs: list[Run], words: argparse.Namespace) -> Drawn:
    if len(runs) > 1:
        raise CannotDraw("hops.py draws one run at a time: compare.py puts several side by side")
    run = runs[0]
    counted = run.tokens["step"][run.follows] if run.follows.any() else run.tokens["step"]
    hops = run.hops[np.isin(run.hops["step"], counted)]
    rows, shown = [], []
    for node in sorted(map(int, run.hosts)):
        mine = hops[hops["node"] == node]
        per_token = [
            float(mine[name].sum()) / len(counted) for name in ("compute_s", "previous_send_s", "wait_s")
        ]
        head = float(run.tokens["head_s"][np.isin(run.tokens["step"], counted)].mean()) if node == 0 else 0.0
        sent = float(mine["received_bytes"].sum()) / len(counted)
        vitals = [vital(mine, name, unknown) for name, unknown in (("temperature_c", -300), ("clock_mhz", 0))]
        memory = float(mine["memory_kib"].max()) / 1024 if len(mine) else 0.0
        rows.append(
            (
                node,
                run.hosts[str(node)],
                *(1e3 * each for each in (per_token[0], head, *per_token[1:])),
                sent,
                memory,
                *vitals,
            )
        )
        layers = ", ".join(run.placement[str(node)]) or "spare"
        shown.append(("end user" if node == 0 else str(node), run.hosts[str(node)], layers, *rows[-1][2:]))
    made = Figure(figsize=(7.2, 0.8 + 0.28 * len(rows)))
    times, traffic = made.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    labels = ["end user" if row[0] == 0 else f"node {row[0]}" for row in rows]
    left = np.zeros(len(rows))
    for column, name, colour in (
        (2, "computing its layers", BLUE),
        (3, "head", GREEN),
        (4, "sending", ORANGE),
        (5, "waiting", "#DDDDDD"),
    ):
        values = np.array([row[column] for row in rows])
        times.barh(labels, values, left=left, color=colour, label=name, height=0.7)
        left += values
    traffic.barh(labels, [row[6] / 1e3 for row in rows], color=BLUE, height=0.7)
    times.invert_yaxis()
    times.set_xlabel("mean time of a token (ms)")
    traffic.set_xlabel("received a token (kB)")
    made.legend(fontsize=7, ncols=4, loc="outside upper left")
    units = ("compute ms", "head ms", "sending ms", "waiting ms", "bytes", "memory MiB", "°C", "MHz")
    return Drawn(made, ("node", "host", *units), rows, ("node", "host", "layers", *units), shown)


def vital(hops: np.ndarray, name: str, unknown: int) -> str | float:
    known = hops[name][hops[name] != unknown]
    return float(known.max()) if len(known) else "-"


if __name__ == "__main__":
    figure.main(__doc__, draw)
