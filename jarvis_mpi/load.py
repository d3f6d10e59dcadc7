"""The one reader of records: of every schema, while they grow, and after `kill -9`. h5py and numpy, no MPI, no torch.

    run = load("runs/20261125-011225-17990.h5")
    run.tokens["total_s"], run.hops[run.hops["node"] == 3], run.questions, run.faults

See docs/record.md for what the fields are.
"""

import json
import os
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .process import lives
from .schema import FIELDS, LIBVER, SCHEMA

QUIET_S = 60.0  # a run writes its clocks' offsets every ten seconds
TEXTS = ("prompt", "model", "fingerprint", "dtype", "started")  # attributes that are no JSON
ANSWERED = ("end", "stop", "length", "context", "interrupted")  # how an answer ends; else it was broken off
TYPES = {
    name: np.dtype([(each.name, each.type) for each in fields]) for name, fields in FIELDS.items() if fields
}


class Unreadable(Exception):
    """One sentence: the file, what is wrong with it, and what to do."""


@dataclass(frozen=True)
class Event:
    at_s: float
    step: int
    node: int
    event: str
    block: range
    text: str

    @property
    def said(self) -> Any:
        """Of a text that is JSON."""
        return json.loads(self.text)


@dataclass(frozen=True)
class Question:
    """`ids` are all of its sequence up to the answer; `tokens` the answer's, `ended` '' while it is under way."""

    sequence: int
    step: int
    at_s: float
    prompt: str
    ids: list[int] = field(repr=False)
    tokens: list[int] = field(repr=False)
    ended: str
    text: str = field(repr=False)

    @property
    def answered(self) -> bool:
        return self.ended in ANSWERED


@dataclass(frozen=True)
class Fault:
    """What became of a node, and what that cost. Times since the run's beginning."""

    node: int
    sign: str
    step: int
    noticed_s: float
    decided_s: float  # another route was taken; as `noticed_s` where none was needed
    mended_s: float  # the token under way was there; NaN: never
    gap_s: float  # that token's whole time
    recomputed: int  # positions that were run again, all nodes together
    told: tuple[str, ...]  # what the person was told of that step


