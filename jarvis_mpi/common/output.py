"""Standard output, for every command: UTF-8 in every locale; the command ends where it cannot be written.

A full disk is one sentence, and never blamed on a file that was read. Where the reader is gone (`| head -1`),
the command ends quietly, with the status that a shell gives a program that SIGPIPE ended.
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
    """Standard output cannot be written.
    It is neither an OSError nor an Exception, so that no handler of a file's reading catches it."""

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
    """A file descriptor that raises Unwritable once if it is `needed`; what is written later is dropped."""

    def __init__(self, descriptor: int, own: bool, needed: bool):
        super().__init__(descriptor, "w", closefd=own)
        self.needed, self.dead = needed, False

    def write(self, data) -> int:  # type: ignore[override]
        """Write all of `data`."""
        rows = memoryview(data).cast("B")
        at = 0
        while at < len(rows) and not self.dead:
            try:
                count = self.write_some(rows[at:])
            except OSError as error:
                self.dead = True
                if self.needed:
                    raise Unwritable(error) from None
            else:
                at += count or 0
                if count is None:  # a full pipe that does not block
                    select.select([], [self], [])
        return len(rows)

    def write_some(self, data: memoryview) -> int | None:
        """Write what the system takes at once; None where that is nothing. Raises OSError."""
        return super().write(data)


def stream(descriptor: int, own: bool = False, at_once: bool = False, needed: bool = True) -> TextIO:
    """Open a descriptor for text; it is closed in the end if it is `own`."""
    return text_stream(Descriptor(descriptor, own, needed), at_once)


def text_stream(raw: Descriptor, at_once: bool = False) -> TextIO:
    """Return `raw` as a stream of text. Characters that cannot be encoded are escaped."""
    return io.TextIOWrapper(
        raw if at_once else io.BufferedWriter(raw),  # type: ignore[arg-type]
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=raw.isatty() or not raw.needed,
        write_through=at_once,
    )


@contextmanager
def spoken() -> Iterator[None]:
    """Set standard output up as this module says, and write all of it at the end; what standard error does
    not take is dropped. Raises Unwritable."""
    for name in ("stdout", "stderr"):
        current = getattr(sys, name)
        if current is None:  # closed; a file that is opened later must not get its number
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
