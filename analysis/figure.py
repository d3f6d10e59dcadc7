"""Holds what all figure scripts share: their options, files and looks."""

import argparse
import contextlib
import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import script
from rich.table import Table
from table import console

os.environ.pop("MPLBACKEND", None)  # a notebook's, which need not be here: figures are files
try:
    # A matplotlibrc of the user's, in the working folder or at home, may be damaged, and is meant for figures
    # of another kind.
    os.environ["MATPLOTLIBRC"] = os.devnull
    with contextlib.chdir(Path(__file__).parent):
        import matplotlib as mpl
except ModuleNotFoundError:  # a run needs none, so that setup does not install it
    sys.exit("figures are drawn with matplotlib, which is not here: pip install matplotlib")
mpl.use("Agg")
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.process_identity import lives
from jarvis_mpi.record.reader import load
from jarvis_mpi.record.run import Run

# Okabe and Ito, 2008: everybody can tell them apart.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
SIGN_COLOURS = {
    "LOST": RED,
    "GIVEN_UP": RED,
    "SILENT": PURPLE,
    "STALLED": ORANGE,
    "STUCK": ORANGE,
    "BACK": GREEN,
}
LIVE_S = 2.0  # between looks at a growing file
FORMATS = ("png", "pdf", "svg")

mpl.rcParams.update({
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names of models and tasks are no formulas
})  # fmt: skip


@dataclass
class Drawn:
    """A figure, the numbers behind it (a CSV file), and the table for the terminal."""

    figure: Figure
    columns: Sequence[str]
    rows: list[Sequence[Any]]
    shown_columns: Sequence[str]
    shown: list[Sequence[Any]]
    notes: list[str] = field(default_factory=list)


Draw = Callable[[list[Run], argparse.Namespace], Drawn]


def main(
    about: str, draw: Draw, more: Callable[[argparse.ArgumentParser], None] = lambda parser: None
) -> None:
    """Run a figure script: what cannot be drawn is one sentence and a status that is not 0."""
    script.run(lambda: follow(about, draw, more))


def follow(about: str, draw: Draw, more: Callable[[argparse.ArgumentParser], None]) -> None:
    """Draw, with --live until the run has ended."""
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, metavar="RUN.h5")
    parser.add_argument(
        "--out", type=Path, help="folder of the figure and its CSV; by default beside the first record"
    )
    parser.add_argument("--formats", default="png,pdf", help="of png, pdf, svg")
    parser.add_argument(
        "--live", action="store_true", help="draw again every two seconds, until the run has ended"
    )
    more(parser)
    words = parser.parse_args()
    while True:
        runs = script.each(words.records, load)
        live = words.live and any(goes_on(run) for run in runs)
        try:
            show(name, draw, runs, words, live)
        except CannotDraw:
            if not live:
                raise  # else: not yet
        if not live:
            return
        time.sleep(LIVE_S)


class CannotDraw(Unservable):
    """A figure cannot be drawn; one sentence says why."""


def goes_on(run: Run) -> bool:
    return not run.ended and run.writer is not None and lives(run.writer) is not False


def show(name: str, draw: Draw, all_runs: list[Run], words: argparse.Namespace, live: bool) -> None:
    runs = [run for run in all_runs if len(run.tokens)]
    empty = [
        f"{run.path} holds no token: there is nothing to draw" for run in all_runs if not len(run.tokens)
    ]
    if not runs:
        raise CannotDraw("\n".join(empty))
    for sentence in [] if live else empty:
        script.left_out(sentence)
    drawn = draw(runs, words)
    folder = words.out or words.records[0].parent
    stem = folder / (f"{runs[0].path.stem}-{name}" if len(runs) == 1 else name)
    save(drawn.figure, stem, words.formats, drawn.columns, drawn.rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in drawn.shown_columns:
        table.add_column(
            column,
            justify="left" if column in ("run", "node", "host", "layers", "announced", "fault") else "right",
        )
    for row in drawn.shown:
        table.add_row(*map(text, row))
    terminal = console()
    terminal.print(table)
    for note in drawn.notes:
        terminal.print(note, markup=False)
    print(f"{stem}.{{{words.formats},csv}}")


def save(made: Figure, stem: Path, formats: str, columns: Sequence[str], rows: list[Sequence[Any]]) -> None:
    """The figure in each of `formats`, and the numbers behind it. Raises CannotDraw."""
    if wrong := set(formats.split(",")) - set(FORMATS):
        raise CannotDraw(f"--formats holds {', '.join(sorted(wrong))}: use {', '.join(FORMATS)}")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for axes in made.axes:
            for axis in (axes.xaxis, axes.yaxis):
                if axis.get_scale() != "linear":
                    axis.set_major_formatter(PlainNumbers(axis.get_major_formatter()))
                    axis.set_minor_formatter(PlainNumbers(axis.get_minor_formatter()))
        for suffix in formats.split(","):
            made.savefig(f"{stem}.{suffix}", dpi=160)
        with Path(f"{stem}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    except OSError as error:
        raise CannotDraw(f"{stem} cannot be written: {error.strerror} (--out says where else)") from None


class PlainNumbers(Formatter):
    """Writes 0.1 where another formatter writes a formula for it, which is not drawn as one here."""

    def __init__(self, other: Formatter):
        self.other = other

    def set_axis(self, axis: Any) -> None:
        super().set_axis(axis)
        self.other.set_axis(axis)

    def set_locs(self, locs: Any) -> None:
        super().set_locs(locs)
        self.other.set_locs(locs)

    def __call__(self, value: float, place: int | None = None) -> str:
        return f"{value:g}" if self.other(value, place) else ""


def text(value: Any) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:.0f}"
        if isinstance(value, float)
        else str(value)
    )


def name_of(run: Run) -> str:
    """Return the run's name for a legend; bytes of a file's name that are no UTF-8 cannot be drawn."""
    return run.path.stem.encode(errors="surrogateescape").decode(errors="replace")


def named(runs: list[Run]) -> list[str]:
    return [name_of(run) for run in runs]
