"""Parse the command lines of the tools beside a run.
An error is one sentence, printed by one rank, before any work."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ..common import variables
from ..common.errors import Unservable
from ..common.options import Parser
from ..common.settings import flag, is_utf8, refuse_beyond

USAGE = 2  # exit status
LONGEST = 300  # characters of an error
MOST_SHOWN = 5  # sentences of one kind that are printed; the others are counted

Refuse = Callable[[str, str], None]  # called with a thing, and with what of it is left out


class ToolParser(Parser):
    def error(self, message: str) -> NoReturn:
        raise Unservable(f"{message[:LONGEST]} (see {self.prog} --help)")


def options(
    made: ToolParser, words: Sequence[str], limits: Mapping[str, tuple[float, float | None]]
) -> argparse.Namespace:
    """Parse and check a tool's options. Raises SystemExit after an error's sentence, or after --help."""
    from ..net.launcher import complains

    try:
        speaks = complains()
    except variables.Wrong as error:
        raise SystemExit(str(error)) from None
    try:
        with contextlib.redirect_stdout(sys.stdout if speaks else io.StringIO()):
            asked = made.parse_args(words)
        for name, value in vars(asked).items():
            if isinstance(value, Path):  # a shell leaves ~ alone behind --option=
                setattr(asked, name, Path(os.path.expanduser(value)))  # noqa: PTH111 (no error without a home)
            if not is_utf8(str(value)):
                raise Unservable(f"{flag(name)} is not UTF-8 text")
        refuse_beyond(asked, limits)
    except Unservable as error:
        if speaks:
            print(error, file=sys.stderr)
        # Another rank's status would make mpirun end the one that prints before it has.
        raise SystemExit(USAGE if speaks else 0) from None
    return asked


def use_threads(wanted: int) -> None:
    """Set torch's threads, no more than there are cores; 0: as torch chooses."""
    import torch

    if wanted:
        torch.set_num_threads(min(wanted, os.cpu_count() or 1))


def refuse_place(option: str, path: Path, is_folder: bool = False) -> None:
    """Check before hours of work that the result can be written. Raises Unservable."""
    if path.exists() and not (path.is_dir() if is_folder else path.is_file()):  # a device would be replaced
        advice = "no folder: name one" if is_folder else "no file: name one"
        raise Unservable(f"{option} {path} is {advice}")
    place = next(each for each in (path, *path.absolute().parents) if each.exists())
    if place != path and not place.is_dir():
        raise Unservable(f"{option} {path} cannot be made: {place} is no folder")
    if not os.access(place, os.W_OK):
        raise Unservable(f"{option} {path} cannot be written: {place} is not writable")


class LeftOut:
    """Reports and counts the bad items among good ones, which are left out."""

    def __init__(self, say: Callable[[str], None]):
        self.say, self.counts = say, dict[str, int]()

    def __call__(self, what: str, sentence: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        if self.counts[what] <= MOST_SHOWN:
            self.say(f"{what}: {sentence}")

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def tell_more(self) -> None:
        """Print how many more were only counted. Called once, when all is read."""
        for what, count in self.counts.items():
            if count > MOST_SHOWN:
                self.say(f"{what}: {count - MOST_SHOWN} more are left out")
