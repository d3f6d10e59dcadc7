"""One token's way through the nodes, on one clock; with a fault: what broke it and how it was mended.

    python analysis/timeline.py RUN.h5 [--step 20] [--around 1]

Without --step: the token during which the first fault was noticed, or one of usual length. Every node's clock is put
onto the end user's by the round trips in the record.
"""

import argparse
import itertools

import figure
import numpy as np
from figure import BLUE, GREEN, ORANGE, RED, SKY, CannotDraw, Drawn, Figure
from load import Run


def more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=int, help="which token")
    parser.add_argument("--around", type=int, default=1, help="so many tokens before and after it too")


def draw(runs: list[Run], words: argparse.Namespace) -> Drawn:
    if len(runs) > 1:
        raise CannotDraw("timeline.py draws one run at a time")
    run = runs[0]
    if not len(run.clocks):
        raise CannotDraw(
            f"{run.path} is a record of schema {run.schema}, in which clocks were not compared: run it anew"
        )
    step = words.step if words.step is not None else usual_step(run)
    if step not in run.tokens["step"]:
        raise CannotDraw(
            f"--step {step}: {run.path} holds the tokens {run.tokens['step'][0]} to {run.tokens['step'][-1]}"
        )
    shown_steps = [
        each for each in range(step - words.around, step + words.around + 1) if each in run.tokens["step"]
    ]
    tokens = run.tokens[np.isin(run.tokens["step"], shown_steps)]
    hops = run.hops[np.isin(run.hops["step"], shown_steps)]
    at, within = run.on_one_clock(hops)
    token = run.tokens[run.tokens["step"] == step][0]
    zero = float(token["at_s"] - token["total_s"])
    rows = [
        (int(hop["step"]), int(hop["node"]), f"{hop['first_layer']}-{hop['first_layer'] + hop['layers'] - 1}", int(hop["rows"]),
         1e3 * (begun - zero), 1e3 * float(hop["compute_s"]), 1e3 * float(off))
        for hop, begun, off in zip(hops, at, within, strict=True)
    ]  # fmt: skip
    nodes = sorted(map(int, run.hosts))
    made = Figure(figsize=(7.2, 1.3 + 0.26 * len(nodes)))
    axes = made.subplots()
    for _, node, _, _, begun, length, _ in (row for row in rows if row[0] != step):
        axes.barh(node, length, left=begun, color=SKY, alpha=0.45, height=0.6)
    for _, node, _, count, begun, length, _ in (row for row in rows if row[0] == step):
        axes.barh(node, length, left=begun, color=ORANGE if count > 1 else BLUE, height=0.6)
    mine = sorted((row for row in rows if row[0] == step), key=lambda row: row[4])
    for a, b in itertools.pairwise(mine):  # on its way
        axes.plot([a[4] + a[5], b[4]], [a[1], b[1]], color="grey", linewidth=0.7, zorder=0)
    for each in tokens:
        end = 1e3 * float(each["at_s"] - zero)
        axes.barh(
            0,
            1e3 * each["head_s"],
            left=end - 1e3 * each["head_s"],
            color=GREEN,
            height=0.6,
            alpha=1 if each["step"] == step else 0.45,
        )
        axes.axvline(end, color="lightgrey", linewidth=0.8, zorder=0)
    noticed = [fault for fault in run.faults if fault.step in shown_steps]
    for fault in noticed:
        moment = 1e3 * (fault.noticed_s - zero)
        axes.axvline(moment, color=RED, linewidth=1)
        axes.plot(moment, fault.node, "X", color=RED, markersize=7, clip_on=False)
    keys = [
        ("layers", BLUE),
        ("several positions at once", ORANGE),
        ("head", GREEN),
        ("tokens beside it", SKY),
    ]
    for name, colour in keys[: 4 if len(shown_steps) > 1 else 3]:
        axes.barh(0, 0, color=colour, label=name)
    if noticed:
        axes.plot(
            [],
            [],
            "X",
            color=RED,
            markersize=6,
            label="fault noticed: " + ", ".join(f"node {f.node} {f.sign.lower()}" for f in noticed),
        )
    axes.set_yticks(nodes, ["end user" if node == 0 else f"node {node}" for node in nodes])
    axes.invert_yaxis()
    first, last = (
        1e3 * float(tokens[0]["at_s"] - tokens[0]["total_s"] - zero),
        1e3 * float(tokens[-1]["at_s"] - zero),
    )
    axes.set_xlim(min(first, 0), last * 1.02)
    off = np.nanmax(within) * 1e3
    axes.set_xlabel(f"time since token {step} was begun (ms); clocks within ±{off:.2g} ms")
    made.legend(fontsize=7, ncols=3 if noticed else 4, loc="outside upper left")
    told = [event.text for event in run.events if event.event == "told" and event.step in shown_steps]
    columns = ("step", "node", "layers", "positions", "begun ms", "compute ms", "clock within ms")
    return Drawn(made, columns, rows, columns, mine, told)


def usual_step(run: Run) -> int:
    """The first fault's, or one whose length is the median's."""
    at_fault = [fault.step for fault in run.faults if fault.step in run.tokens["step"]]
    if at_fault:
        return at_fault[0]
    tokens = run.tokens[run.follows] if run.follows.any() else run.tokens
    return int(tokens["step"][np.argsort(tokens["total_s"])[len(tokens) // 2]])


if __name__ == "__main__":
    figure.main(__doc__, draw, more)
