"""Errors that somebody must act on; each name says who."""

from collections.abc import Iterator
from contextlib import contextmanager


class Unservable(Exception):
    """The run cannot go on. Its text is the one sentence that the person at the terminal reads."""


class Shortage(Unservable):
    """This machine has too little of something at the moment: it says nothing of what was asked, and may pass."""


class Unanswerable(Unservable):
    """The answer of that `sequence` cannot go on, and all others can."""

    def __init__(self, sequence: int, sentence: str):
        self.sequence = sequence
        super().__init__(sentence)


@contextmanager
def concerns(sequence: int) -> Iterator[None]:
    """What makes a run impossible inside, makes one answer impossible."""
    try:
        yield
    except Unservable as error:
        raise Unanswerable(sequence, str(error)) from error
