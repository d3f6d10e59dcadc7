"""python -m benchmarks.speed.streams [--streams 1 2 4 8 16] [--ranks 9] [--stage-s 0.04] [--weights auto]
...: answers in flight.

Prompts over a chain whose workers are paced: each stage takes so long for a token, as a slow machine's would.
Tokens/s of all answers together while all of them are in flight, against one; and how long a newcomer waits
for its first token. JSON in the last line.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks import shapes
from benchmarks.arguments import parser
from benchmarks.chain import command, options, prompts_words
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.run import Run

WORDS = [
    "river",
    "cloud",
    "radio",
    "stone",
    "garden",
    "winter",
    "market",
    "engine",
    "letter",
    "forest",
    "copper",
    "island",
    "bridge",
    "harvest",
    "mirror",
]


def run(streams: int, asked: argparse.Namespace) -> Run:
    with tempfile.TemporaryDirectory() as scratch:
        prompts, log = Path(scratch) / "prompts.txt", Path(scratch) / "run.h5"
        lines = [
            f"Write about a {WORDS[n % len(WORDS)]} and a {WORDS[(3 * n + 1) % len(WORDS)]}."
            for n in range(2 * streams)
        ]
        prompts.write_text("\n".join(lines))
        words = prompts_words(asked, shapes.locate(asked.model), prompts, streams)
        words += ["--ignore-eos", "--split", asked.split, "--pace-s", str(asked.stage_s / asked.layers)]
        done = subprocess.run(
            command(asked.ranks, log, *words), capture_output=True, timeout=580, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return load(log)


def figures(record: Run) -> dict:
    """While as many are in flight as may be: from the last first token of the first ones to the first end of
    all."""
    at = record.tokens["at_s"]
    firsts = [at[record.tokens["sequence"] == question.sequence] for question in record.questions]
    streams = max(1, len(firsts) // 2)
    begin, end = max(each[0] for each in firsts[:streams]), min(each[-1] for each in firsts[:streams])
    inside = (at > begin) & (at <= end)
    waits = [
        float(record.tokens["total_s"][record.tokens["sequence"] == question.sequence][0])
        for question in record.questions
    ]
    return {
        "tokens_s": float(inside.sum() / (end - begin)),
        "first_s": statistics.median(waits[:streams]),
        "newcomer_s": statistics.median(waits[streams:]),
    }


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    made.add_argument("--ranks", type=int, default=9)
    options(made, shapes.SMOLLM2_18, tokens=40)
    made.add_argument("--split", default="even", help="layers of each worker")
    made.add_argument("--layers", type=int, default=2, help="of the largest stage, which takes --stage-s")
    made.add_argument("--stage-s", type=float, default=0.04)
    asked = made.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    results = {}
    print(f"{'streams':>8} {'tokens/s':>9} {'times one':>9} {'first s':>8} {'newcomer s':>10}")
    for streams in asked.streams:
        results[streams] = one = figures(run(streams, asked))
        times = one["tokens_s"] / results[asked.streams[0]]["tokens_s"]
        print(
            f"{streams:8} {one['tokens_s']:9.2f} {times:9.2f} {one['first_s']:8.2f} "
            f"{one['newcomer_s']:10.2f}",
            flush=True,
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
