"""Two of eight nodes die at token 8, without copies: python -m benchmarks.quality.patched_texts PATCHES
[--model M] [--kill 2,5]

The same prompts, greedy, float32: with no death, with --patches, and skipped; and what a token of each hop
cost, out of the records.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser
from benchmarks.chain import command
from jarvis_mpi.record.reader import load

PROMPTS = ("Why is the sky blue?", "Name three animals that live in the sea, and say what each of them eats.")
RANKS = 9


def main() -> int:
    made = parser(__doc__)
    made.add_argument("patches", type=Path)
    made.add_argument("--model", default="smollm2-135m-instruct")
    made.add_argument("--kill", default="2,5")
    made.add_argument("--tokens", type=int, default=48)
    asked = made.parse_args()
    fault = "; ".join(f"kill {node} @ 8" for node in asked.kill.split(","))
    ways = {
        "whole": (),
        "patched": ("--patches", str(asked.patches), "--fault", fault),
        "skipped": ("--fault", fault),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for number, prompt in enumerate(PROMPTS):
            for way, more in ways.items():
                log = Path(scratch) / f"{way}-{number}.h5"
                words = ("--model", asked.model, "--dtype", "float32", "--copies", "0", "--prompt", prompt)
                done = subprocess.run(
                    command(RANKS, log, *words, "--max-new-tokens", str(asked.tokens), *more),
                    capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
                )  # fmt: skip
                if done.returncode:
                    raise SystemExit(done.stderr)
                print(f"\n{prompt} | {way}\n    {' '.join(done.stdout.split())}", flush=True)
                for line in done.stderr.splitlines():
                    if " lost at step" in line:
                        print(f"    ({line})")
                hops = load(log).hops
                one = hops[hops["rows"] == 1]
                if way == "patched":
                    each = [1e3 * statistics.median(one["compute_s"][one["patch"] == put]) for put in (0, 1)]
                    print(
                        f"    a token: {each[0]:.2f} ms in a block's layers, "
                        f"{each[1]:.2f} ms in a patch (medians)"
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
