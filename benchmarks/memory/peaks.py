"""python -m benchmarks.memory.peaks [--model ...] [--ranks 9] [--weights int8]:
each rank's peak resident memory beside its weights.

By default a random model in the shape of Gemma 2B (5 GB) on one end user and eight workers. The last line is
JSON.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks import shapes
from benchmarks.arguments import parser
from benchmarks.chain import command
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.replay import block_of

MB = 1e6


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--model", default=shapes.GEMMA_2B)
    made.add_argument("--ranks", type=int, default=9)
    made.add_argument("--weights", default="auto")
    settings = made.parse_args()
    folder = shapes.locate(settings.model)
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "run.h5"
        words = ("--model", str(folder), "--prompt", "word " * 200, "--max-new-tokens", "8")
        words += ("--weights", settings.weights)
        subprocess.run(command(settings.ranks, log, *words), check=True, stdout=subprocess.DEVNULL)
        record = load(log)
        placement = record.placement
        peaks = {int(node): peak for node, peak in record.events[-1].payload["peak_bytes"].items()}
    layers, rest = shapes.weights_bytes(folder, settings.weights)
    rows = {}
    print("node  layers            weights MB   peak MB   above its weights MB")
    for node, peak in sorted(peaks.items()):
        held = map(block_of, placement[str(node)])
        own = sum(layers[layer] for block in held for layer in block) + (0 if node else rest)
        rows[node] = {"weights_mb": own / MB, "peak_mb": peak / MB, "above_mb": (peak - own) / MB}
        print(
            f"{node:4}  {', '.join(placement[str(node)]):16}  {own / MB:10.0f}  {peak / MB:8.0f}  "
            f"{(peak - own) / MB:10.0f}"
        )
    total = sum(row["peak_mb"] for row in rows.values())
    print(f"sum of the peaks: {total:.0f} MB; the model: {(sum(layers.values()) + rest) / MB:.0f} MB")
    print(json.dumps({"rows": rows, "sum_mb": total}))


if __name__ == "__main__":
    main()
