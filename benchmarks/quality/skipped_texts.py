"""python -m benchmarks.quality.skipped_texts [--layers 5,6,10,11,17,18]:
what is said when layers are left out from the start.

Three prompts, each model of --models whole and with the layers left out (counted from 1), float32, greedy. Of
a model with other than 18 layers the same share of its depth is left out. The table is the README's.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT
from benchmarks.arguments import parser
from benchmarks.chain import command

DEPTHS = {"smollm2-135m-instruct": 30, "gemma-3-270m": 18}
PAPERS_DEPTH = 18  # Gemma 2B's
PROMPTS = [
    "The capital of France is",
    "Why is the sky blue?",
    "Write a short story about a robot and a radio.",
]
RANKS = 4


def answers(model: str, left_out: str, scratch: Path) -> list[str]:
    file = scratch / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    words = ("--model", model, "--dtype", "float32", "--max-new-tokens", "40", "--prompts", str(file))
    log = scratch / f"{model}-{left_out or 'whole'}.h5"
    run = subprocess.run(
        command(RANKS, log, *words, *(["--skip-layers", left_out] if left_out else [])),
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    if run.returncode:
        raise SystemExit(run.stderr)
    return [json.loads(line)["text"] for line in run.stdout.splitlines()]


def scaled(layers: str, depth: int) -> str:
    """The same places in a model of another depth."""
    numbers = sorted({round((int(word) - 0.5) * depth / PAPERS_DEPTH + 0.5) for word in layers.split(",")})
    return ",".join(map(str, numbers))


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--layers", nargs="+", default=["5,6", "10,11", "17,18", "5,6,10,11,17,18"])
    made.add_argument("--models", nargs="+", default=list(DEPTHS), choices=list(DEPTHS))
    asked = made.parse_args()
    print("| model | left out | " + " | ".join(PROMPTS) + " |\n|---|---|" + "---|" * len(PROMPTS))
    with tempfile.TemporaryDirectory() as scratch:
        for model in asked.models:
            for layers in ("", *asked.layers):
                left_out = scaled(layers, DEPTHS[model]) if layers else ""
                texts = answers(model, left_out, Path(scratch))
                cells = " | ".join(" ".join(text.replace("|", "/").split()) for text in texts)
                print(f"| {model} | {left_out or 'none'} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
