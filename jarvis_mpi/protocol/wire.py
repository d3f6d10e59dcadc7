"""A message as bytes: what is to be done with an activation, then the activation.

Source routing: a message carries the hops still ahead of it, so a worker knows no route. It also
carries what was really run on the way, with each node's timings, so that the end user's record
needs no clock but each node's own and is whole even if a worker dies later.

    header | hops ahead | runs done | layers lacking | body          (little endian, no padding, no pickle)
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from ..common.layers import Block
from .cluster import Hop

VERSION = 8  # of this format; nodes compare it at the start

# magic, version, kind, hops, runs, bytes of `lacks`, sequence to branch
HEADER = struct.Struct("<4sBBBBHIIIIIIHH")
HOP = struct.Struct("<HHHIB")  # node, first layer, layers, since, patch
# node, first layer, layers, rows, three durations, bytes, at_s, patch, Vitals
RUN = struct.Struct("<HHHIfffIdBIhH")
BEAT = struct.Struct("<HfB")  # see Beat; then, for each sequence:
REACHED = struct.Struct("<IIIH")  # the sequence, and Reached
MAGIC = b"JMPI"
TOGETHER, APART = b"together", b"apart"


class Garbled(ValueError):
    """What came is no message, or none that its sender can mean: it is dropped, and counted."""


class OtherVersion(Garbled):
    """It is a message of another version of this format."""


class Kind(IntEnum):
    STEP = 0  # run this activation and pass it on
    NOTE = 1  # JSON: see notes.py
    GOODBYE = 2  # the run is over: leave; its body tells how it ended
    BEAT = 3  # a worker lives; its body is a Beat


KINDS = frozenset(Kind)

NO_TEMPERATURE = -300  # below the absolute zero: the machine does not tell


class Vitals(NamedTuple):
    """A node's process and machine, at most a second ago."""

    memory_kib: int = 0  # resident
    temperature_c: int = NO_TEMPERATURE
    clock_mhz: int = 0  # 0: the machine does not tell


class StageRun(NamedTuple):
    """One stage's work on one message, in seconds of its own node's monotonic clock."""

    node: int
    block: Block
    rows: int  # positions run, the last of them the message's; more than it was new for are a catch-up
    wait_s: float  # from the end of this node's last work to the arrival of the message
    compute_s: float  # inside the stage
    sent_s: float  # how long sending the node's *previous* message took (this one is not sent yet)
    received_bytes: int  # the whole message, as it came in; 0 if it came from the node itself
    at_s: float = 0.0  # when the work began, by the node's own clock
    patch: bool = False  # of the block's layers none was run: their patch was put in their place
    vitals: Vitals = Vitals()


class Reached(NamedTuple):
    """The last step of a sequence that a node ran to its end."""

    epoch: int
    end: int  # its last position was `end` - 1
    layer: int  # the one after those it ran


class Beat(NamedTuple):
    """What a worker says of itself when it has passed nothing on for a while."""

    node: int
    busy_s: float  # how long it has been working on a step now; 0: it waits
    sending: bool  # something that it sent is not under way yet
    reached: Mapping[int, Reached]  # of each sequence that it knows

    def pack(self) -> bytes:
        reached = (REACHED.pack(sequence, *last) for sequence, last in self.reached.items())
        body = b"".join([BEAT.pack(self.node, self.busy_s, self.sending), *reached])
        return Message(Kind.BEAT, body=body).pack()

    @classmethod
    def of(cls, message: "Message") -> "Beat":
        """Raises Garbled."""
        rest = len(message.body) - BEAT.size
        if rest < 0 or rest % REACHED.size:
            raise Garbled(f"a beat of {len(message.body)} bytes")
        node, busy_s, sending = BEAT.unpack_from(message.body)
        reached = REACHED.iter_unpack(memoryview(message.body)[BEAT.size :])
        return cls(node, busy_s, bool(sending), {sequence: Reached(*last) for sequence, *last in reached})


