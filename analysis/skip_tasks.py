"""Draws right answers and grades with layers skipped: the JARVIS poster's figure, with intervals.

    python analysis/skip_tasks.py STUDY.h5 [another model's.h5] [--subjects] [--out FOLDER] [--formats pdf]

Top: share of right answers with each single layer skipped; the whole model's share is a line, chance a dashed
one, and the band is its 95 % interval (Wilson). Middle: by the number of layers in a row: the mean over all
places, and the best and worst place. Bottom: grades of the answers (jarvis_mpi/study/grading.py). What a
study does not hold is not drawn.
"""

from pathlib import Path

import numpy as np
import script
from figure import BLACK, BLUE, COLOURS, GREEN, RED, YELLOW, Figure, save
from rich.table import Table
from study import Study, Task, arguments, is_block, read
from table import console

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.record.study_file import WHOLE, written
from jarvis_mpi.study.grading import Grade
from jarvis_mpi.study.tasks import wilson

GRADE_COLOURS = {Grade.FUNCTIONING: GREEN, Grade.DEGRADED: YELLOW, Grade.CRITICAL: RED}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--subjects", action="store_true", help="print each subject's share too (whole model)"
    )
    words = parser.parse_args()
    studies = script.each(words.studies, with_answers)
    asked = list(dict.fromkeys(task.name for study in studies for task in study.tasks))
    kinds = ([*asked, "length"] if asked else []) + (
        ["grades"] if any(study.graded for study in studies) else []
    )
    made = Figure(figsize=(3.8 * max(2, len(studies)), 1.9 * len(kinds) + 0.6))
    axes = made.subplots(len(kinds), len(studies), squeeze=False)
    for column, study in enumerate(studies):
        tasks = {task.name: task for task in study.tasks}
        for kind, place in zip(kinds, axes[:, column], strict=True):
            place.xaxis.get_major_locator().set_params(integer=True)
            if kind == "grades" and study.graded:
                draw_grades(place, study)
            elif kind == "length" and tasks:
                draw_lengths(place, study)
            elif kind in tasks:
                draw_singles(place, study, tasks[kind])
            else:
                place.set_axis_off()
        axes[0, column].set_title(f"{study.model}\n{axes[0, column].get_title()}")
    show(studies, words.subjects)
    stem = (words.out or words.studies[0].parent) / "skip_tasks"
    columns = (
        "model",
        "what",
        "left out",
        "right",
        "of",
        "share",
        "low",
        "high",
        "grade",
        "nats",
        "repetition",
        "agrees",
        "text",
    )
    save(made, stem, words.formats, columns, [row for study in studies for row in rows_of(study)])
    print(f"{stem}.{{{words.formats},csv}}")


def with_answers(path: Path) -> Study:
    """Read a study that has answers. Raises Unservable."""
    study = read(path)
    if not study.tasks and not study.graded:
        raise Unservable(
            f"{path} holds no task and no answer yet: say --tasks or --prompts to the study, or go on with it"
        )
    return study


def draw_singles(axes, study: Study, task: Task) -> None:
    shares = [
        task.share(case) if (case := frozenset([layer])) in task.right else np.nan
        for layer in range(study.depth)
    ]
    axes.bar(range(study.depth), shares, color=BLUE, alpha=0.8)
    axes.axhspan(*task.interval(WHOLE), color=GREEN, alpha=0.2, linewidth=0)
    axes.axhline(task.share(WHOLE), color=GREEN, linewidth=1)
    axes.axhline(task.chance, color=BLACK, linestyle="--", linewidth=0.8)
    axes.set(
        ylim=(0, None), xlabel="layer skipped", ylabel="right",
        title=f"{task.name}, {len(task.subjects)} questions",
    )  # fmt: skip


def draw_lengths(axes, study: Study) -> None:
    for colour, task in zip(COLOURS, study.tasks, strict=False):
        held: dict[int, list[float]] = {0: [task.share(WHOLE)]}
        for case in task.right:
            if is_block(case):
                held.setdefault(len(case), []).append(task.share(case))
        lengths = sorted(held)
        axes.plot(lengths, [np.mean(held[n]) for n in lengths], color=colour, marker=".", label=task.name)
        axes.fill_between(
            lengths, [min(held[n]) for n in lengths], [max(held[n]) for n in lengths],
            color=colour, alpha=0.1, linewidth=0,
        )  # fmt: skip
        axes.axhline(task.chance, color=colour, linestyle="--", linewidth=0.6)
    axes.set(xlabel="layers in a row skipped (dashed: chance)", ylabel="right", ylim=(0, 1))
    axes.legend(fontsize=5, ncols=2, loc="upper right")


def draw_grades(axes, study: Study) -> None:
    """Draw the grades by the number of layers in a row skipped."""
    counts: dict[int, list[Grade]] = {}
    for case, _, _, grade in study.graded:
        if is_block(case) or not case:
            counts.setdefault(len(case), []).append(grade)
    lengths, floor = sorted(counts), np.zeros(len(counts))
    for grade, colour in GRADE_COLOURS.items():
        shares = np.array([counts[n].count(grade) / len(counts[n]) for n in lengths])
        axes.bar(lengths, shares, bottom=floor, color=colour, label=grade)
        floor += shares
    axes.set(xlabel="layers in a row skipped", ylabel="share of answers", xticks=lengths)
    axes.legend(fontsize=6, loc="lower left")


def rows_of(study: Study) -> list[tuple]:
    found: list[tuple] = []
    for task in study.tasks:
        for case, right in task.right.items():
            found.append(
                (
                    study.model,
                    task.name,
                    written(case),
                    right.sum(),
                    len(right),
                    task.share(case),
                    *task.interval(case),
                )
            )
    found += [
        (study.model, study.prompts[number], written(case), *[""] * 5, grade, answer.nats, answer.repetition,
         answer.agrees, answer.text)
        for case, number, answer, grade in study.graded
    ]  # fmt: skip
    return found


def show(studies: list[Study], subjects: bool) -> None:
    terminal = console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "model",
        "task",
        "questions",
        "chance",
        "whole",
        "95 %",
        "worst single layers",
        "median single",
    ):
        table.add_column(
            column, justify="left" if column in ("model", "task", "worst single layers") else "right"
        )
    for study in studies:
        for task in study.tasks:
            single = {min(case): task.share(case) for case in task.right if len(case) == 1}
            low, high = task.interval(WHOLE)
            worst = sorted(single, key=lambda layer: (single[layer], layer))[:3]
            table.add_row(
                study.model, task.name, str(len(task.subjects)), f"{task.chance:.1%}",
                f"{task.share(WHOLE):.1%}",
                f"{low:.0%} - {high:.0%}", ", ".join(f"{layer} ({single[layer]:.0%})" for layer in worst),
                f"{np.median([*single.values()]):.1%}" if single else "",
            )  # fmt: skip
            if subjects:
                for subject in sorted(set(task.subjects)):
                    right = task.right[WHOLE][task.subjects == subject]
                    low, high = wilson(int(right.sum()), len(right))
                    table.add_row(
                        "",
                        f"  {subject}",
                        str(len(right)),
                        "",
                        f"{right.mean():.1%}",
                        f"{low:.0%} - {high:.0%}",
                    )
    terminal.print(table)
    for study in studies:
        for grade in Grade:
            cases = [case for case, _, _, case_grade in study.graded if case_grade is grade]
            if study.graded:
                terminal.print(f"{study.model}: {len(cases)} of {len(study.graded)} answers {grade}")


if __name__ == "__main__":
    script.run(main)
