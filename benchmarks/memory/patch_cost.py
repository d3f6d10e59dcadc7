"""What patches cost: python -m benchmarks.memory.patch_cost

For the shapes of three models, with full-rank patches of every block of eight workers and every two
neighbours: bytes of one, of the file, and in a node's memory (the hole behind it, and that hole with the next
one: read when the run starts); a token through one, in bfloat16 and float32, one thread, median of 200; and
what least squares take once the text has been seen. The values are random.
"""

import statistics
import time

import torch

from benchmarks.arguments import parser
from jarvis_mpi.study import patch_fitting

SHAPES = {"SmolLM2 135M": 576, "Gemma 3 270M": 640, "Gemma 2B": 2048}
BLOCKS = 8
ROWS = 4096


def median_s(run, times: int) -> float:
    spent = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)


def main() -> None:
    parser(__doc__).parse_args()
    torch.set_num_threads(1)
    print(
        "| model | a patch | the file (15) | in a node's memory | a token, "
        "bfloat16 | float32 | its least squares |\n|---|---|---|---|---|---|---|"
    )
    for name, width in SHAPES.items():
        x = torch.randn(1, ROWS, width)
        y = x + 0.1 * torch.randn(1, ROWS, width)
        sums = patch_fitting.Sums()
        sums.add({0: x, 1: y}, [(0, 0), (0, 1), (1, 1)])
        begun = time.perf_counter()
        units, full = patch_fitting.least_squares(sums, 0, 1)
        solved_s = time.perf_counter() - begun
        made = full.patch(units)
        size = 2 * made.down.numel() + 4 * (made.bias.numel() + made.mean.numel() + made.first.numel())
        times = []
        for dtype in (torch.bfloat16, torch.float32):
            its = type(made)(*(part if part is None else part.to(dtype) for part in vars(made).values()))
            row = x[:, :1].to(dtype)
            with torch.inference_mode():
                times.append(median_s(lambda its=its, row=row: its(row, 5), 200))
        print(
            f"| {name} | {size / 2**20:.1f} MiB | {(2 * BLOCKS - 1) * size / 2**20:.0f} MiB | "
            f"{2 * size / 2**20:.1f} MiB"
            f" | {1e3 * times[0]:.2f} ms | {1e3 * times[1]:.2f} ms | {solved_s:.1f} s |"
        )


if __name__ == "__main__":
    main()