@dataclass(frozen=True)
class Message:
    """See the module. `body` of a STEP is an activation: `rows` rows in the run's dtype."""

    kind: Kind
    sequence: int = 0  # which text; several are in flight
    # A new one for every route, and for a step sent again: what has an older one is late and changes nothing.
    epoch: int = 0
    step: int = 0  # its number; the same if it is sent again
    start: int = 0  # position of the first row in its sequence
    rows: int = 0  # positions; the body's length tells the rest
    # Position of the step's first row: what was run from there on in older steps does not count.
    first: int = 0
    drafted: int = 0  # of its last rows: tokens that are only guessed
    branch: int = 0  # how often some of the text was taken back
    ahead: tuple[Hop, ...] = ()
    runs: tuple[StageRun, ...] = ()
    lacks: int = 0  # layers that some position before, or a row of this one, went without: bit l is layer l
    body: bytes | memoryview = field(default=b"", repr=False)

    @property
    def end(self) -> int:
        """The position after the last row."""
        return self.start + self.rows

    @property
    def since_home(self) -> int:
        """The position of the first row that home needs: the last one that is no draft."""
        return self.end - 1 - self.drafted

    def blocks_of(self, node: int) -> list[Block]:
        """The blocks that `node` is to run of it."""
        return [hop.block for hop in self.ahead if hop.node == node and not hop.patch]

    def pack(self) -> bytes:
        lacks = self.lacks.to_bytes(2 * -(-self.lacks.bit_length() // 16), "little")
        parts = [
            HEADER.pack(
                MAGIC, VERSION, self.kind, len(self.ahead), len(self.runs), len(lacks),
                self.sequence, self.epoch, self.step, self.start, self.rows, self.first, self.drafted,
                self.branch,
            )
        ]  # fmt: skip
        parts += [HOP.pack(hop.node, hop.block.start, len(hop.block), *hop[2:]) for hop in self.ahead]
        parts += [
            RUN.pack(run.node, run.block.start, len(run.block), *run[2:-1], *run.vitals) for run in self.runs
        ]
        return b"".join([*parts, lacks, self.body])

    @classmethod
    def unpack(cls, data: bytes | bytearray) -> "Message":
        """Raises Garbled if `data` is not a message of this version."""
        if len(data) < HEADER.size:
            raise Garbled(f"a message of {len(data)} bytes is shorter than its header of {HEADER.size}")
        magic, version, kind, hops, runs, lacks_bytes, *numbers = HEADER.unpack_from(data)
        if (magic, version) != (MAGIC, VERSION) or kind not in KINDS:
            raise (OtherVersion if magic == MAGIC and version != VERSION else Garbled)(
                f"not a message of version {VERSION}: it begins with {bytes(data[:5])!r}"
            )
        hops_end = HEADER.size + hops * HOP.size
        runs_end = hops_end + runs * RUN.size
        lacks_end = runs_end + lacks_bytes
        if len(data) < lacks_end:
            raise Garbled(f"a message of {len(data)} bytes ends inside its {hops} hops and {runs} runs")
        view = memoryview(data)
        sequence, epoch, step, start, count, first, drafted, branch = numbers
        ahead = [
            Hop(node, range(a, a + n), since, bool(patch))
            for node, a, n, since, patch in HOP.iter_unpack(view[HEADER.size : hops_end])
        ]
        ran = [
            StageRun(
                node, range(a, a + n), rows, wait_s, compute_s, sent_s, bytes_, at_s, bool(patch),
                Vitals(*vitals),
            )
            for node, a, n, rows, wait_s, compute_s, sent_s, bytes_, at_s, patch, *vitals
            in RUN.iter_unpack(view[hops_end:runs_end])
        ]  # fmt: skip
        lacks = int.from_bytes(view[runs_end:lacks_end], "little")
        return cls(
            Kind(kind), sequence, epoch, step, start, count, first, drafted, branch, tuple(ahead), tuple(ran),
            lacks, view[lacks_end:],
        )  # fmt: skip


def read_note(message: Message) -> dict[str, Any]:
    """Raises Garbled where it is no object of JSON."""
    try:
        payload = json.loads(bytes(message.body))
    except (ValueError, RecursionError) as error:
        raise Garbled(f"a note that is no JSON: {error}") from None
    if not isinstance(payload, dict):
        raise Garbled(f"a note that is a {type(payload).__name__}")
    return payload
