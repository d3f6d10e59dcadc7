"""python -m benchmarks.speed.two_trees OTHER_TREE [--ranks 9] [--rounds 6]: this code's time and bytes a token beside another's.

OTHER_TREE is a checkout (git worktree add OTHER_TREE COMMIT). Runs of the two alternate; a ratio is taken within a
round, medians over rounds. The default prompt's first 150 tokens, no fault. The last line is JSON.
"""

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser
from benchmarks.chain import command
from jarvis_mpi.record import hdf5

TOKENS = 150
PROMPT = "Tell me the story of a raindrop, from the cloud to the sea, and name every river on its way."


def run(tree: Path, ranks: int) -> tuple[float, float]:
    """-> seconds a token (median), bytes a token that came in at all stages."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "run.h5"
        words = ("--prompt", PROMPT, "--max-new-tokens", str(TOKENS))
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run(
            command(ranks, log, *words, limit_s=180),
            cwd=tree,
            env=environment,
            check=True,
            capture_output=True,
        )
        with hdf5.read(log) as record:  # of any code's schema
            tokens, hops = record["tokens"][1:], record["hops"][:]
        decoding = hops[hops["step"] > 0]
        return float(statistics.median(tokens["total_s"])), decoding["received_bytes"].sum() / len(tokens)


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
        (here_s, here_bytes), (other_s, other_bytes) = ran[trees[0]], ran[trees[1]]
        rounds.append(
            {"here_s": here_s, "other_s": other_s, "here_bytes": here_bytes, "other_bytes": other_bytes}
        )
        print(
            f"round {number + 1}: {1e3 * here_s:.2f} ms a token, the other {1e3 * other_s:.2f} ms: {here_s / other_s:.3f};"
            f" {here_bytes:.0f} and {other_bytes:.0f} bytes",
            flush=True,
        )
    ratio = statistics.median(each["here_s"] / each["other_s"] for each in rounds)
    print(f"{words.ranks} ranks: {ratio:.3f} of the other's time a token")
    print(json.dumps({"ranks": words.ranks, "ratio": ratio, "rounds": rounds}))


if __name__ == "__main__":
    main()
