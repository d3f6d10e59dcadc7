"""Computes what a token costs, for predictions: from a run without faults, or assumed for a machine and a
model."""

import statistics
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import script  # noqa: F401 (it says where jarvis_mpi is)

from jarvis_mpi.record.run import Run, Unreadable


class Machine(NamedTuple):
    """How fast a node reads its memory, and multiplies; measure yours with python -m
    benchmarks.speed.decode."""

    read_gb_s: float  # of weights, one token
    gflop_s: float  # a prompt's rows


# Assumed, not measured here: what is published for STREAM-like reads and for matrix products of all cores.
MACHINES = {"pi4": Machine(3.5, 15.0), "pi5": Machine(9.0, 45.0), "srn": Machine(50.0, 700.0)}
HOP_S = {"pi4": 2e-3, "pi5": 1e-3, "srn": 0.3e-3}  # beyond link and layers; measured here: 1 ms


class Shape(NamedTuple):
    """A model in bfloat16."""

    layers: int
    layer_bytes: float
    head_bytes: float  # the output layer, which a token reads once
    width: int


MODELS = {  # from their configs: attention and MLP of a layer; vocabulary times width
    "gemma-2b": Shape(18, 2 * 110.1e6, 2 * 256000 * 2048, 2048),
    "gemma-7b": Shape(28, 2 * 276.8e6, 2 * 256000 * 3072, 3072),
}


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes, of one node among equals."""

    layers: int
    layer_s: float  # of a layer, one row
    stage_s: float  # of a stage beside its layers
    row_s: float  # of a layer, each further row
    head_s: float
    hop_s: float  # of a hop beyond the link's time
    body_bytes: float  # of a row
    header_bytes: float  # of a message beside its rows, at the first hop
    run_bytes: float  # and more at each hop, for it tells what was run
    slower: tuple[float, ...] = ()  # node k's factor; 1 where it is not said


def costs_of(run: Run) -> Costs:
    """Return the medians of a run without faults. Raises Unreadable where there were some."""
    if run.faults or len(run.starts) > 1:
        raise Unreadable(f"{run.path} is of a run with faults: the predictor learns from one without")
    if not run.follows.any():
        raise Unreadable(f"{run.path} holds less than two tokens of an answer: nothing can be learnt from it")
    sequences = run.tokens["sequence"]
    if (
        np.count_nonzero(np.diff(sequences)) >= len(set(sequences.tolist()))
        or (run.tokens["hops"] == 0).any()
    ):
        raise Unreadable(
            f"{run.path} had several answers in flight, or drafts: the predictor learns from a run without "
            "(--streams 1, no --draft)"
        )
    decoding = run.hops[np.isin(run.hops["step"], run.tokens["step"][run.follows]) & (run.hops["rows"] == 1)]
    prompt = run.hops[run.hops["step"] == run.tokens["step"][0]]
    stages = {(hop["node"], hop["first_layer"], hop["layers"]): [] for hop in decoding}
    for hop in decoding:
        stages[hop["node"], hop["first_layer"], hop["layers"]].append(float(hop["compute_s"]))
    layers = np.array([key[2] for key in stages], float)
    seconds = np.array([statistics.median(each) for each in stages.values()])
    layer_s, stage_s = (
        np.polyfit(layers, seconds, 1) if len(set(layers)) > 1 else (seconds.mean() / layers.mean(), 0.0)
    )
    if stage_s < 0:  # unlike nodes: the sum of all comes out as it was
        layer_s, stage_s = seconds.sum() / layers.sum(), 0.0
    own = run.tokens[run.follows]
    hops = decoding[decoding["received_bytes"] > 0]
    network_hops = len(hops) / len(own)
    number = np.concatenate([np.arange(int((hops["step"] == step).sum())) for step in own["step"]])
    run_bytes, first_bytes = np.polyfit(number, hops["received_bytes"], 1)
    body = body_bytes(run, prompt, float(first_bytes), float(run_bytes))
    rest_s = float(np.median(own["total_s"])) - float(np.median(own["head_s"])) - float(seconds.sum())
    rows = prompt[prompt["rows"] > 1]
    row_s = [
        (hop["compute_s"] - stage_s - hop["layers"] * layer_s) / (hop["layers"] * (hop["rows"] - 1))
        for hop in rows
    ]
    return Costs(
        int(layers.sum()), float(layer_s), stage_s,
        max(0.0, float(np.median(row_s))) if row_s else float(layer_s),
        float(np.median(own["head_s"])), rest_s / network_hops, body, float(first_bytes) - body,
        float(run_bytes),
    )  # fmt: skip


def body_bytes(run: Run, prompt: np.ndarray, first_bytes: float, run_bytes: float) -> float:
    """Return a row's bytes: the difference between a prompt's message and a token's, per row."""
    sent = prompt[(prompt["received_bytes"] > 0) & (prompt["rows"] > 1)]
    if not len(sent):
        return first_bytes
    return float(max(0.0, np.median((sent["received_bytes"] - first_bytes - run_bytes) / (sent["rows"] - 1))))


def assumed(model: str, machine: str) -> Costs:
    shape, (read_gb_s, gflop_s) = MODELS[model], MACHINES[machine]
    return Costs(
        shape.layers, shape.layer_bytes / read_gb_s / 1e9, 0.3e-3, shape.layer_bytes / gflop_s / 1e9,
        shape.head_bytes / read_gb_s / 1e9, HOP_S[machine], 2.0 * shape.width, 200.0, 42.0,
    )  # fmt: skip


def with_slow(costs: Costs, nodes: int, slow: int, times: float) -> Costs:
    return replace(costs, slower=tuple(times if node == slow else 1.0 for node in range(nodes)))
