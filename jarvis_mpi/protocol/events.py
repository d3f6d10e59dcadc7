"""What a run's observers hear of: tokens, changes of the route."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..common.layers import Block, named
from .cluster import Hop
from .node_state import Sign
from .wire import Message


class Both:
    """Pass every call on to all of `others`."""

    def __init__(self, *others: Any):
        self.others = others

    def __getattr__(self, name: str) -> Callable[..., None]:
        def tell(*what: Any) -> None:
            for other in self.others:
                getattr(other, name)(*what)

        return tell


@dataclass(frozen=True)
class Change:
    """From `step` on, `block` is run by another node than before, or by none."""

    step: int
    block: Block
    node: int  # whose block it was until now; its owner if nobody's
    sign: Sign  # the last one seen of that node, or of its owner
    to: int | None  # who runs it now; None: it is patched or skipped
    inexact: bool  # layers before it are or were missing: its cache is not what it would have been
    patched_by: int | None = None  # the node before the hole
    loss: str = ""  # what is expected of the hole

    def __str__(self) -> str:
        if self.to is None:
            patched = self.patched_by is not None
            what = (
                f"{named(self.block)} {'patched' if patched else 'skipped'}{self.loss and f': {self.loss}'}"
            )
        elif self.to == self.node:
            what = f"{named(self.block)} on it again"
        else:
            what = f"{named(self.block)} from the copy on {f'node {self.to}' if self.to else 'the end user'}"
        inexact = ", inexact for what was skipped before" if self.inexact and self.to is not None else ""
        return f"node {self.node} {self.sign.value} at step {self.step}: {what}{inexact}"


class RunObserver(Protocol):
    """Who is told of faults: the record and the screen."""

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None: ...
    def route(self, at_s: float, step: int, epoch: int, route: tuple[Hop, ...]) -> None: ...
    def change(self, at_s: float, change: Change) -> None: ...
    def copy(self, at_s: float, step: int, node: int, block: Block) -> None: ...
    def last_words(self, at_s: float, step: int, node: int, words: str) -> None: ...
    def shrunk(self, at_s: float, step: int, nodes: Sequence[int]) -> None: ...
    def stands_by(self, at_s: float, step: int, node: int) -> None: ...
    def offset(self, at_s: float, node: int, offset_s: float, uncertainty_s: float) -> None: ...


@dataclass(frozen=True)
class Token:
    """One token of an answer, and what it cost."""

    sequence: int
    step: int
    position: int
    id: int
    at_s: float  # when it was chosen, by the end user's clock
    total_s: float  # from the token before it to this one: what was done with that one counts too
    head_s: float  # of that: embedding, logits, choice
    # What returned: their `runs` tell each stage's part. None: it came as a draft, with the token before.
    pieces: tuple[Message, ...]
