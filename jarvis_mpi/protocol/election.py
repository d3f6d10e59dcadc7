"""Decides which node is the end user. Every decision about that is made here.

As raft elects a leader (Ongaro and Ousterhout 2014, section 5.2; Ongaro's thesis, 9.6, for the trial): a term
has one end user, a node obeys the newest term that it knows, and grants a term to one candidate. But there
are two candidates only: the end user of the term before, which goes on without its standby, and that standby.

No token is shown before the standby has it. So an end user that is cut off from its standby shows nothing
until most nodes let it go on without one; and the standby becomes the end user only if most nodes let it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from ..common.layers import END_USER

NOBODY = -1  # no node
FEWEST = 3  # voters of which one can be outvoted
TERM_BITS = 20  # an epoch is the number of its end user's first term, then so many bits of the route's


class Term(NamedTuple):
    """Who is the end user, and who takes over from it."""

    number: int = 0
    end_user: int = END_USER
    standby: int = NOBODY
    since: int = 0  # the number of this end user's first term

    @property
    def first_epoch(self) -> int:
        return self.since << TERM_BITS

    def grants(self, wanted: "Term") -> bool:
        """Whether a node that obeys this term may obey `wanted`."""
        return wanted.number > self.number or wanted == self


FIRST = Term()


def since_of(epoch: int) -> int:
    """The number of the first term of the end user that an epoch is of."""
    return epoch >> TERM_BITS


class Outcome(Enum):
    OPEN = "open"
    TRIED = "tried"  # most would grant it: now ask in earnest
    WON = "won"
    FAILED = "failed"  # refused by too many
    YIELDED = "yielded"  # another node is the end user, or will be


@dataclass(frozen=True)
class Candidacy:
    """A node asks all others to obey `wanted`: first on trial, which changes nothing anywhere."""

    me: int
    wanted: Term
    voters: frozenset[int]  # all nodes but those that are certain to be gone
    trial: bool = True
    granted: frozenset[int] = frozenset()
    refused: Mapping[int, Term] = field(default_factory=dict)  # voter -> the term that it obeys

    def with_vote(self, voter: int, grants: bool, term: Term) -> "Candidacy":
        if voter not in self.voters:
            return self
        if grants:
            return replace(self, granted=self.granted | {voter})
        return replace(self, refused={**self.refused, voter: term})

    def in_earnest(self) -> "Candidacy":
        return replace(self, trial=False, granted=frozenset({self.me}), refused={})

    @property
    def outcome(self) -> Outcome:
        newer = [term for term in self.refused.values() if term.number >= self.wanted.number]
        if any(self.me not in (term.end_user, term.standby) for term in newer):
            return Outcome.YIELDED
        # The last two: without the end user's own vote, its standby can win nothing.
        alone = self.wanted.since < self.wanted.number and len(self.voters) < FEWEST
        if alone or 2 * len(self.granted) > len(self.voters):
            return Outcome.TRIED if self.trial else Outcome.WON
        return Outcome.FAILED if 2 * len(self.refused) >= len(self.voters) else Outcome.OPEN


def candidacy(me: int, term: Term, voters: frozenset[int]) -> Candidacy:
    """Of a node of this term that wants to be the end user of the next, with no standby at first."""
    number = term.number + 1
    since = term.since if term.end_user == me else number
    return Candidacy(me, Term(number, me, NOBODY, since), voters, granted=frozenset({me}))
