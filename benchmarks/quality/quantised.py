"""What 8- and 4-bit weights cost: python -m benchmarks.quality.quantised [--models ...] [--tokens 2000]
[--text F]

Nats a token of a text, and the share of its positions at which the most likely next token is the same as with
the whole weights (each position judged after the same text); float32 activations. A table; the perplexity is
e^nats.
"""

import math
from pathlib import Path

import torch

from benchmarks.arguments import parser
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.family import dtype_of, load_config, quiet
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.nn.quantisation import FORMATS
from jarvis_mpi.study.corpus import prose, windows_of
from jarvis_mpi.study.scorer import ROWS, Scorer, nats


def told(scorer: Scorer, windows: list[list[int]]) -> tuple[float, list[int]]:
    """-> nats a token, and the most likely token at each position."""
    total, likely = 0.0, []
    for window in windows:
        body = scorer.states_of(window)[-1]
        total += nats(scorer.head, body, window)
        for first in range(0, len(window), ROWS):
            rows = scorer.head.rows_logits(body, first, min(first + ROWS, len(window)))
            likely += rows.argmax(-1).tolist()
    return total / sum(len(window) - 1 for window in windows), likely


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", default=["smollm2-135m-instruct", "gemma-3-270m"])
    made.add_argument("--tokens", type=int, default=2000)
    made.add_argument("--text", type=Path)
    asked = made.parse_args()
    quiet()
    torch.set_num_threads(2)
    print("| model | weights | nats a token | perplexity | same next token |\n|---|---|---|---|---|")
    for model in asked.models:
        folder = checkpoint.locate(model, print)
        dtype = dtype_of(load_config(folder), "float32")
        text = asked.text.read_text() if asked.text else prose()
        windows = windows_of(text, Text(folder), asked.tokens, 512, print)
        whole, likely = told(Scorer(folder, dtype), windows)
        print(f"| {model} | float32 | {whole:.4f} | {math.exp(whole):.3f} | |", flush=True)
        for weights in FORMATS:
            rough, said = told(Scorer(folder, dtype, weights=weights), windows)
            same = sum(a == b for a, b in zip(likely, said, strict=True)) / len(said)
            print(f"| {model} | {weights} | {rough:.4f} | {math.exp(rough):.3f} | {same:.1%} |", flush=True)


if __name__ == "__main__":
    main()
