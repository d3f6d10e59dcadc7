"""What skipping costs, as a map: single layers as bars, pairs as a triangle, blocks by their length.

    python analysis/skip_map.py STUDY.h5 [another model's.h5] [--out FOLDER] [--formats png,pdf]

Nats a token over the whole model's (0: nothing lost). A dashed line marks a guesser that knows how often each token comes in
the very text and reads nothing: beyond it, context no longer helps. What is not done yet stays white.
"""

import argparse
import sys
from pathlib import Path

import h5py
import numpy as np
from figure import BLUE, COLOURS, CannotDraw, Figure, save
from matplotlib.colors import LogNorm


def read(path: Path) -> tuple[dict, dict[frozenset[int], float]]:
    """Its attributes, and case -> nats a token over the whole model's. Exits with a sentence."""
    try:
        with h5py.File(path, "r") as file:
            names, nats, tokens = file["cases"][:], file["nats"][:], file["tokens"][:]
            said = dict(file.attrs)
    except (OSError, KeyError) as error:
        sys.exit(f"{path} is no study: {str(error).splitlines()[0]}")
    done = ~np.isnan(nats[0])
    if not done.any():
        sys.exit(f"{path} holds no window of the whole model yet: go on with the study")
    per_token = nats[:, done].sum(axis=1) / tokens[done].sum()
    said["whole"] = float(per_token[0])
    cases = {
        frozenset(int(layer) for layer in name.decode().split("+") if layer): float(value)
        for name, value in zip(names, per_token, strict=True)
    }
    return said, {case: value - said["whole"] for case, value in cases.items() if value == value}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY.h5")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--formats", default="png,pdf")
    words = parser.parse_args()
    studies = [read(path) for path in words.studies]
    made = Figure(figsize=(3.6 * max(2, len(studies)), 8.0))
    axes = made.subplots(3, len(studies), squeeze=False, height_ratios=(1, 2.2, 1))
    rows = []
    for column, (said, costs) in enumerate(studies):
        depth, guesser = int(said["depth"]), float(said.get("token_entropy", np.nan)) - said["whole"]
        single = [costs.get(frozenset([layer]), np.nan) for layer in range(depth)]
        bars, pairs, blocks = axes[:, column]
        bars.bar(range(depth), np.maximum(single, 1e-4), color=BLUE)
        bars.set(
            yscale="log",
            ylabel="nats a token",
            xlabel="layer left out",
            title=f"{said['model']}: {said['whole']:.2f} nats whole",
            ylim=(1e-2, None),
        )
        bars.axhline(guesser, color="grey", linestyle="--", linewidth=0.8)
        grid = np.full((depth, depth), np.nan)
        for case, cost in costs.items():
            if len(case) == 2:
                grid[max(case), min(case)] = max(cost, 1e-2)
        picture = pairs.imshow(grid, cmap="cividis", norm=LogNorm(1e-2, 10), origin="upper")
        pairs.set(xlabel="one layer left out", ylabel="the other")
        made.colorbar(picture, ax=pairs, label="nats a token", shrink=0.8)
        for number in sorted({len(case) for case in costs if is_block(case)}):
            found = [cost for case, cost in costs.items() if is_block(case) and len(case) == number]
            blocks.plot(
                [number] * len(found), np.maximum(found, 1e-3), ".", color=COLOURS[0], markersize=4, alpha=0.6
            )
            blocks.plot(number, np.median(found), "_", color="black", markersize=12)
        blocks.axhline(guesser, color="grey", linestyle="--", linewidth=0.8)
        blocks.set(yscale="log", xlabel="layers in a row left out", ylabel="nats a token")
        rows += [(said["model"], "+".join(map(str, sorted(case))), cost) for case, cost in costs.items()]
        worst = sorted(
            ((cost, case) for case, cost in costs.items() if len(case) == 1), key=lambda each: -each[0]
        )
        print(
            f"{said['model']}: worst single layers {', '.join(f'{min(case)} ({cost:.2f})' for cost, case in worst[:5])}"
        )
    stem = (words.out or words.studies[0].parent) / "skip_map"
    try:
        save(made, stem, words.formats, ("model", "left out", "nats a token over the whole model's"), rows)
    except CannotDraw as error:
        sys.exit(str(error))
    print(f"{stem}.{{{words.formats},csv}}")


def is_block(case: frozenset[int]) -> bool:
    return bool(case) and max(case) - min(case) + 1 == len(case)


if __name__ == "__main__":
    main()
