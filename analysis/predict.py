"""Tokens/s before there is a testbed: from one run's measured times, for other splits, node counts, links and failures.

    python analysis/predict.py RUN.h5 --nodes 9,64 --delay-ms 5 --kbit-s 20000
    python analysis/predict.py RUN.h5 --split 2,2,2,2,2,2,2,2 --failures-per-hour 1 --tokens 500
    python analysis/predict.py --model gemma-2b,gemma-7b --machine pi4,pi5,srn --nodes 9      (no run: see ASSUMED)

A discrete-event model: stages and links are each busy with one message at a time; splits, copies, routes and the cutting of
a prompt are the program's own pure modules (protocol/placement.py, protocol/cluster.py, enduser.pieces). What it takes from the run: seconds
a layer and a stage for one row and for each further row, the head's, bytes a message, and what a hop costs beyond them
(sending, waking, Python), all of them medians. Assumed: links that carry one message after the other at their rate, node
failures that MPI tells of (Poisson), a run of its own per node.
"""

import argparse
import heapq
import itertools
import math
import random
import statistics
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import script
from load import Run, Unreadable, load
from rich.table import Table
from table import console

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.layers import END_USER
from jarvis_mpi.common.settings import flag, refuse_beyond
from jarvis_mpi.net.hostfile import MOST_RANKS
from jarvis_mpi.protocol import placement as blocks
from jarvis_mpi.protocol.cluster import Crew, Hop, Policy
from jarvis_mpi.protocol.node_state import Sign
from jarvis_mpi.protocol.request import pieces

DRAWS = 20  # runs with failures, of which the median is told
SLOWEST = 1e9
LISTS = {"nodes": (2, MOST_RANKS), "delay_ms": (0, 1e8), "kbit_s": (1e-3, 1e12)}
LIMITS = {
    "copies": (0, None), "prompt_rows": (1, 10**6), "tokens": (2, 10**6), "failures_per_hour": (0, 1e6),
}  # fmt: skip
WINDOW_BYTES, EAGER_BYTES = 14600, 65536


class Machine(NamedTuple):
    """What a node reads from its memory, and multiplies; measure yours with benchmarks/decode.py."""

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
    told_bytes: float  # of a message beside its rows, at the first hop
    run_bytes: float  # and more at each hop, for it tells what was run
    slower: tuple[float, ...] = ()  # node k's factor; 1 where it is not said


@dataclass(frozen=True)
class Network:
    delay_s: float = 0.0  # one way, beyond that of the run
    kbit_s: float = SLOWEST
    burst_bytes: int = (
        0  # that pass at once if the link was idle (Linux' tbf: tests/hosts/hosts.py says 16 KiB)
    )


def costs_of(run: Run) -> Costs:
    """Medians of a run without faults. Raises Unreadable where there were some."""
    if run.faults or len(run.starts) > 1:
        raise Unreadable(f"{run.path} is of a run with faults: the predictor learns from one without")
    if not run.follows.any():
        raise Unreadable(f"{run.path} holds less than two tokens of an answer: nothing can be learnt from it")
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
    stage_s = max(0.0, stage_s)
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
        int(layers.sum()), float(layer_s), stage_s, max(0.0, float(np.median(row_s))) if row_s else float(layer_s),
        float(np.median(own["head_s"])), rest_s / network_hops, body, float(first_bytes) - body, float(run_bytes),
    )  # fmt: skip


def body_bytes(run: Run, prompt: np.ndarray, first_bytes: float, run_bytes: float) -> float:
    """Of a row: what a prompt's message has more than a token's."""
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


def more_trips(size: float) -> int:
    """Round trips until TCP has sent it all, beyond the one way: it begins with a window of ten segments and doubles
    that (RFC 6928); and a message too large for Open MPI's eager limit asks first."""
    return (
        math.ceil(math.log2(size / WINDOW_BYTES + 1)) - 1 + (size > EAGER_BYTES) if size > WINDOW_BYTES else 0
    )


