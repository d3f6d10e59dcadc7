"""Drafts: guesses of the tokens to come, which travel behind a token and are checked in one way round.

A guess is right where it is the token that is chosen: the text is the one without drafts, drawn or not (for a
single guess, no test accepts more: Leviathan et al., "Fast Inference from Transformers via Speculative
Decoding", 2023). What is guessed wrong costs its rows' way, so that as many travel as pay.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

Clock = Callable[[], float]

FORGET = 0.95  # the weight that an observation has left after a step
PRIOR_RIGHT, PRIOR_TRIED = 1.0, 2.0  # guesses, before any was seen: about half are right
RECOVER = 0.02  # of what is known goes when nothing was tried: the text may have changed
LATELY, TRIED_ENOUGH = 0.2, 3  # the weight of what was seen last; times
SURPRISE = 4.0  # times the usual time: a fault's, not a step's
TRIALS = 0.03  # of the time, for guesses that did not seem to pay: they may by now


class Proposer(Protocol):
    """Who guesses."""

    def propose(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        """What may follow `ids`, `most` tokens at the most."""
        ...

    def observe(self, sequence: int, drafted: int, right: int, seconds: float) -> None:
        """A step with `drafted` drafts returned after `seconds`, and `right` of them were right."""
        ...

    def propose_ahead(self) -> bool:
        """Guess on while the others work. -> whether there was anything to do."""
        ...

    def finished(self, sequence: int) -> None:
        """It does not go on."""
        ...


class NoProposals:
    def propose(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        return ()

    def observe(self, sequence: int, drafted: int, right: int, seconds: float) -> None:
        pass

    def propose_ahead(self) -> bool:
        return False

    def finished(self, sequence: int) -> None:
        pass


NO_PROPOSALS = NoProposals()


class Source(Protocol):
    """Where guesses come from."""

    guess_s: float  # that one guess takes

    def follow(self, sequence: int, ids: Sequence[int]) -> None:
        """The text so far; `propose_ahead` may work on it."""
        ...

    def kind(self, sequence: int, ids: Sequence[int]) -> Hashable:
        """Of what it would guess now; None: nothing."""
        ...

    def guess(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]: ...
    def propose_ahead(self, most: int) -> bool: ...
    def finished(self, sequence: int) -> None: ...


class Rate:
    """How often guesses of a kind are right."""

    def __init__(self) -> None:
        self.right, self.tried = PRIOR_RIGHT, PRIOR_TRIED
        self.without = 0  # steps since the last guess

    @property
    def share(self) -> float:
        return self.right / self.tried

    def add(self, right: int, tried: int) -> None:
        self.right, self.tried = FORGET * self.right + right, FORGET * self.tried + tried

    def recover(self) -> None:
        self.right += RECOVER * (PRIOR_RIGHT - self.right)
        self.tried += RECOVER * (PRIOR_TRIED - self.tried)


class Times:
    """Seconds of a step, by its number of drafts: as it was lately; of a number that was hardly tried, by a
    line through the others.

    A line alone would not do: where a message outgrows a packet, or what a connection sends without being
    answered, the time jumps.
    """

    def __init__(self, slope_s: float):
        self.prior_s = slope_s
        self.sums = [0.0] * 5  # of 1, x, y, x x, x y
        self.lately: dict[int, tuple[int, float]] = {}  # count -> how often it was tried, and its seconds

    @property
    def known(self) -> bool:
        return self.sums[0] > 0

    def add(self, drafts: int, seconds: float) -> None:
        if self.sums[0] > 1 and seconds > SURPRISE * self.seconds(drafts):
            return
        new = (1.0, drafts, seconds, drafts * drafts, drafts * seconds)
        self.sums = [FORGET * old + more for old, more in zip(self.sums, new, strict=True)]
        tried, before_s = self.lately.get(drafts, (0, 0.0))
        weight = max(1 / (tried + 1), LATELY)
        self.lately[drafts] = tried + 1, before_s + weight * (seconds - before_s)

    def fit(self) -> tuple[float, float]:
        """-> a step without drafts, and each draft more, by least squares."""
        count, x, y, xx, xy = self.sums
        spread = xx - x * x / count
        # The slope that was given at first weighs as much as one draft tried.
        slope = max(0.0, (xy - x * y / count + self.prior_s) / (spread + 1.0))
        return max((y - slope * x) / count, 1e-9), slope

    def seconds(self, drafts: int) -> float:
        tried, seconds = self.lately.get(drafts, (0, 0.0))
        if tried >= (TRIED_ENOUGH if drafts else 1):
            return seconds
        step_s, draft_s = self.fit()
        return step_s + drafts * draft_s


class AdaptiveProposer:
    """Of `source`, `most` behind a token: as many as make the text come fastest, by what was seen lately."""

    def __init__(self, source: Source, most: int, row_s: float, clock: Clock):
        """`row_s`: what one row more takes all nodes."""
        self.source, self.most, self.clock = source, most, clock
        self.rates: dict[Hashable, Rate] = {}
        self.under_way: dict[int, Hashable] = {}  # sequence -> the kind of its guesses
        self.begun: set[int] = set()  # sequences
        self.expected: dict[int, float] = {}  # sequence -> when its step should return
        self.times, self.guess_s, self.pays = Times(row_s), source.guess_s, True

    def propose(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        self.source.follow(sequence, ids)
        kind = self.source.kind(sequence, ids) if most > 0 else None
        tokens = self.guessed(kind, sequence, ids, most) if kind is not None and self.times.known else ()
        if self.times.known and sequence in self.begun:
            self.expected[sequence] = self.clock() + self.times.seconds(len(tokens))
        return tokens

    def guessed(self, kind: Hashable, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        rate = self.rates.setdefault(kind, Rate())
        count = self.worthwhile(rate.share, min(most, self.most))
        self.pays = count > 0
        if not count:
            rate.recover()
            rate.without += 1
            step_s = self.times.seconds(0)
            if self.times.seconds(1) + self.guess_s - step_s > TRIALS * rate.without * step_s:
                return ()
        rate.without, count = 0, max(count, 1)
        begun = self.clock()
        tokens = self.source.guess(sequence, ids, count)
        if tokens:
            self.guess_s += 0.1 * ((self.clock() - begun) / len(tokens) - self.guess_s)
            self.under_way[sequence] = kind
        return tokens

    def worthwhile(self, share: float, most: int) -> int:
        """How many: the most tokens a second that are to be expected."""
        best, best_rate, tokens = 0, 1 / self.times.seconds(0), 1.0
        for count in range(1, most + 1):
            tokens += share**count
            rate = tokens / (self.times.seconds(count) + count * self.guess_s)
            if rate > best_rate:
                best, best_rate = count, rate
        return best

    def observe(self, sequence: int, drafted: int, right: int, seconds: float) -> None:
        first = sequence not in self.begun
        self.begun.add(sequence)
        self.expected.pop(sequence, None)
        if drafted:
            tried = min(right + 1, drafted)
            self.rates[self.under_way.pop(sequence)].add(right, tried)
        if not first:  # its prompt took more
            self.times.add(drafted, seconds)

    def propose_ahead(self) -> bool:
        """Not where a step would return meanwhile, and wait."""
        ends_at = self.clock() + self.source.guess_s
        if not self.pays or any(ends_at > at for at in self.expected.values()):
            return False
        return self.source.propose_ahead(self.most)

    def finished(self, sequence: int) -> None:
        self.expected.pop(sequence, None)
        self.under_way.pop(sequence, None)
        self.begun.discard(sequence)
        self.source.finished(sequence)
