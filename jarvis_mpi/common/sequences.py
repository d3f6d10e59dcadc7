"""Compare two token sequences."""

from collections.abc import Sequence


def alike(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    differ = (at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
    return next(differ, min(len(a), len(b)))
