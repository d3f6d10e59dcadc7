"""What was asked, what was answered, and what became of the nodes, in order: the standby has it, too.

An entry is a list of JSON values, its kind first:

    run    what a standby must know to go on with it, as JSON
    text   sequence, branch, at, ids: from position `at` on the sequence is these ids
    token  sequence, step, position, id
    cut    sequence, count: its last `count` tokens are not wanted
    sign   node, sign
    copy   node, first layer, end
    event  step, name, text: asked, answered and refused, as the record has them
    reign  node, step: from that step on the node is the end user
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..common.errors import Unservable
from .cluster import Cluster
from .election import NOBODY
from .node_state import Sign
from .wire import Garbled

Entry = list[Any]
WINDOW = 500  # entries that are under way, at the most
NEAR = 50  # entries that a node lacks which has nearly caught up
FORMS: dict[str, tuple[type, ...]] = {
    "run": (str,),
    "text": (int, int, int, list),
    "token": (int, int, int, int),
    "cut": (int, int),
    "sign": (int, str),
    "copy": (int, int, int),
    "event": (int, str, str),
    "reign": (int, int),
}


class Ran(NamedTuple):
    """How far a node's stage has run a sequence, of what was no draft."""

    sequence: int
    first_layer: int
    end_layer: int
    branch: int  # of the sequence's text
    end: int


@dataclass
class Transcript:
    """The standby's: all entries up to some moment."""

    entries: list[Entry] = field(default_factory=list)

    def take(self, first: int, entries: Sequence[Entry]) -> None:
        """Take in entries, of which the first has the number `first`, unless some before it are missing.
        Raises Garbled where one is no such thing."""
        for entry in entries:
            if not is_entry(entry):
                raise Garbled(f"{entry!r} is no entry")
        if first <= len(self.entries):
            self.entries += entries[len(self.entries) - first :]

    def of(self, kind: str) -> Iterator[list[Any]]:
        return (values for this_kind, *values in self.entries if this_kind == kind)

    def cluster(self, at_start: Cluster) -> Cluster:
        """The cluster with the copies that were loaded since, and its last end user."""
        for node, first, end in self.of("copy"):
            at_start = at_start.with_copy(node, range(first, end))
        for node, _ in self.of("reign"):
            at_start = at_start.with_end_user(node)
        return at_start

    def signs(self) -> list[tuple[int, Sign]]:
        return [(node, Sign(sign)) for node, sign in self.of("sign")]

    def lost(self) -> frozenset[int]:
        """The nodes whose processes are certain to be gone."""
        return frozenset(node for node, sign in self.signs() if sign is Sign.LOST)

    def texts(self) -> dict[int, list[int]]:
        """Every sequence and its ids."""
        texts: dict[int, list[int]] = {}
        for kind, *values in self.entries:
            if kind == "text":
                sequence, _, at, ids = values
                texts[sequence] = [*texts.get(sequence, [])[:at], *ids]
            elif kind == "token":
                sequence, _, position, token = values
                texts[sequence][position:] = [token]
            elif kind == "cut":
                sequence, count = values
                del texts[sequence][-count:]
        return texts

    def without_cut(self) -> list[Entry]:
        """All entries but tokens that were not wanted."""
        left: list[Entry] = []
        for entry in self.entries:
            if entry[0] != "cut":
                left.append(entry)
                continue
            mine = [at for at, each in enumerate(left) if each[:2] == ["token", entry[1]]]
            for at in mine[: -entry[2] - 1 : -1]:
                del left[at]
        return left

    def run(self) -> str:
        """What must be known to go on with the run. Raises Unservable where the end user had not sent it."""
        for [text] in self.of("run"):
            return str(text)
        raise Unservable("the end user died before its standby knew what is asked")

    def branch(self, sequence: int) -> int:
        """The newest of a sequence's text."""
        return max((branch for one, branch, *_ in self.of("text") if one == sequence), default=0)

    def sure(self, ran: Ran) -> int:
        """How many positions a stage has run of what the text is now."""
        if ran.branch > self.branch(ran.sequence):
            return 0
        newer = [at for one, branch, at, _ in self.of("text") if one == ran.sequence and branch > ran.branch]
        return min([ran.end, *newer])

    def next_step(self) -> int:
        return max((step + 1 for _, step, *_ in self.of("token")), default=0)


def is_entry(entry: Any) -> bool:
    if not isinstance(entry, list) or not entry or not isinstance(entry[0], str):
        return False
    form = FORMS.get(entry[0], ())
    values = entry[1:]
    same = len(form) == len(values) and all(type(a) is b for a, b in zip(values, form, strict=True))
    ids = values[-1] if values else ()
    return bool(form) and same and (entry[0] != "text" or all(type(token) is int for token in ids))


class Replication:
    """Brings a node up to what the end user knows, and keeps it so; tells which tokens it has.

    `send` takes the node, the number of the first entry, and the entries.
    """

    def __init__(self, send: Callable[[int, int, list[Entry]], None], standby: int):
        """`standby`: the first one; NOBODY: no node ever is."""
        self.send, self.to = send, standby
        self.is_wanted = self.counts = standby != NOBODY  # counts: no token is shown before `to` has it
        self.entries: list[Entry] = []
        self.sent = self.acknowledged = 0  # so many entries
        self.needed = 0  # so many, to know all that was shown before tokens waited for it

    def add(self, *entry: Any) -> int:
        """Have the standby know it. -> how many entries it must have to know it."""
        if self.is_wanted:
            self.entries.append([*entry])
        return len(self.entries)

    def event(self, step: int, name: str, text: str) -> None:
        """An event of the record."""
        self.add("event", step, name, text)
        self.flush()

    def flush(self) -> None:
        """Send what is new, as far as the node keeps up."""
        end = min(len(self.entries), self.acknowledged + WINDOW)
        if self.to != NOBODY and self.sent < end:
            self.send(self.to, self.sent, self.entries[self.sent : end])
            self.sent = end

    def acknowledge(self, node: int, count: int) -> None:
        """It has so many entries; after a gap, all from there on are sent again."""
        if node == self.to:
            gap = count < self.acknowledged or (count == self.acknowledged and self.sent > count)
            self.acknowledged = max(count, self.acknowledged)
            if gap:
                self.sent = count
            self.flush()

    def send_again(self) -> None:
        """Send all that is not acknowledged: it may have got lost."""
        self.sent = self.acknowledged
        self.flush()

    def go_on_from(self, transcript: Transcript) -> None:
        """Of a node that has taken over: the next one is to have what it had itself."""
        self.is_wanted, self.entries = True, [*transcript.entries]

    def begin(self, node: int) -> None:
        """From now on it is another node, of which it is not known what it has, or NOBODY."""
        self.to, self.counts, self.sent, self.acknowledged = node, False, 0, 0
        self.flush()

    def has_caught_up(self) -> bool:
        """Whether the node has all that was ever shown. Once it nearly has, tokens wait for it."""
        if not self.counts and len(self.entries) - self.acknowledged <= NEAR:
            self.counts, self.needed = True, len(self.entries)
        return self.counts and self.acknowledged >= self.needed

    def has(self, count: int) -> bool:
        """Whether the node has so many entries, where that counts."""
        return not self.counts or self.acknowledged >= count
