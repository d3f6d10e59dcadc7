"""Tells whether an end user knows enough to decide what is to be done without the others."""

from collections.abc import Callable

from .election import FEWEST

AWAY_S = 1.0  # less than a standby waits for an end user


class Doubt:
    """Of an end user that may be cut off, and so take the others for silent, one after the other."""

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.settled_at, self.waits = clock, 0.0, False

    def is_cut_off(self, quiet: int, voters: int, with_standby: bool) -> bool:
        """Whether so many are quiet, the standby among them, that it may have taken over; or were just now,
        and not all of them are heard again."""
        if with_standby and voters >= FEWEST and 2 * quiet >= voters:
            self.settled_at = self.clock() + AWAY_S
        return bool(quiet) and self.clock() < self.settled_at

    def can_decide(self, has_notices: bool, unsure: bool) -> bool:
        """Whether there is something to decide: by what was noticed, or what could not be decided before."""
        waited, self.waits = self.waits, unsure
        return (has_notices or waited) and not unsure
