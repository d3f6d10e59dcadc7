"""A run in a terminal as a moving picture: python docs/make/recording.py docs/kill.cast docs/kill.svg

Run `make demo`'s line with node 3 killed at token 20, in a terminal of 100 columns, keep what it wrote and
when (asciicast 2, which asciinema plays too), and draw that as SVG: no script, and a viewer that cannot move
it shows the end. `--again` draws a cast that is there. Needs `pip install pyte`, the model and MPI.
"""

import argparse
import json
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
import time
from codecs import getincrementaldecoder
from fcntl import ioctl
from html import escape
from pathlib import Path
from typing import NamedTuple


class Scene(NamedTuple):
    """What is recorded: from when a line has `begun` until one has `ended`, after the command alone."""

    command: str
    head: tuple[str, ...]
    begun: str
    ended: str
    title: str


KILL = Scene(
    "mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi"
    ' --prompt "Why is the sky blue?" --fault "kill 3 @ 20" --max-new-tokens 90',
    (
        "$ mpirun -hostfile hostfiles/local -n 9 python -m jarvis_mpi \\",
        '      --prompt "Why is the sky blue?" --fault "kill 3 @ 20" --max-new-tokens 90',
    ),
    # Before the first nodes load, the second is in the table behind the answer.
    "ready in",
    "compute ms",
    "Node 3 is killed in mid-answer, and the answer goes on",
)
HOSTS = Scene(
    f"{sys.executable} docs/make/hosts_demo.py",
    ("$ python docs/make/hosts_demo.py",),
    "ready in",
    "compute ms",
    "A worker, mpirun and the end user's machine are lost in mid-answer, and the answer goes on",
)
COLUMNS, ROWS = 100, 34
WIDTH, HEIGHT, MARGIN = 8.0, 18.0, 14.0  # of a character, of a line, round the screen: pixels
TYPED_S, HELD_S = 1.5, 6.0  # the command alone at the beginning, the last screen at the end
COLOURS = {
    "$": "#8ec07c",
    "[jv": "#8ec07c",
    "# ": "#fb4934",
    "[node": "#fe8019",
    "smollm2": "#83a598",
}  # a line that begins so

Changes = list[tuple[float, str]]  # from when on a row shows which text


def captured(command: str) -> list[tuple[float, str]]:
    """Run the command in a terminal of its own: what it wrote, and when, in seconds."""
    ours, its = pty.openpty()
    ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(COLUMNS)}
    child = subprocess.Popen(shlex.split(command), stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    text, written, begun = getincrementaldecoder("utf-8")("replace"), [], time.monotonic()
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not data:
            break
        written.append((round(time.monotonic() - begun, 3), text.decode(data)))
    if status := child.wait():
        raise SystemExit(f"the run ended with status {status}")
    return written


def rows_over_time(written: list[tuple[float, str]], scene: Scene) -> tuple[list[Changes], float]:
    """For each row of the terminal what it showed, and when; and the length of all, in seconds."""
    import pyte

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    rows: list[Changes] = [[(0.0, "")] for _ in range(ROWS)]
    first_at, at = None, 0.0
    for when, data in written:
        if scene.ended in data:
            break
        stream.feed(data)
        if first_at is None:
            if not any(scene.begun in line for line in screen.display):
                continue
            first_at = when
        at = TYPED_S + when - first_at
        for row, line in zip(rows, screen.display, strict=True):
            if (text := line.rstrip()) != row[-1][1]:
                row.append((at, text))
    return rows, at + HELD_S


def element(number: int, text: str, since: float, until: float | None, end: float) -> str:
    """One row's text as long as it stands there. What stands at the end is visible where nothing moves."""
    y = MARGIN + HEIGHT * (number + 0.75)
    colour = next((colour for begins, colour in COLOURS.items() if text.startswith(begins)), "#ebdbb2")
    show = (
        f'<set attributeName="visibility" to="visible" begin="m.begin+{since:.2f}s" '
        f'end="m.begin+{until or end:.2f}s"/>'
    )
    hide = f'<set attributeName="visibility" to="hidden" begin="m.begin" end="m.begin+{since:.2f}s"/>'
    seen = 'visibility="hidden"' if until else ""
    return (
        f'<text x="{MARGIN}" y="{y:.1f}" fill="{colour}" xml:space="preserve" {seen}>'
        f"{escape(text)}{show if until else hide}</text>"
    )


def drawn(rows: list[Changes], end: float, scene: Scene) -> str:
    """The picture."""
    head = [[(0.0, line)] for line in (*scene.head, "")]
    last = max(number for number, row in enumerate(rows) if any(text for _, text in row))
    shown = head + rows[: last + 1]
    lines = []
    for number, row in enumerate(shown):
        for (since, text), after in zip(row, [*row[1:], None], strict=True):
            if text:
                lines.append(element(number, text, since, after[0] if after else None, end))
    width, height = 2 * MARGIN + WIDTH * COLUMNS, 2 * MARGIN + HEIGHT * len(shown)
    body = "\n".join(lines)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"
 font-family="ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="13">
<title>{escape(scene.title)}</title>
<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#1d2021"/>
<rect width="0" height="0"><animate id="m" attributeName="x" from="0" to="0" dur="{end:.1f}s"
 begin="0s;m.end"/></rect>
{body}
</svg>
"""


def kept(cast: Path, written: list[tuple[float, str]], scene: Scene) -> None:
    """Write an asciicast."""
    head = {"version": 2, "width": COLUMNS, "height": ROWS, "command": scene.head[0].removeprefix("$ ")}
    lines = [head, *([when, "o", data] for when, data in written)]
    cast.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read(cast: Path) -> list[tuple[float, str]]:
    """What an asciicast says was written, and when."""
    _, *lines = cast.read_text().splitlines()
    return [(when, data) for when, _, data in map(json.loads, lines)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cast", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--hosts", action="store_true", help="hosts_demo.py: five hosts, three of them lost")
    parser.add_argument("--again", action="store_true", help="draw the cast that is there")
    asked = parser.parse_args()
    scene = HOSTS if asked.hosts else KILL
    if not asked.again:
        kept(asked.cast, captured(scene.command), scene)
    asked.picture.write_text(drawn(*rows_over_time(read(asked.cast), scene), scene))


if __name__ == "__main__":
    main()
