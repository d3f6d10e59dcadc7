"""Computes what each fault of a run cost: the gap in the answer, and the work that was done again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .tables import Event


@dataclass(frozen=True)
class Fault:
    """A fault of a node, and what it cost. Times since the run's beginning."""

    node: int
    sign: str
    step: int
    noticed_s: float
    decided_s: float  # another route was taken; as `noticed_s` where none was needed
    mended_s: float  # the token under way was there; NaN: never
    gap_s: float  # that token's whole time
    recomputed: int  # positions that were run again, summed over the nodes
    announcements: tuple[str, ...]  # what the user was told about that step


def fault_costs(
    events: Sequence[Event], tokens: np.ndarray, hops: np.ndarray, follows: np.ndarray
) -> Iterator[Fault]:
    """Yield a Fault for every sign that a node's state changed.
    `follows`: [tokens] of bool, see Run.follows."""
    steps = tokens["step"].tolist()
    first_of_step = {step: len(steps) - 1 - place for place, step in enumerate(steps[::-1])}
    for event in events:
        if not event.event.isupper() or event.event == "MISSING":
            continue
        same_step = [other for other in events if other.step == event.step and other.at_s >= event.at_s]
        place = first_of_step.get(event.step)
        token = None if place is None else tokens[place]
        again = hops["rows"][hops["step"] == event.step].astype(int) - 1
        yield Fault(
            node=event.node,
            sign=event.event,
            step=event.step,
            noticed_s=event.at_s,
            decided_s=next((other.at_s for other in same_step if other.event == "route"), event.at_s),
            mended_s=np.nan if token is None else float(token["at_s"]),
            gap_s=np.nan if token is None else float(token["total_s"]),
            recomputed=int(again.sum()) if place is not None and follows[place] else 0,
            announcements=tuple(other.text for other in same_step if other.event == "rerouted"),
        )
