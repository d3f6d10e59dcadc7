"""Predicts how long a skip study takes: the arithmetic of python -m jarvis_mpi study.

    python analysis/study_time.py                                   the README's table
    python analysis/study_time.py --model gemma-2b --machine pi5 --ranks 9 --cases singles,pairs --tokens 2000
    python analysis/study_time.py --questions 14042 --question-tokens 110 --cases singles,blocks-3 --tokens 0

A layer pass costs 2 x its parameters in operations a token, a score 2 x vocabulary x width a token that is
predicted (of a lettered question: one). Passes are counted with shared states
(jarvis_mpi/study/skip_cases.py). Attention's own products are left out: under 512 tokens they are a few
percent. Every rank holds the whole model, so it must fit a machine's memory. What a machine multiplies is
assumed (costs.py) or given by --gflop-s: for yours, time a small study.
"""

import argparse
from typing import NamedTuple

import script
from costs import MACHINES, MODELS
from rich.table import Table
from table import console

from jarvis_mpi.common.settings import refuse_beyond
from jarvis_mpi.study import skip_cases

MEMORY_GB = {"pi4": 8.0, "pi5": 16.0, "srn": 120.0, "workstation": 64.0}
GFLOP_S = {name: machine.gflop_s for name, machine in MACHINES.items()} | {"workstation": 1000.0}
RANKS = {"pi4": 9, "pi5": 9, "srn": 9, "workstation": 1}
LIMITS = {
    "ranks": (1, None), "gflop_s": (1e-3, None), "tokens": (0, None), "questions": (0, None),
    "question_tokens": (1, None),
}  # fmt: skip
BYTES = 2  # a weight, in the model's files
SPARE_GB = 1.5  # the system, Python and torch


class Cost(NamedTuple):
    cases: int
    passes: int  # layer passes a text
    alone: int  # without sharing
    operations: float


def cost(model: str, cases: str, tokens: int, questions: int, question_tokens: int) -> Cost:
    shape = MODELS[model]
    named = skip_cases.named(cases, shape.layers)
    passes, alone = skip_cases.passes(named, shape.layers)
    layer, head = shape.layer_bytes / BYTES, shape.head_bytes / BYTES
    run = tokens + questions * question_tokens
    scored = tokens + questions  # one row predicts a question's four letters
    return Cost(len(named), passes, alone, 2.0 * (passes * layer * run + len(named) * head * scored))


def hours(cost: Cost, gflop_s: float, ranks: int) -> float:
    return cost.operations / (1e9 * gflop_s * ranks) / 3600


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gemma-2b,gemma-7b", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--machine", default=",".join(GFLOP_S), help=f"of {', '.join(GFLOP_S)}")
    parser.add_argument(
        "--ranks", type=int, help="machines that work on it; by default nine, or one workstation"
    )
    parser.add_argument("--gflop-s", type=float, help="what one rank multiplies, measured")
    parser.add_argument("--cases", default="singles,pairs,blocks-8")
    parser.add_argument("--tokens", type=int, default=2000, help="of a text to predict")
    parser.add_argument("--questions", type=int, default=0)
    parser.add_argument(
        "--question-tokens", type=int, default=110, help="MMLU: about 110 without examples, 650 with five"
    )
    asked = parser.parse_args()
    refuse_beyond(asked, LIMITS)
    for name, known in (("model", MODELS), ("machine", GFLOP_S)):
        if unknown := set(getattr(asked, name).split(",")) - set(known):
            parser.error(f"--{name} {', '.join(sorted(unknown))} is not known: {', '.join(known)} are")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "model",
        "machine",
        "ranks",
        "GFLOP/s",
        "cases",
        "passes",
        "without sharing",
        "10^15 operations",
        "time",
    ):
        table.add_column(column, justify="left" if column in ("model", "machine") else "right")
    for model in asked.model.split(","):
        shape = MODELS[model]
        whole = cost(model, asked.cases, asked.tokens, asked.questions, asked.question_tokens)
        size_gb = (shape.layers * shape.layer_bytes + shape.head_bytes) / 1e9 + SPARE_GB
        for machine in asked.machine.split(","):
            gflop_s, ranks = asked.gflop_s or GFLOP_S[machine], asked.ranks or RANKS[machine]
            fits = size_gb <= MEMORY_GB[machine]
            time = (
                f"{hours(whole, gflop_s, ranks):.1f} h"
                if fits
                else f"does not fit: {size_gb:.1f} of {MEMORY_GB[machine]:g} GB"
            )
            table.add_row(
                model, machine, str(ranks), f"{gflop_s:g}", str(whole.cases), str(whole.passes),
                str(whole.alone),
                f"{whole.operations / 1e15:.1f}", time,
            )  # fmt: skip
    console(160).print(table)


if __name__ == "__main__":
    script.run(main)
