"""The one reader of records: of every schema, while they grow, and after `kill -9`. h5py and numpy, no MPI, no torch.

    run = load("runs/20261125-011225-17990.h5")
    run.tokens["total_s"], run.hops[run.hops["node"] == 3], run.questions, run.faults

See docs/records.md for what the fields are.
"""

import json
import os
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.new_file import fresh
from ..common.process_identity import lives
from . import hdf5
from .record_form import TEXTS, check_event, check_start
from .schema import FIELDS, LIBVER, SCHEMA

QUIET_S = 60.0  # a run writes its clocks' offsets every ten seconds
ANSWERED = ("end", "stop", "length", "context")  # how an answer ends
TYPES = {
    name: np.dtype([(each.name, each.type) for each in fields]) for name, fields in FIELDS.items() if fields
}


class Unreadable(Unservable):
    """One sentence: the file, what is wrong with it, and what to do."""


class Lacking(Unreadable, AttributeError):
    """A record that lacks what is asked of it."""


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
    answered: bool = False


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
    tokens: np.ndarray  # [tokens] of docs/records.md's fields, as the following
    hops: np.ndarray
    clocks: np.ndarray
    events: list[Event]

    def __getattr__(self, name: str) -> Any:
        """An attribute of the record: run.settings, run.hosts, run.prompt ..."""
        try:
            return self.attributes[name]
        except KeyError:
            raise Lacking(f"{self.path} does not say its {name}") from None

    @property
    def ended(self) -> str:
        """'done', 'ended' too early, or '': it goes on, or was killed."""
        if self.schema < 4:
            return {"": "", "text": "done"}.get(self.attributes.get("ended", ""), "ended")
        return self.events[-1].event if self.events and self.events[-1].event in ("done", "ended") else ""

    @property
    def length_s(self) -> float:
        return max([0.0, *self.tokens["at_s"][-1:], *(event.at_s for event in self.events[-1:])])

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """The attributes of each start: the first, and every --resume."""
        return [self.attributes, *(event.said for event in self.events if event.event == "resumed")]

    def of_starts(self, name: str) -> list[Any]:
        """That attribute of each start that has it. Raises Lacking where none has."""
        if not (found := [start[name] for start in self.starts if name in start]):
            raise Lacking(f"{self.path} does not say its {name}")
        return found

    @property
    def writer(self) -> dict[str, Any] | None:
        """The process that writes the file; see common/process_identity.py."""
        return self.starts[-1].get("writer")

    @property
    def settings(self) -> dict[str, Any]:
        """Every option's value, of the last start."""
        return self.of_starts("settings")[-1]

    @property
    def hosts(self) -> dict[str, str]:
        """node -> host name, of all starts."""
        return {node: host for hosts in self.of_starts("hosts") for node, host in hosts.items()}

    @property
    def placement(self) -> dict[str, list[str]]:
        """node -> its own blocks, of the last start that had it."""
        return {node: held for blocks in self.of_starts("placement") for node, held in blocks.items()}

    @cached_property
    def resumed_steps(self) -> list[int]:
        return [event.step for event in self.events if event.event == "resumed"]

    @cached_property
    def questions(self) -> list[Question]:
        """In the order in which they were asked; several may have been in flight."""
        found: list[Question] = []
        for event in self.events:
            if event.event == "asked":
                found.append(Question(event.said["sequence"], event.step, event.at_s, event.said["prompt"],
                                      event.said["ids"], [], "", ""))  # fmt: skip
            elif event.event == "answered" and found:
                said: dict[str, Any] = {"ended": event.text, "text": ""} if self.schema < 4 else event.said
                number = last_of(found, said.get("sequence", found[-1].sequence))
                found[number] = Question(
                    **{**vars(found[number]), "ended": said["ended"], "text": said["text"]}
                    | {"answered": self.ends(said["ended"])}
                )
        return [replace(each, tokens=self.answer(each, found)) for each in found]

    def answer(self, question: Question, questions: list[Question]) -> list[int]:
        """Its tokens: those of its sequence before that one's next question."""
        later = (each.step for each in questions if each.sequence == question.sequence)
        end = min((step for step in later if step > question.step), default=2**32)
        own = (self.tokens["step"] >= question.step) & (self.tokens["step"] < end)
        return self.tokens["token"][own & (self.tokens["sequence"] == question.sequence)].tolist()

    def ends(self, ended: str) -> bool:
        """Whether an answer that ended so is whole: who stops one in a chat has read it, a prompt's is wanted whole."""
        chats = self.settings["prompt"] is None and not self.settings.get("prompts")
        return ended in ANSWERED or (ended == "interrupted" and chats)

    @cached_property
    def follows(self) -> np.ndarray:
        """[tokens] of bool: whether another token of the same answer is before it: its time holds no prompt."""
        tokens = self.tokens
        first = {question.step for question in self.questions} or {0}
        for step in self.resumed_steps:  # of every sequence that goes on after it
            later = tokens[tokens["step"] >= step]
            first |= set(later["step"][np.unique(later["sequence"], return_index=True)[1]].tolist())
        new = np.concatenate([[True], tokens["step"][1:] != tokens["step"][:-1]])[: len(tokens)]
        return ~(np.isin(tokens["step"], list(first)) & new)

    @cached_property
    def faults(self) -> list[Fault]:
        return list(faults(self))

    def on_one_clock(self, hops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """When the work of each of `hops` began, since the run's beginning, and how far off that may be, in seconds.

        The offsets on both sides of a moment are joined by a line; of those within a minute the best ones count.
        NaN where a node's clock was never compared (schema 3 and before).
        """
        at, within = np.full(len(hops), np.nan), np.full(len(hops), np.nan)
        # Each start compares clocks anew, the end user's with itself first: a machine may have been booted in between.
        start_of_clock = (self.clocks["node"] == 0).cumsum() - 1
        start_of_hop = np.searchsorted(self.resumed_steps, hops["step"], side="right")
        for start, node in {*zip(start_of_hop.tolist(), hops["node"].tolist(), strict=True)}:
            mine = (hops["node"] == node) & (start_of_hop == start)
            clocks = self.clocks[(self.clocks["node"] == node) & (start_of_clock == start)]
            if len(clocks):
                best = clocks[clocks["uncertainty_s"] <= nearby_minimum(clocks)]
                by_node = best["at_s"] + best["offset_s"]  # by the node's own clock
                at[mine] = hops["at_s"][mine] - np.interp(hops["at_s"][mine], by_node, best["offset_s"])
                within[mine] = np.interp(hops["at_s"][mine], by_node, best["uncertainty_s"])
        return at, within


def nearby_minimum(clocks: np.ndarray, within_s: float = 60.0) -> np.ndarray:
    """Of each trip: the least uncertainty of those around it."""
    first = np.searchsorted(clocks["at_s"], clocks["at_s"] - within_s)
    last = np.searchsorted(clocks["at_s"], clocks["at_s"] + within_s, side="right")
    return np.array([clocks["uncertainty_s"][a:b].min() for a, b in zip(first, last, strict=True)])


def last_of(questions: list[Question], sequence: int) -> int:
    """Its place among them."""
    return max(place for place, each in enumerate(questions) if each.sequence == sequence)


def faults(run: Run):
    """One for every sign of another state of a node."""
    steps = run.tokens["step"].tolist()
    tokens = {step: len(steps) - 1 - place for place, step in enumerate(steps[::-1])}  # a step's first
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
    try:
        with guarded(f"{path} is damaged"), opened(path) as file:
            schema = file.attrs.get("schema")
            if not isinstance(schema, int | np.integer) or schema < 1:
                raise Unreadable(f"{path} is no record of a run: it says of no schema that it is of")
            if schema > SCHEMA:
                raise Unreadable(
                    f"{path} is a record of schema {schema}, newer than this reader's {SCHEMA}: update jarvis_mpi"
                )
            if lacking := [name for name in ("tokens", "hops") if name not in file]:
                raise Unreadable(f"{path} is no record of a run: it has no {lacking[0]}")
            run = read(path, file, int(schema))
            _ = run.questions, run.faults
            return run
    except Unreadable:
        raise
    except Unservable as error:
        raise Unreadable(str(error)) from error


def opened(path: Path) -> h5py.File:
    """Also one that another process writes, or was writing when it was killed."""
    if not path.is_file():
        raise Unreadable(f"{path} does not exist" if not path.exists() else f"{path} is no file")
    try:
        return hdf5.read(path)
    except OSError as error:
        reason = str(error)
    if not os.access(path, os.R_OK):
        raise Unreadable(f"{path} may not be read by you")
    if not h5py.is_hdf5(path):
        raise Unreadable(f"{path} is no HDF5 file")
    if "already open for write" in reason and path.stat().st_size >= end_told(path):
        return hdf5.read(path, libver=LIBVER, swmr=True)
    cut_short = "truncated" in reason or "already open for write" in reason
    raise Unreadable(f"{path} is damaged: {'it is cut short' if cut_short else reason.splitlines()[0]}")


def end_told(path: Path) -> int:
    """The file's length as its superblock says (HDF5's file format, version 3): SWMR does not look, and would wait for more."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(36)[28:36], "little")


def read(path: Path, file: h5py.File, schema: int) -> Run:
    """A row counts when what it points at is there, whose rows were written before it: therefore this order.

    Raises ValueError, KeyError or Unservable.
    """
    tokens = known(file, "tokens")
    if schema < 4:
        hops = known(file, "hops")
        steps, counts = np.unique(hops["step"], return_counts=True)
        hops_of = dict(zip(steps.tolist(), counts.tolist(), strict=True))
        tokens["hops"] = [hops_of.get(step, 0) for step in tokens["step"].tolist()]
        raw: Any = hdf5.rows(file, "events") if "events" in file else []
        events = [event(row, row["text"].decode()) for row in raw]
        asked = {each.step: each.at_s for each in events if each.event == "asked"}
        at_s = 0.0
        for token in tokens:
            at_s = asked.get(int(token["step"]), at_s) + token["total_s"]
            token["at_s"] = at_s
        clocks = np.zeros(0, TYPES["clocks"])
    else:
        tokens = tokens[: first_where(tokens["at_s"] == 0)]
        hops = known(file, "hops", int(tokens["hops"].sum()))
        rows = known(file, "events")
        text = bytes(hdf5.rows(file, "text", np.dtype("u1")))
        rows = rows[: first_where(rows["event"] == b"")]
        events = [event(row, part_of_text(text, row)) for row in rows]
        clocks = known(file, "clocks")
        clocks = clocks[: first_where(clocks["offset_s"] == 0)]
    attributes = {
        name: value if name in TEXTS else unpacked(value) for name, value in hdf5.attributes(file).items()
    }
    check_start(attributes, "its attributes")
    for number, each in enumerate(events):
        check_event(each.event, each.text, schema, f"its event {number}")
    return Run(path, schema, attributes, tokens, hops, clocks, events)


def part_of_text(text: bytes, row: np.void) -> str:
    first = int(row["text_at"])
    return text[first : first + int(row["text_bytes"])].decode()


def known(file: h5py.File, name: str, most: int | None = None) -> np.ndarray:
    """Rows of any schema with the fields of this one; what they lack is 0, or what says that it is not told."""
    rows = hdf5.rows(file, name, TYPES[name], most)
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
        except (ValueError, RecursionError):
            return value
    return value


def mend(path: Path) -> Run:
    """Make a record that nobody writes any more one for every HDF5 program: its flag is cleared, half rows are dropped.

    Raises Unreadable where its writer may still live.
    """
    run = load(path)
    try:
        hdf5.read(path).close()
        return run
    except OSError:
        pass
    writer_lives = lives(run.writer) if run.writer else None
    if run.writer and writer_lives:
        raise Unreadable(f"{path} is still being written, by process {run.writer['pid']} of this machine")
    quiet_s = time.time() - path.stat().st_mtime
    if writer_lives is None and 0 <= quiet_s < QUIET_S:
        raise Unreadable(
            f"{path} was written {quiet_s:.0f} s ago, perhaps by another machine: wait for {QUIET_S:.0f} s"
        )
    part = fresh(path)
    whole = {
        "tokens": len(run.tokens),
        "hops": len(run.hops),
        "events": len(run.events),
        "clocks": len(run.clocks),
    }
    try:
        with (
            guarded(f"{path} cannot be mended"),
            opened(path) as old,
            hdf5.made(part, libver=LIBVER) as new,
        ):
            for name in [name for name in FIELDS if name in old]:
                old.copy(hdf5.dataset(old, name), new, name)
                new[name].resize(whole.get(name, len(new[name])), axis=0)
            for name, value in hdf5.attributes(old).items():
                new.attrs[name] = value
        part.replace(path)
    except (OSError, Unservable) as error:
        part.unlink(missing_ok=True)
        raise Unreadable(str(error)) from error
    return run
