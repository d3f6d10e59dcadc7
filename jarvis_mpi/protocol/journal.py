"""A stage that runs every position once and keeps what it sent, so that a repair asks for rows, not for work.

What a stage has run is known by sequence and position: asked for it again (under another epoch), it sends
the journalled rows. Where the next stage is a copy that has run nothing yet, it sends all that one lacks,
and only that one works.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ..common.layers import Block, mask
from .wire import Message, StageRun


class Runs(Protocol):
    """What a stage does, here: S rows of a sequence, from position `start` on -> S rows."""

    def run(self, body: bytes | memoryview, start: int, sequence: int) -> bytes: ...
    def crop(self, sequence: int, end: int) -> bool: ...  # forget positions from `end` on -> False: it cannot
    def forget(self, sequence: int) -> None: ...


class Behind(Exception):
    """A stage that has run `have` positions lacks some before those it was sent. The end user acts."""

    def __init__(self, block: Block, have: int):
        self.block, self.have = block, have
        super().__init__(f"{block} has run {have} positions")


@dataclass
class Journal:
    """What a stage sent for one sequence."""

    first: int = 0  # position of the first row kept
    end: int = 0  # the positions run so far
    step: int = 0  # the newest one
    branch: int = 0  # of its text
    sure: int = 0  # positions that were run as what the text is, on this branch; those behind as drafts
    rows: bytearray = field(default_factory=bytearray)
    row_bytes: int = 1
    runs: tuple[StageRun, ...] = ()  # that led to the last row, this stage's included
    lacks: int = 0  # layers that some of the positions run so far went without: see wire.Message

    def since(self, position: int) -> bytes:
        return bytes(self.rows[(position - self.first) * self.row_bytes :])

    def add(self, body: bytes, rows: int, limit_bytes: int) -> None:
        self.row_bytes = len(body) // rows
        self.rows += body
        self.end += rows
        if len(self.rows) > limit_bytes:  # the older half goes: all at once, because it moves the rest
            rows_left = max(limit_bytes // 2 // self.row_bytes, 1)
            del self.rows[: -rows_left * self.row_bytes]
            self.first = self.end - rows_left

    def crop(self, end: int) -> None:
        self.first, self.end, self.sure = min(self.first, end), end, min(self.sure, end)
        del self.rows[(end - self.first) * self.row_bytes :]


class Journalled:
    """The stage of `block` with its journals, each of `limit_bytes` at the most."""

    def __init__(self, stage: Runs, block: Block, limit_bytes: int):
        self.stage, self.block, self.limit_bytes = stage, block, limit_bytes
        self.journals: defaultdict[int, Journal] = defaultdict(Journal)

    def run(self, message: Message, since: int) -> tuple[bytes, int]:
        """Run what is new of the message's rows -> rows from position `since` on, and how many were new.

        Raises Behind where positions before the message's are missing, or where rows from `since` on were
        run but are no longer kept: then all is forgotten, to be run once more from the beginning.
        """
        journal = self.journals[message.sequence]
        if message.step > journal.step:
            self.begin(message, journal)
        if message.start > journal.end:
            raise Behind(self.block, journal.end)
        if since < journal.first:
            self.forget(message.sequence)
            raise Behind(self.block, 0)
        new = message.end - journal.end
        if new <= 0:
            return journal.since(since)[: (message.end - since) * journal.row_bytes], 0
        old = journal.end - message.start
        body = memoryview(message.body)[old * (len(message.body) // message.rows) :]
        out = self.stage.run(body, journal.end, message.sequence)
        if since < journal.end:
            rows = journal.since(since) + out
        else:
            rows = out[(since - journal.end) * (len(out) // new) :]
        journal.add(out, new, self.limit_bytes)
        journal.sure = message.end - message.drafted
        journal.lacks |= message.lacks | layers_between(message.runs, self.block)
        return rows, new

    def begin(self, message: Message, journal: Journal) -> None:
        """A new step: what was run in older ones counts as far as the end user says, or it was sure; only the
        latter where the step's first piece got lost, which would have said it."""
        end = min(message.first, journal.sure) if message.branch == journal.branch else 0
        if message.start <= message.first:
            end = max(end, message.start)
        journal.step, journal.branch = message.step, message.branch
        if end < journal.end:
            if end and not self.stage.crop(message.sequence, end):
                self.forget(message.sequence)
                raise Behind(self.block, 0)
            journal.crop(end)

    def forget(self, sequence: int) -> None:
        self.stage.forget(sequence)
        self.journals.pop(sequence, None)

    def begin_term(self) -> None:
        """Steps of another end user come: what those before counted says nothing of theirs."""
        for journal in self.journals.values():
            journal.step = -1

    def is_late(self, message: Message) -> bool:
        """Whether a newer one of its sequence was here."""
        journal = self.journals[message.sequence]
        return (message.step, message.end) < (journal.step, journal.end)


def layers_between(runs: Iterable[StageRun], block: Block) -> int:
    """The layers between the last of `runs` and `block`, as bits; patched ones are lacking too."""
    before = max((run.block.stop for run in runs if not run.patch), default=0)
    return mask(range(before, block.start))
