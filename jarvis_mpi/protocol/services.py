"""What the end user's side of a run is given: others' abilities, and plain numbers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..common.layers import Block
from .election import FIRST, Term
from .events import RunObserver
from .expected_loss import NO_LOSS_KNOWN, ExpectedLoss
from .journal import Journalled
from .link import Link
from .speculation import NO_PROPOSALS, Proposer
from .steps_in_flight import Pace, Patience
from .wire import Vitals
from .worker import Clock, Patch, Stages, no_patch

PATIENCE = Patience()

Choose = Callable[[Any, Sequence[int], int], int]  # logits, the text so far, its sequence -> token id


class Embeds(Protocol):
    """What the head does, here."""

    def embed(self, ids: Sequence[int], start: int) -> bytes: ...
    def rows_logits(self, body: bytes | memoryview, first: int, end: int | None) -> Iterable[Any]: ...


@dataclass(frozen=True)
class Services:
    """What others do for the end user: the network, the model, the clock and whoever is told of faults."""

    link: Link
    head: Embeds
    stages: Stages  # the end user's own layers and copies
    choose: Choose
    clock: Clock
    load: Callable[[Block], Journalled]  # makes the stage of a further copy
    observer: RunObserver
    vitals: Callable[[], Vitals] = Vitals
    patch: Patch = no_patch
    drafts: Proposer = NO_PROPOSALS


@dataclass(frozen=True)
class Parameters:
    """What was set for the run, or measured before it."""

    prefill_rows: int  # of a prompt's piece, at the most
    patience: Patience = PATIENCE
    pace: Mapping[int, Pace] = field(default_factory=dict)  # node -> what it measured
    speak_s: float = 10.0  # workers hear that often that the run goes on
    row_s: float = 0.0  # how long a row may be on its way over the slowest link
    expected_loss: ExpectedLoss = NO_LOSS_KNOWN
    term: Term = FIRST
