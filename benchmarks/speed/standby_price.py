"""python -m benchmarks.speed.standby_price [--rounds 10] [--ranks 6] [--tokens 192]:
what a standby end user costs while nobody dies.

Each round runs the same answer without and with a standby, in turns, and the ratios are taken within a round.
Bytes a token are those of the notes that pass for it, as the wire has them. The last line is JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import shapes
from benchmarks.arguments import parser
from benchmarks.chain import command
from benchmarks.speed.decode import PROMPT
from jarvis_mpi.protocol.notes import Acknowledged, Entries
from jarvis_mpi.record.reader import load

MB = 1e6


def one(standby: int, ranks: int, tokens: int, words: list[str]) -> dict[str, float]:
    """One run. -> tokens/s, seconds to the first token after the prompt was asked, and to the first byte."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "run.h5"
        words = [*words, "--standby", str(standby), "--max-new-tokens", str(tokens), "--ignore-eos"]
        begun = time.perf_counter()
        with subprocess.Popen(
            command(ranks, log, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as run:
            run.stdout.read(1)
            first_byte_s = time.perf_counter() - begun
            _, errors = run.communicate()
        assert run.returncode == 0, errors.decode()
        record = load(log)
    later = record.tokens["total_s"][2:]
    peaks = {int(node): peak for node, peak in record.events[-1].payload["peak_bytes"].items()}
    return {
        "tokens/s": len(later) / float(later.sum()),
        "median ms": 1e3 * statistics.median(later),
        "prompt s": float(record.tokens["total_s"][0]),
        "first byte s": first_byte_s,
        "largest worker MB": max(peak for node, peak in peaks.items() if node) / MB,
    }


def bytes_a_token() -> int:
    """The notes of one token: to the standby, and its acknowledgement."""
    there = Entries(1000, [["token", 3, 1000, 1000, 30000]])
    return len(there.pack()) + len(Acknowledged(3, 1000).pack())


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=10)
    made.add_argument("--ranks", type=int, default=6)
    made.add_argument("--tokens", type=int, default=192)
    made.add_argument("--model", default=shapes.SMOLLM2)
    asked = made.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    words = ["--model", str(shapes.locate(asked.model)), "--threads", "1", "--prompt", PROMPT]
    rounds = []
    for number in range(asked.rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        seen = {standby: one(standby, asked.ranks, asked.tokens, words) for standby in order}
        rounds.append({name: [seen[0][name], seen[1][name]] for name in seen[0]})
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
    print(
        "figure | without | with a standby | ratio, median of the rounds' | quartiles\n|---|---|---|---|---|"
    )
    for name in rounds[0]:
        without, beside = zip(*(each[name] for each in rounds), strict=True)
        ratios = [b / a for a, b in zip(without, beside, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"| {name} | {statistics.median(without):.2f} | {statistics.median(beside):.2f} | {middle:.3f} | "
            f"{low:.3f} to {high:.3f} |"
        )
    print(f"bytes a token: {bytes_a_token()}")
    print(json.dumps({"bytes_a_token": bytes_a_token(), "rounds": rounds}))


if __name__ == "__main__":
    main()
