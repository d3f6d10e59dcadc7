"""A candidacy carried through: others are asked, their votes are counted, and who does not answer is asked
again."""

from collections.abc import Callable
from dataclasses import replace

from .election import Candidacy, Outcome, Term, candidacy
from .notes import Claim, Sendable, Vote

AGAIN_S = 0.5  # between two claims while too few have answered


class Campaign:
    """`send` takes what is for a node. No clock here: every call is told the time."""

    def __init__(self, me: int, send: Callable[[int, Sendable], None]):
        self.me, self.send = me, send
        self.stands: Candidacy | None = None
        self.asked_at = 0.0

    def begin(self, term: Term, voters: frozenset[int], now: float) -> Term | None:
        """Stand for the term after `term`. -> as `heard`."""
        self.stands = candidacy(self.me, term, voters)
        return self.ask(now)

    @property
    def is_open(self) -> bool:
        return self.stands is not None and self.stands.outcome is not Outcome.FAILED

    def again(self, term: Term, voters: frozenset[int], now: float) -> Term | None:
        """Ask those again who may not have heard; what was claimed in earnest cannot be taken back. -> as
        `heard`."""
        if not self.is_open or self.stands is None:
            return self.begin(term, voters, now)
        self.stands = replace(self.stands, voters=voters)
        return self.ask(now)

    def ask(self, now: float) -> Term | None:
        assert self.stands
        self.asked_at = now
        claim = Claim(self.me, self.stands.wanted, self.stands.trial)
        for node in sorted(self.stands.voters - {self.me}):
            self.send(node, claim)
        return self.counted(now)

    def heard(self, vote: Vote, now: float) -> Term | None:
        """Count a vote. -> the term that holds now, if that is decided: this node's, or another's."""
        if not self.stands or (vote.number, vote.trial) != (self.stands.wanted.number, self.stands.trial):
            return None
        self.stands = self.stands.with_vote(vote.node, vote.grants, vote.term)
        return self.counted(now)

    def counted(self, now: float) -> Term | None:
        assert self.stands
        match self.stands.outcome:
            case Outcome.TRIED:
                self.stands = self.stands.in_earnest()
                return self.ask(now)
            case Outcome.WON:
                term, self.stands = self.stands.wanted, None
                return term
            case Outcome.YIELDED:
                term, self.stands = max(self.stands.refused.values()), None
                return term
        return None

    def is_due(self, now: float) -> bool:
        """Whether too few have answered for long."""
        return self.stands is not None and now - self.asked_at > AGAIN_S

    def withdraw(self) -> None:
        """Those who must have answered are there after all; a claim in earnest goes on."""
        if self.stands and self.stands.trial:
            self.stands = None