@dataclass(frozen=True)
class Run:
    path: Path
    schema: int
    attributes: dict[str, Any]
    tokens: np.ndarray  # [tokens] of docs/record.md's fields, as the following
    hops: np.ndarray
    clocks: np.ndarray
    events: list[Event]

    def __getattr__(self, name: str) -> Any:
        """An attribute of the record: run.settings, run.hosts, run.prompt ..."""
        try:
            return self.attributes[name]
        except KeyError:
            raise AttributeError(f"{self.path} has no attribute {name}") from None

    @property
    def ended(self) -> str:
        """'done', 'ended' too early, or '': it goes on, or was killed."""
        if self.schema < 4:
            return {"": "", "text": "done"}.get(self.attributes.get("ended", ""), "ended")
        return self.events[-1].event if self.events and self.events[-1].event in ("done", "ended") else ""

    @property
    def length_s(self) -> float:
        return max([0.0, *self.tokens["at_s"][-1:], *(event.at_s for event in self.events[-1:])])

    @property
    def writer(self) -> dict[str, Any] | None:
        """The process that writes the file; see process.py."""
        resumed = [event.said for event in self.events if event.event == "resumed"]
        return (resumed[-1] if resumed else self.attributes).get("writer")

    @cached_property
    def questions(self) -> list[Question]:
        found: list[Question] = []
        for event in self.events:
            if event.event == "asked":
                found.append(Question(event.said["sequence"], event.step, event.at_s, event.said["prompt"],
                                      event.said["ids"], self.answer(len(found)), "", ""))  # fmt: skip
            elif event.event == "answered" and found:
                said = {"ended": event.text, "text": ""} if self.schema < 4 else event.said
                found[-1] = Question(**{**vars(found[-1]), **said})
        return found

    def answer(self, number: int) -> list[int]:
        """The tokens of the question of that number."""
        steps = [event.step for event in self.events if event.event == "asked"]
        end = steps[number + 1] if number + 1 < len(steps) else 2**32
        own = (self.tokens["step"] >= steps[number]) & (self.tokens["step"] < end)
        return self.tokens["token"][own].tolist()

    @cached_property
    def follows(self) -> np.ndarray:
        """[tokens] of bool: whether another token of the same answer is before it: its time holds no prompt."""
        tokens, first = self.tokens, {question.step for question in self.questions} or {0}
        again = {event.step for event in self.events if event.event == "resumed"}
        return np.array([step not in first | again for step in tokens["step"].tolist()], bool)

    @cached_property
    def faults(self) -> list[Fault]:
        return list(faults(self))

    def on_one_clock(self, hops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """When the work of each of `hops` began, since the run's beginning, and how far off that may be, in seconds.

        The offsets on both sides of a moment are joined by a line; of those within a minute the best ones count.
        NaN where a node's clock was never compared (schema 3 and before).
        """
        at, within = np.full(len(hops), np.nan), np.full(len(hops), np.nan)
        for node in np.unique(hops["node"]):
            mine = hops["node"] == node
            clocks = self.clocks[self.clocks["node"] == node]
            if len(clocks):
                best = clocks[clocks["uncertainty_s"] <= nearby_minimum(clocks)]
                by_node = best["at_s"] + best["offset_s"]  # by the node's own clock
                at[mine] = hops["at_s"][mine] - np.interp(hops["at_s"][mine], by_node, best["offset_s"])
                within[mine] = np.interp(hops["at_s"][mine], by_node, best["uncertainty_s"])
        return at, within


def nearby_minimum(clocks: np.ndarray, within_s: float = 60.0) -> np.ndarray:
    near = abs(clocks["at_s"][:, None] - clocks["at_s"][None]) <= within_s
    return np.where(near, clocks["uncertainty_s"][None], np.inf).min(axis=1)


def faults(run: Run):
    """One for every sign of another state of a node."""
    tokens = {step: number for number, step in enumerate(run.tokens["step"].tolist())}
    for event in run.events:
        if not event.event.isupper() or event.event == "MISSING":
            continue
        same_step = [other for other in run.events if other.step == event.step and other.at_s >= event.at_s]
        token = run.tokens[tokens[event.step]] if event.step in tokens else None
        hops = run.hops[run.hops["step"] == event.step]
        first = run.follows[tokens[event.step]] if token is not None else False
        yield Fault(
            node=event.node,
            sign=event.event,
            step=event.step,
            noticed_s=event.at_s,
            decided_s=next((other.at_s for other in same_step if other.event == "route"), event.at_s),
            mended_s=float(token["at_s"]) if token is not None else np.nan,
            gap_s=float(token["total_s"]) if token is not None else np.nan,
            recomputed=int((hops["rows"].astype(int) - 1).sum()) if first else 0,
            told=tuple(other.text for other in same_step if other.event == "told"),
        )


def load(path: Path | str) -> Run:
    """All that is in the record now. Raises Unreadable."""
    path = Path(path)
    with opened(path) as file:
        try:
            schema = int(file.attrs["schema"])
            if schema > SCHEMA:
                raise Unreadable(
                    f"{path} is a record of schema {schema}, newer than this reader's {SCHEMA}: update jarvis_mpi"
                )
            return read(path, file, schema)
        except KeyError as error:
            raise Unreadable(f"{path} is no record of a run: {error.args[0]}") from None
        except OSError as error:
            raise Unreadable(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def opened(path: Path) -> h5py.File:
    """Also one that another process writes, or was writing when it was killed."""
    if not path.is_file():
        raise Unreadable(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        first = error
    try:
        return h5py.File(path, "r", libver=LIBVER, swmr=True, locking=False)
    except OSError:
        pass
    if isinstance(first, PermissionError) or not os.access(path, os.R_OK):
        raise Unreadable(f"{path} may not be read by you")
    if not h5py.is_hdf5(path):
        raise Unreadable(f"{path} is no HDF5 file")
    reason = "it is cut short" if "truncated" in str(first) else str(first).splitlines()[0]
    raise Unreadable(f"{path} is damaged: {reason}")


def read(path: Path, file: h5py.File, schema: int) -> Run:
    """A row counts when what it points at is there, whose rows were written before it: therefore this order."""
    tokens = known(file["tokens"][:], "tokens")
    if schema < 4:
        hops = known(file["hops"][:], "hops")
        tokens["at_s"] = tokens["total_s"].cumsum()
        tokens["hops"] = [int((hops["step"] == step).sum()) for step in tokens["step"]]
        raw = file["events"][:] if "events" in file else []
        events = [event(row, row["text"].decode()) for row in raw]
        clocks = np.zeros(0, TYPES["clocks"])
    else:
        tokens = tokens[: first_where(tokens["hops"] == 0)]
        hops = file["hops"][: int(tokens["hops"].sum())]
        rows = file["events"][:]
        rows, text = rows[: first_where(rows["event"] == b"")], bytes(file["text"][:])
        events = [
            event(row, text[row["text_at"] : row["text_at"] + row["text_bytes"]].decode()) for row in rows
        ]
        clocks = file["clocks"][:]
        clocks = clocks[: first_where(clocks["offset_s"] == 0)]
    attributes = {name: value if name in TEXTS else unpacked(value) for name, value in file.attrs.items()}
    return Run(path, schema, attributes, tokens, hops, clocks, events)


def known(rows: np.ndarray, name: str) -> np.ndarray:
    """Rows of an older schema with the fields of this one; what they lack is 0, or what says that it is not told."""
    made = np.zeros(len(rows), TYPES[name])
    if name == "hops":
        made["temperature_c"] = -300
    for each in set(made.dtype.names or ()) & set(rows.dtype.names or ()):
        made[each] = rows[each]
    return made


def first_where(true: np.ndarray) -> int:
    return int(true.argmax()) if true.any() else len(true)


def event(row: np.void, text: str) -> Event:
    first, layers = int(row["first_layer"]), int(row["layers"])
    return Event(
        float(row["at_s"]), int(row["step"]), int(row["node"]), row["event"].decode(), range(first, first + layers), text
    )  # fmt: skip


def unpacked(value: Any) -> Any:
    """JSON, where an attribute is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value.item() if isinstance(value, np.generic) else value


def mend(path: Path) -> Run:
    """Make a record that nobody writes any more one for every HDF5 program: its flag is cleared, half rows are dropped.

    Raises Unreadable where its writer may still live.
    """
    run = load(path)
    try:
        h5py.File(path, "r").close()
        return run
    except OSError:
        pass
    writer_lives = lives(run.writer) if run.writer else None
    if run.writer and writer_lives:
        raise Unreadable(f"{path} is still being written, by process {run.writer['pid']} of this machine")
    quiet_s = time.time() - path.stat().st_mtime
    if writer_lives is None and quiet_s < QUIET_S:
        raise Unreadable(
            f"{path} was written {quiet_s:.0f} s ago, perhaps by another machine: wait for {QUIET_S:.0f} s"
        )
    part = path.with_suffix(".part")
    whole = {
        "tokens": len(run.tokens),
        "hops": len(run.hops),
        "events": len(run.events),
        "clocks": len(run.clocks),
    }
    try:
        with opened(path) as old, h5py.File(part, "w", libver=LIBVER) as new:
            for name in old:
                old.copy(name, new)
                new[name].resize(whole.get(name, len(new[name])), axis=0)
            for name, value in old.attrs.items():
                new.attrs[name] = value
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Unreadable(f"{path} cannot be mended: {error.strerror or str(error).splitlines()[0]}") from None
    return run
