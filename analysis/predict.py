"""Predicts tokens/s before there is a testbed: from one run's measured times, for other splits, node counts,
links and failures.

    python analysis/predict.py RUN.h5 --nodes 9,64 --delay-ms 5 --kbit-s 20000
    python analysis/predict.py RUN.h5 --split 2,2,2,2,2,2,2,2 --failures-per-hour 1 --tokens 500
    python analysis/predict.py --model gemma-2b,gemma-7b --machine pi4,pi5,srn --nodes 9  (no run: ASSUMED)

A discrete-event model: stages and links are each busy with one message at a time; splits, copies, routes and
the cutting of a prompt are the program's own pure modules (protocol/placement.py, protocol/cluster.py,
request.pieces). What it takes from the run: seconds a layer and a stage for one row and for each further row,
the head's, bytes a message, and what a hop costs beyond them (sending, waking, Python), all of them medians.
Assumed: links that carry one message after the other at their rate, node failures that MPI tells of
(Poisson), a run of its own per node.
"""

import argparse
import itertools
import math
import random
import statistics

import script
from costs import MACHINES, MODELS, Costs, assumed, costs_of
from prediction import SLOWEST, Network, predicted
from rich.table import Table
from table import console

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.settings import flag, refuse_beyond
from jarvis_mpi.net.hostfile import MOST_RANKS
from jarvis_mpi.record.reader import load

DRAWS = 20  # runs with failures, whose median is printed
LISTS = {"nodes": (2, MOST_RANKS), "delay_ms": (0, 1e8), "kbit_s": (1e-3, 1e12)}
LIMITS = {
    "copies": (0, None), "prompt_rows": (1, 10**6), "tokens": (2, 10**6), "failures_per_hour": (0, 1e6),
}  # fmt: skip


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
                outcome = tell(costs, int(nodes), Network(delay_ms / 1e3, kbit_s), words)
            except Unservable as error:
                script.left_out(f"--nodes {nodes:g}: {error}")
                continue
            rows.append((name, int(nodes), delay_ms, kbit_s, *outcome))
    if not rows:
        raise Unservable("nothing is left to predict: mend what is named above")
    show(rows, known)


def show(rows: list[tuple], known: dict[str, Costs]) -> None:
    """Print the predictions as a table, and the costs that they were made from."""
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
            f"{name}: {costs.layers} layers of {1e3 * costs.layer_s:.2f} ms, {1e3 * costs.row_s:.2f} ms "
            f"each further row; {1e3 * costs.stage_s:.2f} ms a stage, {1e3 * costs.hop_s:.2f} ms a hop, "
            f"{1e3 * costs.head_s:.1f} ms the head; {costs.body_bytes:.0f} bytes a row, "
            f"{costs.header_bytes:.0f} a message", markup=False,
        )  # fmt: skip


def costs_asked(words: argparse.Namespace) -> dict[str, Costs]:
    """Return name -> costs, as asked for. Raises Unservable."""
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
    """Return the usable numbers of a list; name the others."""
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
        predicted(costs, network, nodes, split=words.split, end_user_layers=words.end_user_layers,
                  copies=words.copies,
                  prompt_rows=words.prompt_rows, tokens=words.tokens,
                  failures_per_hour=words.failures_per_hour, dice=random.Random(seed))
        for seed in range(draws)
    ]  # fmt: skip
    whole = sum(not ended for _, _, ended in runs)
    return (
        statistics.median(run[0] for run in runs),
        statistics.median(run[1] for run in runs),
        f"{whole} of {draws}",
    )


if __name__ == "__main__":
    script.run(main)
