"""Compare two sequences."""

from collections.abc import Sequence


def alike(a: Sequence[object], b: Sequence[object]) -> int:
    """Return how many items (tokens, characters) both begin with."""
    differ = (at for at, (one, other) in enumerate(zip(a, b, strict=False)) if one != other)
    return next(differ, min(len(a), len(b)))
