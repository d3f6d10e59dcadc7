"""Draws what patches win back, by lost block and by the number of dead nodes.

    python analysis/patches.py PATCHES.json [another model's.json] [--out FOLDER] [--formats png,pdf]

From the files of benchmarks.quality.patches. Top: nats a token lost by each lost block: skipped, a
neighbour's block run once more, a gain a channel, patched (logarithmic). Middle: by the number of dead nodes,
the mean and the range over their choices. Bottom: grades of the answers, by the number of dead nodes.
"""

import argparse
import json
import statistics
from pathlib import Path

import script
from figure import BLACK, BLUE, FORMATS, GREEN, ORANGE, PURPLE, RED, YELLOW, Figure, save

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.given_file import regular

HOW = {
    "skip": ("skipped", RED),
    "repeat": ("neighbour's again", PURPLE),
    "gain": ("gain a channel", ORANGE),
    "patch": ("patched", BLUE),
}
WAYS = {
    "skip": ("skip", RED),
    "patch": ("patch", BLUE),
    "copy, skip": ("one copy, skip", BLACK),
    "copy, patch": ("one copy, patch", GREEN),
}
GRADES = {"functioning": GREEN, "degraded": YELLOW, "critical": RED}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--formats", default=",".join(FORMATS))
    asked = parser.parse_args()
    found = script.each(asked.files, figures_in)
    made = Figure(figsize=(4.2 * len(found), 7.2))
    axes = made.subplots(3, len(found), squeeze=False)
    parts = (("blocks", draw_blocks), ("dead", draw_deaths), ("grades", draw_grades))
    for column, model in enumerate(found):
        for row, (part, draw) in enumerate(parts):
            if model.get(part):
                draw(axes[row, column], model)
            else:
                axes[row, column].set_axis_off()
    for place in (*axes[0], *axes[1], *axes[2]):
        if place.get_legend_handles_labels()[1]:
            place.legend(fontsize="xx-small", loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    rows = [row for model in found for row in rows_of(model)]
    save(made, asked.out / "patches", asked.formats, COLUMNS, rows)
    print(f"{asked.out / 'patches'}.{{{asked.formats},csv}}")


def figures_in(path: Path) -> dict:
    """Read a file's figures. Raises Unservable."""
    try:
        found = json.loads(regular(path).read_text())
        if not isinstance(found, dict):
            raise ValueError("it holds no figures")
    except (OSError, ValueError, RecursionError) as error:
        raise Unservable(
            f"{path}: {error}: give it what python -m benchmarks.quality.patches --out has written"
        ) from None
    return found


def draw_blocks(axes, model: dict) -> None:
    rows = [row for row in model["blocks"] if row["blocks"] == 1]
    for place, (how, (name, colour)) in enumerate(HOW.items()):
        at = [at + (place - 1.5) * 0.2 for at in range(len(rows))]
        axes.bar(at, [max(row[how], 1e-3) for row in rows], 0.2, color=colour, label=name)
    axes.set_xticks(range(len(rows)), [row["hole"] for row in rows], fontsize="x-small")
    axes.set_yscale("log")
    axes.set_title(f"{model['model']} ({model['whole']:.2f} nats a token)", pad=16)
    axes.set_xlabel("lost layers")
    axes.set_ylabel("nats a token lost")


def draw_deaths(axes, model: dict) -> None:
    counts = sorted({row["dead"] for row in model["dead"]})
    for place, (way, (name, colour)) in enumerate(WAYS.items()):
        values = [[max(row[way], 0) for row in model["dead"] if row["dead"] == count] for count in counts]
        means = [statistics.mean(of) for of in values]
        at = [count + (place - 1.5) * 0.06 for count in counts]
        ranges = [
            [mean - min(of) for mean, of in zip(means, values, strict=True)],
            [max(of) - mean for mean, of in zip(means, values, strict=True)],
        ]
        axes.errorbar(
            at, means, ranges, color=colour, marker="o", markersize=3, capsize=2, linewidth=1, label=name
        )
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(bottom=-0.01)
    axes.set_xticks(counts)
    axes.set_xlabel(f"dead nodes of {len(model['split'])}")
    axes.set_ylabel("nats a token lost")


def draw_grades(axes, model: dict) -> None:
    """Draw bars of 100 %, one a way for each number of dead nodes."""
    counts = sorted({row["dead"] for row in model["grades"]})
    ticks, names = [], []
    for count in counts:
        for place, (way, (name, _)) in enumerate(WAYS.items()):
            of = [row["grade"] for row in model["grades"] if row["dead"] == count and row["how"] == way]
            at, bottom = count + (place - 1.5) * 0.2, 0.0
            for grade, colour in GRADES.items():
                share = of.count(grade) / len(of)
                axes.bar(
                    at,
                    share,
                    0.18,
                    bottom,
                    color=colour,
                    label=grade if (count, place) == (counts[0], 0) else None,
                )
                bottom += share
            ticks.append(at)
            names.append(f"{name}, {count}" if place == 0 else name)
    axes.set_xticks(ticks, names, rotation=90, fontsize="x-small")
    axes.set_ylabel("answers")
    axes.set_xlabel(f"dead nodes of {len(model['split'])}")


COLUMNS = ("model", "what", "hole", "nodes", "way", "nats", "grade", "text")


def rows_of(model: dict) -> list[tuple]:
    name = model["model"]
    rows = [
        (name, "block", row["hole"], "", how, row[how], "", "")
        for row in model.get("blocks", ())
        for how in HOW
        if how in row
    ]
    rows += [
        (name, "dead", "", " ".join(map(str, row["nodes"])), way, row[way], "", "")
        for row in model.get("dead", ())
        for way in WAYS
    ]
    rows += [
        (name, "answer", "", " ".join(map(str, row["nodes"])), row["how"], "", row["grade"], row["text"])
        for row in model.get("grades", ())
    ]
    return rows


if __name__ == "__main__":
    script.run(main)
