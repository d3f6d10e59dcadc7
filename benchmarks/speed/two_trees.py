"""python -m benchmarks.speed.two_trees OTHER_TREE [--ranks 9] [--rounds 6]:
this code's times and bytes beside another's.

OTHER_TREE is a checkout (git worktree add OTHER_TREE COMMIT). Runs of the two alternate: a prompt of some 350
tokens and 150 tokens of answer, no fault. A ratio is taken within a round, medians over rounds. The last line
is JSON.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import ROOT
from benchmarks.arguments import parser
from benchmarks.chain import command
from jarvis_mpi.record import hdf5

TOKENS = 150
PROMPT = 16 * "Tell me the story of a raindrop, from the cloud to the sea, and name every river on its way. "


class Figures(NamedTuple):
    """Of one run."""

    token_s: float  # median of those that follow the first
    prompt_s: float  # until the first token
    start_s: float  # of all else: the start and the end
    token_bytes: float  # that came in at all stages, a token


def run(tree: Path, ranks: int) -> Figures:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "run.h5"
        words = ("--prompt", PROMPT, "--max-new-tokens", str(TOKENS), "--ignore-eos")
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        begun = time.perf_counter()
        subprocess.run(
            command(ranks, log, *words, limit_s=180),
            cwd=tree,
            env=environment,
            check=True,
            capture_output=True,
        )
        took_s = time.perf_counter() - begun
        with hdf5.read(log) as record:  # of any code's schema
            tokens, hops = record["tokens"][:], record["hops"][:]
    decoding = hops[hops["step"] > 0]
    return Figures(
        float(statistics.median(tokens["total_s"][1:])),
        float(tokens["total_s"][0]),
        took_s - float(tokens["total_s"].sum()),
        decoding["received_bytes"].sum() / (len(tokens) - 1),
    )


def main() -> None:
    made = parser(__doc__)
    made.add_argument("other", type=Path)
    made.add_argument("--ranks", type=int, default=9)
    made.add_argument("--rounds", type=int, default=6)
    words = made.parse_args()
    rounds = []
    for number in range(words.rounds):
        trees = [ROOT, words.other.resolve()]
        ran = {tree: run(tree, words.ranks) for tree in (trees if number % 2 else trees[::-1])}
        here, other = ran[trees[0]], ran[trees[1]]
        rounds.append({"here": here._asdict(), "other": other._asdict()})
        print(f"round {number + 1}: {described(here)}; the other {described(other)}", flush=True)
    ratios = {
        name: statistics.median(each["here"][name] / each["other"][name] for each in rounds)
        for name in Figures._fields
    }
    of_each = ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items())
    print(f"{words.ranks} ranks, this code's figures over the other's: {of_each}")
    print(json.dumps({"ranks": words.ranks, "ratios": ratios, "rounds": rounds}))


def described(figures: Figures) -> str:
    return (
        f"{1e3 * figures.token_s:.2f} ms a token, {figures.prompt_s:.2f} s of prompt, "
        f"{figures.start_s:.2f} s of start and end, {figures.token_bytes:.0f} bytes a token"
    )


if __name__ == "__main__":
    main()
