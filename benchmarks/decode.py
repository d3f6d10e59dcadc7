"""python benchmarks/decode.py [--rounds 5] [--models ...] [--dtype ...] [--weights ...]: a chain beside transformers.generate.

Decode and prefill tokens/s of one process and of 2 and 9 ranks with each kind of weights, one compute thread everywhere. Each round
runs all of them one after the other, and the ratios are taken within a round: this machine's speed drifts.
The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import shapes
from chain import command

from jarvis_mpi.load import load

PROMPT = (
    "Tell me, in order, what happens to a raindrop from the cloud to the sea, and name every river it could take. "
    * 6
)
TOKENS = {shapes.SMOLLM2: 64, shapes.GEMMA_2B: 12}


def one_process(folder: Path, dtype: str, tokens: int) -> dict:
    script = Path(__file__).with_name("one_process.py")
    words = [sys.executable, str(script), str(folder), dtype, str(tokens), PROMPT]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    return {"decode": 1 / statistics.median(seen["steps_s"]), "prefill": seen["rows"] / seen["first_s"]}


def chain(ranks: int, weights: str, folder: Path, dtype: str, tokens: int) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "run.h5"
        words = ("--model", str(folder), "--dtype", dtype, "--threads", "1", "--prompt", PROMPT)
        words = command(ranks, log, *words, "--weights", weights, "--max-new-tokens", str(tokens))
        begun = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            run.stdout.read(1)
            first_byte_s = time.perf_counter() - begun
            _, errors = run.communicate()
        assert run.returncode == 0, errors.decode()
        record = load(log)
        rows, hops, start = record.tokens, record.hops, record.start
    later = rows[2:]
    compute, hop_s = [], []
    for row in later:
        mine = hops[hops["step"] == row["step"]]
        compute.append(mine["compute_s"].sum())
        home = mine[(mine["node"] == 0) & (mine["received_bytes"] > 0)]  # what the end user waited for
        hop_s.append((home["wait_s"].sum() - mine["compute_s"][mine["node"] > 0].sum()) / ranks)
    return {
        "decode": 1 / statistics.median(later["total_s"]),
        "prefill": rows["position"][0] / rows["total_s"][0],
        "hop_us": 1e6 * statistics.median(hop_s),
        "layers_ms": 1e3 * statistics.median(compute),
        "head_ms": 1e3 * statistics.median(later["head_s"]),
        "first_byte_s": first_byte_s,
        **start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 9])
    parser.add_argument("--models", nargs="+", default=list(TOKENS))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--weights", nargs="+", default=["auto", "int8"])
    settings = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    results = {}
    for model in settings.models:
        folder = shapes.locate(model)
        rounds = []
        for number in range(settings.rounds):
            one = one_process(folder, settings.dtype, TOKENS.get(model, 64))
            chains = {
                f"{n} ranks, {weights}": chain(n, weights, folder, settings.dtype, TOKENS.get(model, 64))
                for n in settings.ranks
                for weights in settings.weights
            }
            rounds.append((one, chains))
            line = ", ".join(f"{n}: {c['decode']:.2f} / {c['prefill']:.1f}" for n, c in chains.items())
            print(
                f"{model} round {number + 1}: decode / prefill tokens/s: generate {one['decode']:.2f} / {one['prefill']:.1f}, {line}",
                flush=True,
            )
        summary = {}
        for n in rounds[0][1]:
            each = {key: statistics.median(c[n][key] for _, c in rounds) for key in rounds[0][1][n]}
            for kind in ("decode", "prefill"):
                each[f"{kind}_ratio"] = statistics.median(c[n][kind] / one[kind] for one, c in rounds)
            summary[n] = each
            print(f"{model}, {n}: decode {each['decode']:.2f} tokens/s, {each['decode_ratio']:.2f} of generate;"
                  f" prefill {each['prefill']:.1f}, {each['prefill_ratio']:.2f} of generate; a hop {each['hop_us']:.0f} us")  # fmt: skip
        summary["generate"] = {
            kind: statistics.median(one[kind] for one, _ in rounds) for kind in ("decode", "prefill")
        }
        results[model] = summary
    print(json.dumps(default=float, obj={"dtype": settings.dtype, "rounds": settings.rounds, **results}))


main()
