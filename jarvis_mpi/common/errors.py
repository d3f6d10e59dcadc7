"""Errors that somebody must act on; each name says who."""

from collections.abc import Iterator
from contextlib import contextmanager


class Unservable(Exception):
    """The run cannot go on. Its text is the one sentence that the person at the terminal reads."""


class Shortage(Unservable):
    """This machine has too little of something at the moment. It is no fault of the request, and may pass."""


class Unanswerable(Unservable):
    """The answer of that `sequence` cannot go on, and all others can."""

    def __init__(self, sequence: int, sentence: str):
        self.sequence = sequence
        super().__init__(sentence)


@contextmanager
def concerns(sequence: int) -> Iterator[None]:
    """Turn Unservable in the body into Unanswerable, of one sequence."""
    try:
        yield
    except Unservable as error:
        raise Unanswerable(sequence, str(error)) from error
