"""Guess tokens from what the text has said before."""

from collections.abc import Hashable, Sequence

LONGEST, SHORTEST = 4, 1  # tokens that must have stood there before


class PromptLookup:
    """What followed the same tokens when they stood there last (Saxena, "Prompt Lookup Decoding", 2023)."""

    guess_s = 0.0

    def __init__(self) -> None:
        # sequence -> where each few tokens ended last, and how much of it is looked through
        self.ends: dict[int, dict[tuple[int, ...], int]] = {}
        self.done: dict[int, list[int]] = {}

    def place(self, sequence: int, ids: Sequence[int]) -> tuple[int, int]:
        """How many tokens at its end have stood there before, and where that ended; (0, 0): none."""
        ends, done = self.ends.setdefault(sequence, {}), self.done.setdefault(sequence, [])
        if list(ids[: len(done)]) != done:  # some was taken back
            ends.clear()
            done.clear()
        for end in range(len(done) + 1, len(ids)):  # not the end itself, which would be found at once
            for length in range(SHORTEST, min(LONGEST, end) + 1):
                ends[tuple(ids[end - length : end])] = end
        done += ids[len(done) : -1]
        for length in range(LONGEST, SHORTEST - 1, -1):
            key = tuple(ids[-length:])
            if key in ends:
                return length, ends[key]
        return 0, 0

    def follow(self, sequence: int, ids: Sequence[int]) -> None:
        pass

    def kind(self, sequence: int, ids: Sequence[int]) -> Hashable:
        return self.place(sequence, ids)[0] or None

    def guess(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        _, end = self.place(sequence, ids)
        coming = list(ids[end : end + most]) if end else []
        while coming and len(coming) < most:  # it repeats itself
            coming += coming[: most - len(coming)]
        return coming

    def propose_ahead(self, most: int) -> bool:
        return False

    def finished(self, sequence: int) -> None:
        self.ends.pop(sequence, None)
        self.done.pop(sequence, None)
