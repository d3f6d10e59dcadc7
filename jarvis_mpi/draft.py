"""Drafts: guesses of the tokens to come, which travel behind a token and are checked in one way round."""

from collections.abc import Sequence
from typing import Protocol


class Drafts(Protocol):
    """Who guesses. What is guessed wrong costs its rows' way, never a wrong token."""

    def of(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        """What may follow `ids`, `most` tokens at the most."""
        ...

    def seen(self, sequence: int, drafted: int, right: int, seconds: float) -> None:
        """A step with so many drafts came home after that time, and so many were right."""
        ...

    def over(self, sequence: int) -> None:
        """It does not go on."""
        ...


class NoDrafts:
    def of(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        return ()

    def seen(self, sequence: int, drafted: int, right: int, seconds: float) -> None:
        pass

    def over(self, sequence: int) -> None:
        pass


NO_DRAFTS = NoDrafts()
