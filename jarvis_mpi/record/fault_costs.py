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
    steps, at_s = tokens["step"].tolist(), tokens["at_s"].tolist()
    resumed_s = [event.at_s for event in events if event.event == "resumed"]
    for event in events:
        if not event.event.isupper() or event.event == "MISSING":
            continue
        # What came after the run was resumed has the same steps again, and nothing to do with this.
        begin_s = max((at for at in resumed_s if at <= event.at_s), default=-np.inf)
        end_s = min((at for at in resumed_s if at > event.at_s), default=np.inf)
        same_step = [
            other for other in events if other.step == event.step and event.at_s <= other.at_s < end_s
        ]
        places = (place for place, step in enumerate(steps) if step == event.step)
        place = next((place for place in places if begin_s <= at_s[place] < end_s), None)
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
