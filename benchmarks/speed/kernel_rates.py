"""python -m benchmarks.speed.kernel_rates [--rounds 5]:
what the kernels alone do on one thread, beside what a core reads and what torch does.

The linear layers of a decoder layer, as many times as exceeds the processor's cache: GB/s for a single row
(and of what the core reads, in the same round), thousand million multiply-adds a second for 64 rows.
Attention in bfloat16: microseconds for one position after so many.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.arguments import parser
from benchmarks.shapes import read_gb_s
from jarvis_mpi.nn.batch_invariant import attend
from jarvis_mpi.nn.linear import FloatLinear, QuantisedLinear
from jarvis_mpi.nn.quantisation import FORMATS, write

# Outputs and inputs of a layer's matrices; heads, heads of keys, their width.
SHAPES = {
    "Gemma 2B": [
        (2048, 2048),
        (256, 2048),
        (256, 2048),
        (2048, 2048),
        (16384, 2048),
        (16384, 2048),
        (2048, 16384),
    ],
    "SmolLM2 135M": [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)],
}
HEADS = {"Gemma 2B": (8, 1, 256), "SmolLM2 135M": (9, 3, 64)}
KINDS = ["bfloat16", *FORMATS, "F.linear"]
LEAST_BYTES = 200_000_000
ROWS, PASSES = 64, 7


def layers_of(kind: str, shapes: list[tuple[int, int]], folder: Path) -> tuple[list[nn.Module], int]:
    """Enough layers, and their bytes."""
    made: list[nn.Module] = []
    size = 0
    while size < LEAST_BYTES:
        for outputs, inputs in shapes:
            weight = (torch.randn(outputs, inputs) * 0.02).bfloat16()
            if kind in FORMATS:
                here = folder / f"{kind}-{len(made)}"
                here.mkdir()
                write(here, FORMATS[kind], weight.shape, lambda weight=weight: weight)
                made.append(QuantisedLinear(kind, here, weight.shape, None))
                size += made[-1].numbers.nbytes + made[-1].scales.nbytes
            elif kind == "F.linear":
                made.append(nn.Linear(inputs, outputs, bias=False, device="meta"))
                made[-1].weight = nn.Parameter(weight, requires_grad=False)
                size += weight.nbytes
            else:
                made.append(FloatLinear(weight, None))
                size += weight.nbytes
    return made, size


def seconds(work: Callable, *arguments, **named) -> float:
    begun = time.perf_counter()
    work(*arguments, **named)
    return time.perf_counter() - begun


def run_all(layers: list[nn.Module], inputs: list[Tensor]) -> None:
    for layer, x in zip(layers, inputs, strict=True):
        layer(x)


def products(name: str, rounds: int, folder: Path) -> None:
    print(
        f"\n| {name}'s layer | one row, GB/s | of what a core reads | {ROWS} rows, "
        "G multiply-adds/s |\n|---|---|---|---|"
    )
    shapes = SHAPES[name]
    for kind in KINDS:
        layers, size = layers_of(kind, shapes, folder)
        sizes = [shapes[at % len(shapes)] for at in range(len(layers))]
        few, many = ([torch.randn(1, rows, inputs).bfloat16() for _, inputs in sizes] for rows in (1, ROWS))
        work = ROWS * sum(outputs * inputs for outputs, inputs in sizes[: len(shapes)]) / 1e9
        rates, shares, speeds = [], [], []
        run_all(layers, few)
        for _ in range(rounds):
            limit = read_gb_s()
            passes = [seconds(run_all, layers, few) for _ in range(PASSES)]
            rates.append(size / 1e9 / statistics.median(passes))
            shares.append(rates[-1] / limit)
            some = slice(0, len(shapes))
            speeds.append(work / seconds(run_all, layers[some], many[some]))
        row = [
            f"{statistics.median(each):.{digits}f}" for each, digits in ((rates, 1), (shares, 2), (speeds, 1))
        ]
        print(f"| {kind} | {' | '.join(row)} |", flush=True)


class Grouped:
    """What torch's attention asks a layer for."""

    is_causal = True

    def __init__(self, group: int):
        self.num_key_value_groups = group


def positions(name: str, rounds: int) -> None:
    print(f"\n| {name}'s attention | ours | torch |\n|---|---|---|")
    heads, key_heads, width = HEADS[name]
    module = Grouped(heads // key_heads)
    for before in (10, 100, 1000):
        q = torch.randn(1, heads, 1, width).bfloat16()
        k, v = (torch.randn(1, key_heads, before, width).bfloat16() for _ in range(2))
        took = []
        for function in (attend, sdpa_attention_forward):
            times = [
                seconds(function, module, q, k, v, None, scaling=width**-0.5) for _ in range(10 * rounds)
            ]
            took.append(f"{1e6 * statistics.median(times):.0f} us")
        print(f"| one position after {before} | {' | '.join(took)} |", flush=True)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=5)
    asked = made.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for name in SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                products(name, asked.rounds, Path(folder))
            positions(name, asked.rounds)


if __name__ == "__main__":
    main()
