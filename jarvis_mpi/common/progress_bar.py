"""A progress bar on standard error, with the time left; a line now and then where that is no terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .console import console
from .messages import say

AGAIN_S = 10.0


@contextmanager
def bar(total: int, name: str) -> Iterator[Callable[[int], None]]:
    """Show progress to `total`; yield a function that takes the number of further things done."""
    columns = (
        TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    if not sys.stderr.isatty():
        yield PlainLines(total, name).advance
        return
    with Progress(*columns, console=console(sys.stderr)) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)


class PlainLines:
    """Progress as plain lines, one every AGAIN_S seconds at the most."""

    def __init__(self, total: int, name: str) -> None:
        self.total, self.name, self.done = total, name, 0
        self.begun = self.last = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        if (now := time.monotonic()) - self.last >= AGAIN_S:
            self.last = now
            say(f"{self.name}: {self.done} of {self.total} after {now - self.begun:.0f} s")