class Chain:
    """Stages and links, each busy until some moment."""

    def __init__(self, costs: Costs, network: Network, crew: Crew):
        self.costs, self.network, self.crew = costs, network, crew
        self.free_at: dict[int, float] = {}
        self.link_free_at: dict[int, float] = {}

    def work_s(self, hop: Hop, rows: int) -> float:
        costs, factor = self.costs, 1.0
        if hop.node < len(costs.slower):
            factor = costs.slower[hop.node]
        return factor * (costs.stage_s + len(hop.block) * (costs.layer_s + (rows - 1) * costs.row_s))

    def carry(self, node: int, at: float, rows: int, number: int) -> float:
        """When a message that leaves `node` at `at` is at the next."""
        costs, network = self.costs, self.network
        size = costs.told_bytes + number * costs.run_bytes + rows * costs.body_bytes
        byte_s = 8e-3 / network.kbit_s
        # As a token bucket has it: its bytes come back at the link's rate.
        empty_until = max(self.link_free_at.get(node, 0.0), at - network.burst_bytes * byte_s)
        self.link_free_at[node] = empty_until + size * byte_s
        return max(at, self.link_free_at[node]) + (1 + 2 * more_trips(size)) * network.delay_s + costs.hop_s

    def step(self, at: float, sizes: list[int]) -> float:
        """When the token is chosen whose rows leave in pieces of `sizes` from `at` on."""
        route, home = self.crew.route(), at
        arrivals = []  # when, which piece, how many hops are behind it
        for piece, rows in enumerate(sizes):
            is_here = route[0].node == END_USER
            arrivals.append((at if is_here else self.carry(END_USER, at, rows, 0), piece, 0))
        while arrivals:
            now, piece, done = heapq.heappop(arrivals)
            if done == len(route):
                home = max(home, now)
                continue
            node, rows = route[done].node, sizes[piece]
            now = self.free_at[node] = max(now, self.free_at.get(node, 0.0)) + self.work_s(route[done], rows)
            goes_to = route[done + 1].node if done + 1 < len(route) else END_USER
            if goes_to != node:
                number = sum(a.node != b.node for a, b in itertools.pairwise(route[: done + 1]))
                now = self.carry(node, now, rows if done + 1 < len(route) else 1, number)
            heapq.heappush(arrivals, (now, piece, done + 1))
        return home + self.costs.head_s


