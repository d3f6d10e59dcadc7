"""What nodes tell each other beside steps and beats: each kind of note is a class.

On the wire a note is JSON: its fields in their order, under their own names or the one in `key`; a block is
[first, end]. A reader names the kinds that concern it, and is given one of them or None.
"""

import json
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, ClassVar, Self, TypeVar

from ..common.layers import Block
from .election import Term
from .steps_in_flight import Pace
from .transcript import Entry, Ran
from .wire import Garbled, Kind, Message, read_note


@dataclass(frozen=True)
class Note:
    """`MARK`: the key that no other kind has."""

    MARK: ClassVar[str]

    def pack(self) -> bytes:
        values = asdict(self)
        payload = {key_of(each): values[each.name] for each in fields(self)}
        return Message(Kind.NOTE, body=json.dumps(payload, default=ends).encode()).pack()

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """Raises KeyError where a field is missing, TypeError where one is no such value."""
        return cls(**{each.name: typed(each.type, payload[key_of(each)]) for each in fields(cls)})


PLAIN: dict[Any, Any] = {int: int, float: (int, float), str: str, bool: bool}
Sendable = Message | Note
SomeNote = TypeVar("SomeNote", bound=Note)


def read(message: Message, *kinds: type[SomeNote]) -> SomeNote | None:
    """None: it is a note of another kind. Raises Garbled."""
    payload = read_note(message)
    try:
        return next((kind.of(payload) for kind in kinds if kind.MARK in payload), None)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Garbled(f"a note whose fields are others: {error!r}") from None


def key(name: str) -> dict[str, str]:
    """A field's metadata: its name on the wire."""
    return {"key": name}


def key_of(each: Field[Any]) -> str:
    return each.metadata.get("key", each.name)


def ends(block: Block) -> list[int]:
    return [block.start, block.stop]


def typed(kind: Any, value: Any) -> Any:
    """A value out of JSON as what it was. Raises TypeError where it is another's."""
    if kind in PLAIN and not (isinstance(value, PLAIN[kind]) and (kind is bool or type(value) is not bool)):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    if kind is Block:
        return range(*value)
    if kind == list[Block]:
        return [range(*each) for each in value]
    if kind is Term:
        return Term(*map(whole, value))
    if kind == list[Ran]:
        return [Ran(*map(whole, each)) for each in value]
    if kind == list[Entry] and not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return Pace(*value) if kind is Pace else value


def whole(value: Any) -> int:
    return int(typed(int, value))


# -- to a worker


@dataclass(frozen=True)
class Ping(Note):
    """What does your clock say?"""

    MARK = "ping"
    sent_at: float = field(metadata=key(MARK))


@dataclass(frozen=True)
class ForgetSequence(Note):
    """The sequence does not go on."""

    MARK = "over"
    sequence: int = field(metadata=key(MARK))


@dataclass(frozen=True)
class LoadCopy(Note):
    MARK = "load"
    block: Block = field(metadata=key(MARK))


@dataclass(frozen=True)
class StandBy(Note):
    """Make ready to take over: these blocks, and what else an end user has."""

    MARK = "stand_by"
    blocks: list[Block] = field(metadata=key(MARK))


@dataclass(frozen=True)
class Shrink(Note):
    """Take part in the communicator's shrinking to `members`; `certain`: MPI knows that the others are
    gone."""

    MARK = "shrink"
    members: list[int] = field(metadata=key(MARK))
    attempt: int
    certain: bool


# -- to the end user


@dataclass(frozen=True)
class Ready(Note):
    """The node has loaded its block in `loaded_s`, and measured its `pace`."""

    MARK = "loaded_s"
    node: int
    loaded_s: float
    pace: Pace


@dataclass(frozen=True)
class Pong(Note):
    """The answer to a Ping that was sent at `asked_at`, by the end user's clock; `clock_s`: by the node's."""

    MARK = "pong"
    node: int
    asked_at: float = field(metadata=key(MARK))
    clock_s: float


@dataclass(frozen=True)
class StageBehind(Note):
    """The node's stage of `block` has run `have` positions, and lacks some before those it was sent."""

    MARK = "behind"
    node: int
    sequence: int
    epoch: int
    block: Block = field(metadata=key(MARK))
    have: int


@dataclass(frozen=True)
class CopyLoaded(Note):
    MARK = "loaded"
    node: int
    block: Block = field(metadata=key(MARK))


@dataclass(frozen=True)
class CopyRefused(Note):
    """The block's tensors are not on the node's machine."""

    MARK = "cannot_load"
    node: int
    block: Block = field(metadata=key(MARK))


@dataclass(frozen=True)
class StandsBy(Note):
    """The node is ready to take over; not `able`: it lacks what it needs for that."""

    MARK = "able"
    node: int
    able: bool = field(metadata=key(MARK))


@dataclass(frozen=True)
class Failed(Note):
    """The node dies of an exception, in a moment."""

    MARK = "failed"
    node: int
    traceback: str = field(metadata=key(MARK))


@dataclass(frozen=True)
class GivesUp(Note):
    """The node says why it cannot take part."""

    MARK = "gives_up"
    node: int
    host: str
    sentence: str = field(metadata=key(MARK))


@dataclass(frozen=True)
class Farewell(Note):
    """The node's answer to the end user's goodbye; `peak_bytes`: its largest resident memory."""

    MARK = "peak_bytes"
    node: int
    peak_bytes: int


# -- about who is the end user: see election.py


@dataclass(frozen=True)
class Claim(Note):
    """The node wants to be the end user of `term`; `trial`: would you let it?"""

    MARK = "claim"
    node: int = field(metadata=key(MARK))
    term: Term
    trial: bool


@dataclass(frozen=True)
class Vote(Note):
    """The node's answer to the claim of term `number`: whether it `grants` it, the `term` that it obeys, and
    what its stages have run. Unasked, `number` 0: an end user before hears that there is another."""

    MARK = "vote"
    node: int = field(metadata=key(MARK))
    number: int
    trial: bool
    grants: bool
    term: Term
    ran: list[Ran]


@dataclass(frozen=True)
class Entries(Note):
    """What the standby is to know: the entries from number `first` on."""

    MARK = "entries"
    first: int
    entries: list[Entry] = field(metadata=key(MARK))


@dataclass(frozen=True)
class Acknowledged(Note):
    """The standby has so many entries."""

    MARK = "acknowledged"
    node: int
    count: int = field(metadata=key(MARK))
