"""python -m benchmarks.speed.decode [--rounds 5] [--models ...] [--weights ...] [--llama FOLDER]:
a chain beside transformers.generate and llama.cpp.

Decode and prefill tokens/s of one process, of chains of some ranks with each kind of weights, and (--llama,
see llama.py) of llama.cpp alone and over as many RPC servers; one compute thread everywhere. Each round runs
all of them one after the other, and the ratios are taken within a round: this machine's speed drifts. So is
what one core reads from memory, and with it the most that any of them could say. The last line is JSON.
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

from benchmarks import ROOT, llama, shapes
from benchmarks.arguments import parser
from benchmarks.chain import command
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.record.reader import load

PROMPT = (
    "Tell me, in order, what happens to a raindrop from the cloud to the sea, "
    "and name every river it could take. " * 6
)
TOKENS = {shapes.SMOLLM2: 64, shapes.GEMMA_2B: 12}


def one_process(folder: Path, dtype: str, tokens: int) -> dict:
    words = [sys.executable, "-m", "benchmarks.speed.one_process", str(folder), dtype, str(tokens), PROMPT]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
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


def read_a_token(folder: Path, weights: str) -> float:
    """GB of weights (the embedding is the output layer too, in these models)."""
    layers, head = shapes.weights_bytes(folder, weights)
    return (sum(layers.values()) + head) / 1e9


def of_all(folder: Path, asked: argparse.Namespace, tokens: int) -> dict[str, dict]:
    """One round: a name -> its tokens/s. The names of ours begin with the ranks."""
    seen = {"generate": one_process(folder, asked.dtype, tokens)}
    rows = len(Text(folder).ids_of(PROMPT))
    for weights in asked.weights:
        for n in asked.ranks:
            seen[f"{n} ranks, {weights}"] = chain(n, weights, folder, asked.dtype, tokens)
        if asked.llama:
            model = llama.gguf_of(folder, asked.llama, weights)
            for count in (0, *(n - 1 for n in asked.ranks)):
                with llama.servers(asked.llama, count) as (_, addresses):
                    name = f"llama.cpp {llama.KINDS[weights]}, {count or 'no'} servers"
                    seen[name] = llama.bench(asked.llama, model, addresses, rows, tokens)
    return seen


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--ranks", type=int, nargs="+", default=[2, 9])
    made.add_argument("--models", nargs="+", default=list(TOKENS))
    made.add_argument("--dtype", default="bfloat16")
    made.add_argument("--weights", nargs="+", default=["auto", "int8", "int4"])
    made.add_argument("--llama", type=Path, metavar="FOLDER", help="of llama.cpp's programs")
    asked = made.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    results = {}
    for model in asked.models:
        folder = shapes.locate(model)
        rounds = []
        for number in range(asked.rounds):
            gb_s = shapes.read_gb_s()
            rounds.append(of_all(folder, asked, TOKENS.get(model, 64)))
            for weights in asked.weights:
                limit = gb_s / read_a_token(folder, weights)
                for name, each in rounds[-1].items():
                    if name.endswith(f"ranks, {weights}"):
                        each["of_limit"] = each["decode"] / limit
            line = ", ".join(
                f"{name}: {each['decode']:.2f} / {each['prefill']:.1f}" for name, each in rounds[-1].items()
            )
            print(f"{model} round {number + 1}, {gb_s:.1f} GB/s: {line}", file=sys.stderr, flush=True)
        results[model] = summary(rounds)
        print(f"\n{model}: decode / prefill in tokens/s | of generate | of llama.cpp with as many servers | "
              "of what one core reads | a hop\n"
              "|---|---|---|---|---|---|")  # fmt: skip
        for name, each in results[model].items():
            print(f"| {name} | {each['decode']:.2f} / {each['prefill']:.1f} | " + " | ".join((
                f"{each['decode_of_generate']:.2f} / {each['prefill_of_generate']:.2f}",
                f"{each['decode_of_llama']:.2f} / {each['prefill_of_llama']:.2f}"
                if "decode_of_llama" in each else "",
                f"{each['of_limit']:.2f}" if "of_limit" in each else "",
                f"{each['hop_us']:.0f} us" if "hop_us" in each else "")) + " |", flush=True)  # fmt: skip
    print(json.dumps(default=float, obj={"dtype": asked.dtype, "rounds": asked.rounds, **results}))


def summary(rounds: list[dict[str, dict]]) -> dict[str, dict]:
    """Medians of what was seen and of its ratios within a round."""
    told = {}
    for name in rounds[0]:
        each = {key: statistics.median(seen[name][key] for seen in rounds) for key in rounds[0][name]}
        others = {"generate": "generate"}
        if "ranks" in name:
            ranks, weights = name.split(" ranks, ")
            others["llama"] = f"llama.cpp {llama.KINDS[weights]}, {int(ranks) - 1} servers"
        for other, named in others.items():
            for kind in ("decode", "prefill"):
                if named in rounds[0]:
                    ratios = (seen[name][kind] / seen[named][kind] for seen in rounds)
                    each[f"{kind}_of_{other}"] = statistics.median(ratios)
        told[name] = each
    return told


if __name__ == "__main__":
    main()
