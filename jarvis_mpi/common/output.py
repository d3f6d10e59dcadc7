"""Standard output, for every command: UTF-8 in every locale, and where it cannot be written the command ends.

A full disk is one sentence, and never blamed on a file that was read. Where the reader has gone (`| head -1`), the command
ends quietly, with the status that a shell gives a program that SIGPIPE ended.
"""

import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

READER_GONE = 128 + signal.SIGPIPE


class Unwritable(SystemExit):
    """No OSError, and none of Exception's kind: whoever guards a file's reading is not meant."""

    def __init__(self, error: OSError):
        self.gone = isinstance(error, BrokenPipeError)
        self.why = error.strerror or str(error)
        self.sentence = (
            "nobody reads the answers any more: standard output is closed"
            if self.gone
            else f"standard output cannot be written: {self.why}: make room there, or send it elsewhere"
        )
        super().__init__(READER_GONE if self.gone else self.sentence)


class Descriptor(io.FileIO):
    """Raises Unwritable once if it is `needed`; what comes later is for nobody."""

    def __init__(self, descriptor: int, own: bool, needed: bool):
        super().__init__(descriptor, "w", closefd=own)
        self.needed, self.dead = needed, False

    def write(self, data) -> int:  # type: ignore[override]
        """All of it."""
        rows = memoryview(data).cast("B")
        at = 0
        while at < len(rows) and not self.dead:
            try:
                count = super().write(rows[at:])
            except OSError as error:
                self.dead = True
                if self.needed:
                    raise Unwritable(error) from None
            else:
                at += count or 0
                if count is None:  # it does not block, and is full
                    select.select([], [self], [])
        return len(rows)


def stream(descriptor: int, own: bool = False, at_once: bool = False, needed: bool = True) -> TextIO:
    """Text for the descriptor, which is closed in the end if it is `own`. What no encoding has letters for is escaped."""
    raw = Descriptor(descriptor, own, needed)
    return io.TextIOWrapper(
        raw if at_once else io.BufferedWriter(raw),  # type: ignore[arg-type]
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or not needed,
        write_through=at_once,
    )


@contextmanager
def spoken() -> Iterator[None]:
    """Standard output is as this file's head says, and all of it is written at the end; what standard error does not take
    is dropped. Raises Unwritable."""
    for name in ("stdout", "stderr"):
        current = getattr(sys, name)
        if current is None:  # closed; its number is not to become that of a file which is written
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif current is getattr(sys, f"__{name}__") and isinstance(current, io.TextIOWrapper):
            needed = name == "stdout"
            setattr(sys, name, stream(current.fileno(), at_once=current.write_through, needed=needed))
    try:
        yield
    finally:
        sys.stdout.flush()


def run(main: Callable[[], int | str | None]) -> NoReturn:
    """Call `main`, and exit with its status."""
    with spoken():
        status = main()
    sys.exit(status)
