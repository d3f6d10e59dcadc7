"""Runs every script of this folder: whatever its files make it raise is one sentence and status 1.

A bad file hurts only itself: it is named, the others are drawn, and the status is 1, too.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

# Where jarvis_mpi is: in a checkout beside this folder; installed, this folder is in it.
sys.path.insert(
    0, next(str(each) for each in Path(__file__).resolve().parents[1:] if (each / "jarvis_mpi").is_dir())
)

from jarvis_mpi.common.boundary import guarded
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.output import spoken

INTERRUPTED = 130
Loaded = TypeVar("Loaded")
named: set[str] = set()  # sentences of what was left out


def left_out(sentence: str) -> None:
    """Say it, once; the status will be 1."""
    if sentence not in named:
        print(sentence, file=sys.stderr)
    named.add(sentence)


def each(paths: Sequence[Path], load: Callable[[Path], Loaded]) -> list[Loaded]:
    """Load the files that can be used; name the others. Raises Unservable where none can."""
    found, wrong = [], []
    for path in paths:
        try:
            with guarded(f"{path} cannot be used"):
                found.append(load(path))
        except Unservable as error:
            wrong.append(str(error))
    if not found:
        raise Unservable("\n".join(wrong))
    for sentence in wrong:
        left_out(sentence)
    return found


def run(main: Callable[[], int | None]) -> None:
    """Call `main`, and exit with its status."""
    named.clear()
    files = " ".join(word for word in sys.argv[1:] if not word.startswith("-"))
    try:
        with (
            spoken(),
            guarded(f"{Path(sys.argv[0]).name} cannot use {files}", "is it whole, and of the right kind"),
        ):
            status = main()
    except Unservable as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(status or int(bool(named)))
