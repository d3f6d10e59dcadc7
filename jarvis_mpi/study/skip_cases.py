"""Name the cases of the skip study, by the layers that each leaves out, and share their states: all before a
hole is run once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import TypeVar

from ..common.errors import Unservable
from ..common.layers import Case
from ..record.study_file import WHOLE

State = TypeVar("State")
MOST_DIGITS = 9
LONGEST = 60  # characters shown of a wrong word


def singles(depth: int) -> list[Case]:
    return [frozenset([layer]) for layer in range(depth)]


def pairs(depth: int) -> list[Case]:
    return [frozenset(pair) for pair in combinations(range(depth), 2)]


def runs(depth: int, most: int) -> list[Case]:
    """Return every contiguous block of 1 to `most` layers."""
    return [
        frozenset(range(first, first + count))
        for count in range(1, most + 1)
        for first in range(depth - count + 1)
    ]


def named(words: str, depth: int) -> list[Case]:
    """Parse 'singles,pairs,blocks-8', and cases by hand such as '3+7+8': return the cases, the whole model
    first, each once.

    Raises Unservable.
    """
    found = [WHOLE]
    for word in words.split(","):
        kind, _, number = word.strip().partition("-")
        if kind == "singles" and not number:
            found += singles(depth)
        elif kind == "pairs" and not number:
            found += pairs(depth)
        elif kind == "blocks" and number_of(number) > 0:
            found += runs(depth, min(int(number), depth - 1))  # one layer at least is left
        else:
            found.append(by_hand(word.strip(), depth))
    return list(dict.fromkeys(found))


def by_hand(word: str, depth: int) -> Case:
    layers = frozenset(map(number_of, word.split("+")))
    if not all(0 <= layer < depth for layer in layers) or len(layers) == depth:
        raise Unservable(
            f"--cases holds {word[:LONGEST]!r}, which is none of: singles, pairs, blocks-N, "
            f"or layers from 0 to {depth - 1} such as 3+7"
        )
    return layers


def number_of(word: str) -> int:
    """Return a word's number; -1 where it is none: other alphabets have digits too, and no layer has many."""
    return int(word) if word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS else -1


def walk(
    cases: Sequence[Case], depth: int, first: int, state: State, run: Callable[[int, State], State]
) -> Iterator[tuple[Case, State]]:
    """Yield each case and its state after the last layer, from `state` before layer `first`, which all of
    them share.

    `run` takes a state through a layer. Cases part where one leaves a layer out and another does not: the
    layers before are run once for both.
    """
    if first == depth:
        for case in cases:
            yield case, state
        return
    through = [case for case in cases if first not in case]
    around = [case for case in cases if first in case]
    if around:
        yield from walk(around, depth, first + 1, state, run)
    if through:
        yield from walk(through, depth, first + 1, run(first, state), run)


def passes(cases: Iterable[Case], depth: int) -> tuple[int, int]:
    """Return the layer passes that `cases` take with shared states, and without."""
    known = list(cases)
    shared = 0

    def count(layer: int, state: int) -> int:
        nonlocal shared
        shared += 1
        return state

    for _ in walk(known, depth, 0, 0, count):
        pass
    return shared, sum(depth - len(case) for case in known)
