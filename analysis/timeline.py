"""Draws one token's way through the nodes, on one clock; with a fault: what broke it and how it was repaired.

    python analysis/timeline.py RUN.h5 [--step 20] [--around 1]

Without --step: the token during which the first fault was noticed, or one of usual length. Every node's clock
is converted to the end user's by the round trips in the record.
"""

import argparse
import itertools
from typing import NamedTuple

import figure
import numpy as np
from figure import BLUE, GREEN, ORANGE, RED, SKY, CannotDraw, Drawn, Figure
from matplotlib.axes import Axes

from jarvis_mpi.record.fault_costs import Fault
from jarvis_mpi.record.run import Run


def more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=int, help="which token")
    parser.add_argument("--around", type=int, default=1, help="how many tokens before and after it, too")


class Window(NamedTuple):
    """A token, those around it, and what was done for them, on the end user's clock."""

    step: int
    tokens: np.ndarray
    rows: list[tuple[int, int, str, int, float, float, float]]  # of the CSV file: a node's work for a step
    begun_s: float  # of the token; all moments in `rows` are counted from it
    within_s: float  # how far off a moment may be
    faults: list[Fault]

    @property
    def own_rows(self) -> list[tuple[int, int, str, int, float, float, float]]:
        """The token's, in order of time."""
        return sorted((row for row in self.rows if row[0] == self.step), key=lambda row: row[4])

    def ms(self, at_s: float) -> float:
        return 1e3 * float(at_s - self.begun_s)


def window(run: Run, step: int, around: int) -> Window:
    if step not in run.tokens["step"]:
        raise CannotDraw(
            f"--step {step}: {run.path} holds the tokens {run.tokens['step'][0]} to {run.tokens['step'][-1]}"
        )
    tokens = run.tokens[np.abs(run.tokens["step"].astype(int) - step) <= around]
    hops = run.hops[np.isin(run.hops["step"], tokens["step"])]
    at, within = run.on_one_clock(hops)
    token = run.tokens[run.tokens["step"] == step][0]
    begun_s = float(token["at_s"] - token["total_s"])
    rows = [
        (int(hop["step"]), int(hop["node"]),
         f"{hop['first_layer']}-{hop['first_layer'] + hop['layers'] - 1}", int(hop["rows"]),
         1e3 * (begun - begun_s), 1e3 * float(hop["compute_s"]), 1e3 * float(off))
        for hop, begun, off in zip(hops, at, within, strict=True)
    ]  # fmt: skip
    faults = [fault for fault in run.faults if fault.step in tokens["step"]]
    return Window(step, tokens, rows, begun_s, float(np.nanmax(within)), faults)


def draw(runs: list[Run], words: argparse.Namespace) -> Drawn:
    if len(runs) > 1:
        raise CannotDraw("timeline.py draws one run at a time")
    run = runs[0]
    if not len(run.clocks):
        raise CannotDraw(
            f"{run.path} is a record of schema {run.schema}, in which clocks were not compared: run it again"
        )
    seen = window(run, words.step if words.step is not None else usual_step(run), words.around)
    nodes = sorted(map(int, run.hosts))
    made = Figure(figsize=(7.2, 1.3 + 0.26 * len(nodes)))
    axes = made.subplots()
    draw_stages(axes, seen)
    draw_heads(axes, seen)
    draw_faults(axes, seen)
    axes.set_yticks(nodes, ["end user" if node == 0 else f"node {node}" for node in nodes])
    axes.invert_yaxis()
    first, last = seen.tokens[0], seen.tokens[-1]
    axes.set_xlim(min(seen.ms(first["at_s"] - first["total_s"]), 0), seen.ms(last["at_s"]) * 1.02)
    axes.set_xlabel(
        f"time since token {seen.step} was begun (ms); clocks within ±{1e3 * seen.within_s:.2g} ms"
    )
    made.legend(fontsize=7, ncols=3 if seen.faults else 4, loc="outside upper left")
    notes = [
        event.text for event in run.events if event.event == "rerouted" and event.step in seen.tokens["step"]
    ]
    columns = ("step", "node", "layers", "positions", "begun ms", "compute ms", "clock within ms")
    return Drawn(made, columns, seen.rows, columns, seen.own_rows, notes)


def draw_stages(axes: Axes, seen: Window) -> None:
    """Draw each node's work as a bar, pale where it was for another token; grey lines: the token on its
    way."""
    for step, node, _, count, begun, length, _ in sorted(seen.rows, key=lambda row: row[0] == seen.step):
        if step == seen.step:
            axes.barh(node, length, left=begun, color=ORANGE if count > 1 else BLUE, height=0.6)
        else:
            axes.barh(node, length, left=begun, color=SKY, alpha=0.45, height=0.6)
    for a, b in itertools.pairwise(seen.own_rows):
        axes.plot([a[4] + a[5], b[4]], [a[1], b[1]], color="grey", linewidth=0.7, zorder=0)
    keys = [
        ("layers", BLUE),
        ("several positions at once", ORANGE),
        ("head", GREEN),
        ("tokens beside it", SKY),
    ]
    for name, colour in keys[: 4 if len(np.unique(seen.tokens["step"])) > 1 else 3]:
        axes.barh(0, 0, color=colour, label=name)


def draw_heads(axes: Axes, seen: Window) -> None:
    """Draw the end user's choice of each token, and a line when it was there."""
    for token in seen.tokens:
        end, head_ms = seen.ms(token["at_s"]), 1e3 * token["head_s"]
        alpha = 1 if token["step"] == seen.step else 0.45
        axes.barh(0, head_ms, left=end - head_ms, color=GREEN, height=0.6, alpha=alpha)
        axes.axvline(end, color="lightgrey", linewidth=0.8, zorder=0)


def draw_faults(axes: Axes, seen: Window) -> None:
    for fault in seen.faults:
        axes.axvline(seen.ms(fault.noticed_s), color=RED, linewidth=1)
        axes.plot(seen.ms(fault.noticed_s), fault.node, "X", color=RED, markersize=7, clip_on=False)
    if seen.faults:
        label = "fault noticed: " + ", ".join(f"node {each.node} {each.sign.lower()}" for each in seen.faults)
        axes.plot([], [], "X", color=RED, markersize=6, label=label)


def usual_step(run: Run) -> int:
    """Return the first fault's step, or one whose length is the median's."""
    at_fault = [fault.step for fault in run.faults if fault.step in run.tokens["step"]]
    if at_fault:
        return at_fault[0]
    tokens = run.tokens[run.follows] if run.follows.any() else run.tokens
    return int(tokens["step"][np.argsort(tokens["total_s"])[len(tokens) // 2]])


if __name__ == "__main__":
    figure.main(__doc__, draw, more)