def predicted(
    costs: Costs,
    network: Network,
    nodes: int,
    *,
    split: str = "even",
    end_user_layers: str = "first,last",
    copies: int = 1,
    prompt_rows: int = 36,
    tokens: int = 200,
    failures_per_hour: float = 0.0,
    noticed_s: float = 0.05,
    dice: random.Random | None = None,
) -> tuple[float, float, str]:
    """-> seconds to the first token, tokens/s of the others, and how it ended ('' : whole). Raises Unservable."""
    placement = blocks.place(costs.layers, nodes - 1, split=split, end_user_layers=end_user_layers)
    crew = Crew(placement, blocks.copies(placement, copies), Policy(("copy", "skip"), costs.layers // 3, frozenset(), copies),
                dict.fromkeys(placement, 1e6))  # fmt: skip
    chain = Chain(costs, network, crew)
    first_s = now = chain.step(0.0, pieces(prompt_rows, 256, nodes - 1))
    dice = dice or random.Random(0)
    deaths = [] if not failures_per_hour else [
        (dice.expovariate(failures_per_hour / 3600), node) for node in range(1, nodes)
    ]  # fmt: skip
    for number in range(tokens - 1):
        died = [node for at, node in deaths if at <= now]
        deaths = [(at, node) for at, node in deaths if at > now]
        for node in died:
            before = chain.crew.route()
            chain.crew = chain.crew.after(node, Sign.LOST)
            try:
                after = chain.crew.route()
            except Unservable as error:
                return first_s, (number + 1) / (now - first_s) if now > first_s else 0.0, str(error)
            taken_over = [hop for hop in after if hop not in before]
            now += noticed_s + sum(chain.work_s(hop, prompt_rows + number) for hop in taken_over)
            for wanted in chain.crew.wanted():
                chain.crew = chain.crew.with_copy(*wanted)
        now = chain.step(now, [1])
    return first_s, (tokens - 1) / (now - first_s), ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", nargs="?", metavar="RUN.h5", help="a run without faults")
    parser.add_argument("--model", default="gemma-2b", help=f"without a run: {', '.join(MODELS)}")
    parser.add_argument("--machine", default="pi4,pi5,srn", help=f"without a run: {', '.join(MACHINES)}")
    parser.add_argument("--nodes", default="9", help="the end user counts too: 9,64,1000")
    parser.add_argument("--split", default="even")
    parser.add_argument("--end-user-layers", default="first,last")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--delay-ms", default="0", help="of a hop, one way, beyond the run's own: 1,10")
    parser.add_argument("--kbit-s", default=f"{SLOWEST:.0f}", help="of each node's link: 1000,20000")
    parser.add_argument("--prompt-rows", type=int, default=36)
    parser.add_argument("--tokens", type=int, default=200, help="of an answer, at least 2")
    parser.add_argument("--failures-per-hour", type=float, default=0.0, help="of each worker")
    words = parser.parse_args()
    refuse_beyond(words, LIMITS)
    known, rows = costs_asked(words), []
    for name, costs in known.items():
        for nodes, delay_ms, kbit_s in itertools.product(*(members(words, option) for option in LISTS)):
            try:
                told = tell(costs, int(nodes), Network(delay_ms / 1e3, kbit_s), words)
            except Unservable as error:
                script.left_out(f"--nodes {nodes:g}: {error}")
                continue
            rows.append((name, int(nodes), delay_ms, kbit_s, *told))
    if not rows:
        raise Unservable("nothing is left to predict: mend what is named above")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("of", "nodes", "delay ms", "kbit/s", "first token s", "tokens/s", "whole"):
        table.add_column(column, justify="left" if column == "of" else "right")
    for row in rows:
        table.add_row(
            row[0],
            str(row[1]),
            f"{row[2]:g}",
            "-" if row[3] >= SLOWEST else f"{row[3]:g}",
            f"{row[4]:.3g}",
            f"{row[5]:.3g}",
            row[6],
        )
    terminal = console(160)
    terminal.print(table)
    for name, costs in known.items():
        terminal.print(
            f"{name}: {costs.layers} layers of {1e3 * costs.layer_s:.2f} ms, {1e3 * costs.row_s:.2f} ms each further row; "
            f"{1e3 * costs.stage_s:.2f} ms a stage, {1e3 * costs.hop_s:.2f} ms a hop, {1e3 * costs.head_s:.1f} ms the head; "
            f"{costs.body_bytes:.0f} bytes a row, {costs.told_bytes:.0f} a message", markup=False,
        )  # fmt: skip


def costs_asked(words: argparse.Namespace) -> dict[str, Costs]:
    """By their names. Raises Unservable."""
    if words.record:
        return {words.record: costs_of(load(words.record))}
    asked = {}
    for option, known in (("model", MODELS), ("machine", MACHINES)):
        asked[option] = getattr(words, option).split(",")
        for word in set(asked[option]) - set(known):
            script.left_out(f"--{option} {word} is not known: {', '.join(known)} are")
    return {
        f"{model} on {machine}": assumed(model, machine)
        for model in asked["model"]
        for machine in asked["machine"]
        if model in MODELS and machine in MACHINES
    }


def members(words: argparse.Namespace, option: str) -> list[float]:
    """Those numbers of a list that can be used."""
    (low, high), found = LISTS[option], []
    for word in getattr(words, option).split(","):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if low <= value <= high and (option != "nodes" or value == int(value)):
            found.append(value)
        else:
            script.left_out(
                f"{flag(option)} {word[:60]} is left out: it must be between {low:g} and {high:g}"
            )
    return found


def tell(costs: Costs, nodes: int, network: Network, words: argparse.Namespace) -> tuple[float, float, str]:
    draws = DRAWS if words.failures_per_hour else 1
    runs = [
        predicted(costs, network, nodes, split=words.split, end_user_layers=words.end_user_layers, copies=words.copies,
                  prompt_rows=words.prompt_rows, tokens=words.tokens, failures_per_hour=words.failures_per_hour, dice=random.Random(seed))
        for seed in range(draws)
    ]  # fmt: skip
    whole = sum(not ended for _, _, ended in runs)
    return (
        statistics.median(run[0] for run in runs),
        statistics.median(run[1] for run in runs),
        f"{whole} of {draws}",
    )


def with_slow(costs: Costs, nodes: int, slow: int, times: float) -> Costs:
    return replace(costs, slower=tuple(times if node == slow else 1.0 for node in range(nodes)))


if __name__ == "__main__":
    script.run(main)
