"""Draws what skipping costs: single layers as bars, pairs as a triangle, blocks by their length, rankings as
points.

    python analysis/skip_map.py STUDY.h5 [another model's.h5] [--out FOLDER] [--formats png,pdf]

Nats a token over the whole model's (0: nothing lost). A dashed line marks chance: a guesser that knows how
often each token comes in the very text and reads nothing; beyond it, context no longer helps. What is not
done yet stays white. The points: each ranking's value of a layer, without any task
(jarvis_mpi/study/layer_ranking.py), beside what skipping it costs.
"""

from pathlib import Path

import numpy as np
import script
from figure import BLACK, BLUE, COLOURS, Figure, save
from matplotlib.colors import LogNorm
from rich.table import Table
from study import Study, arguments, is_block, read, spearman
from table import console

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.record.study_file import WHOLE, written

LEAST = 1e-2  # nats a token: smaller costs are drawn as this
RANKINGS = {"block_influence": "Block Influence", "angular": "angular distance", "kl": "KL of the output"}


def main() -> None:
    words = arguments(__doc__).parse_args()
    studies = script.each(words.studies, with_text)
    made = Figure(figsize=(3.8 * max(2, len(studies)), 10.5))
    axes = made.subplots(4, len(studies), squeeze=False, height_ratios=(1, 2.2, 1, 1.1))
    rows = []
    for study, (bars, pairs, blocks, ranks) in zip(studies, axes.T, strict=True):
        draw_singles(bars, study)
        made.colorbar(draw_pairs(pairs, study), ax=pairs, label="nats a token", shrink=0.8, extend="both")
        draw_blocks(blocks, study)
        draw_rankings(ranks, study)
        rows += [(study.model, written(case), cost) for case, cost in study.costs.items()]
    axes[0, 0].legend(fontsize=7)
    show(studies)
    stem = (words.out or words.studies[0].parent) / "skip_map"
    save(made, stem, words.formats, ("model", "left out", "nats a token over the whole model's"), rows)
    print(f"{stem}.{{{words.formats},csv}}")


def with_text(path: Path) -> Study:
    """Read a study that has scored text. Raises Unservable."""
    study = read(path)
    if WHOLE not in study.costs:
        raise Unservable(f"{path} holds no text that the whole model has predicted yet: continue the study")
    return study


def chance(study: Study) -> float:
    """Return chance's nats a token over the whole model's, as the costs are."""
    return float(study.attributes["token_entropy"]) - study.text_nats[WHOLE]


def singles(study: Study) -> list[float]:
    return [study.costs.get(frozenset([layer]), np.nan) for layer in range(study.depth)]


def draw_singles(axes, study: Study) -> None:
    axes.bar(range(study.depth), np.maximum(singles(study), LEAST), color=BLUE)
    axes.axhline(chance(study), color=BLACK, linestyle="--", linewidth=0.8, label="chance: reads nothing")
    axes.set(
        yscale="log", ylim=(LEAST, 20), xlabel="layer skipped", ylabel="nats a token lost",
        title=f"{study.model}: {study.text_nats[WHOLE]:.2f} nats a token whole",
    )  # fmt: skip


def draw_pairs(axes, study: Study):
    grid = np.full((study.depth, study.depth), np.nan)
    for case, cost in study.costs.items():
        if len(case) == 2:
            grid[max(case), min(case)] = max(cost, LEAST)
        elif len(case) == 1:
            grid[min(case), min(case)] = max(cost, LEAST)
    axes.set(xlabel="one layer skipped (diagonal: alone)", ylabel="the other")
    return axes.imshow(grid, cmap="cividis", norm=LogNorm(LEAST, 10), origin="upper")


def draw_blocks(axes, study: Study) -> None:
    """Draw blocks by length: each a dot, those at either end marked, the median of the others a line."""
    held: dict[int, list[tuple[float, bool]]] = {}
    for case, cost in study.costs.items():
        if is_block(case):
            at_an_end = min(case) == 0 or max(case) == study.depth - 1
            held.setdefault(len(case), []).append((max(cost, LEAST), at_an_end))
    for ends, colour, label in (True, COLOURS[1], "first or last layer in it"), (False, BLUE, "neither"):
        points = [(length, cost) for length, blocks in held.items() for cost, end in blocks if end == ends]
        axes.plot(*zip(*points, strict=True), ".", color=colour, markersize=4, alpha=0.7, label=label)
    inner = {length: [cost for cost, end in blocks if not end] for length, blocks in sorted(held.items())}
    axes.plot([*inner], [np.median(costs) for costs in inner.values()], color=BLUE, linewidth=1)
    axes.axhline(chance(study), color=BLACK, linestyle="--", linewidth=0.8)
    axes.set(yscale="log", xlabel="layers in a row skipped", ylabel="nats a token lost")
    axes.legend(fontsize=7)


def ranked(study: Study) -> dict[str, list[float]]:
    found = {name: study.rankings[name] for name in RANKINGS if name in study.rankings}
    if "angular" in found:
        found["angular"] = found["angular"][0]
    return found


def draw_rankings(axes, study: Study) -> None:
    for colour, (name, values) in zip(COLOURS, ranked(study).items(), strict=False):
        axes.plot(
            values, np.maximum(singles(study), LEAST), ".", color=colour, markersize=5,
            label=f"{RANKINGS[name]}: {spearman(values, singles(study)):.2f}",
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="what the ranking says of a layer", ylabel="nats a token lost"
    )
    axes.legend(fontsize=7, title="rank correlation", title_fontsize=7, loc="lower right")


def show(studies: list[Study]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "model",
        "whole",
        "chance",
        "worst single layers",
        "median single",
        "median pair",
        *RANKINGS.values(),
    ):
        table.add_column(column, justify="left" if column in ("model", "worst single layers") else "right")
    for study in studies:
        single = singles(study)
        worst = sorted(range(study.depth), key=lambda layer: -np.nan_to_num(single[layer]))[:4]
        pairs = [cost for case, cost in study.costs.items() if len(case) == 2]
        table.add_row(
            study.model, f"{study.text_nats[WHOLE]:.3f}", f"{study.attributes['token_entropy']:.3f}",
            ", ".join(f"{layer} ({single[layer]:.2f})" for layer in worst),
            f"{np.nanmedian(single):.3f}", f"{np.median(pairs):.3f}" if pairs else "",
            *(f"{spearman(values, single):.2f}" for values in ranked(study).values()),
        )  # fmt: skip
    console().print(table)


if __name__ == "__main__":
    script.run(main)
