"""Reads a record's tables, of any schema, into numpy's: only complete rows, with the fields of today's
schema."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import h5py
import numpy as np

from . import hdf5
from .schema import FIELDS, RENAMED

TYPES = {
    name: np.dtype([(each.name, each.type) for each in fields]) for name, fields in FIELDS.items() if fields
}
NO_TEMPERATURE_C = -300


@dataclass(frozen=True)
class Event:
    at_s: float
    step: int
    node: int
    event: str
    block: range
    text: str

    @property
    def payload(self) -> Any:
        """The text's value, where it is JSON, with the names of today's schema."""
        return renamed(json.loads(self.text))


def renamed(value: Any) -> Any:
    """Return an object with the names of today's schema, and anything else as it is."""
    return (
        {RENAMED.get(name, name): each for name, each in value.items()} if isinstance(value, dict) else value
    )


class Tables(NamedTuple):
    tokens: np.ndarray  # [tokens] of docs/records.md's fields, as the following
    hops: np.ndarray
    events: list[Event]
    clocks: np.ndarray


def tables(file: h5py.File, schema: int) -> Tables:
    """Read all tables. Raises ValueError, KeyError, Absent or Unservable."""
    return tables_until_3(file) if schema < 4 else tables_since_4(file)


def tables_since_4(file: h5py.File) -> Tables:
    """Read the tables, each before what its rows point at: a row counts only if that is there, and that was
    written first."""
    tokens = rows_of(file, "tokens")
    tokens = tokens[: first_where(tokens["at_s"] == 0)]
    hops = rows_of(file, "hops", int(tokens["hops"].sum()))
    rows = rows_of(file, "events")
    text = bytes(hdf5.rows(file, "text", np.dtype("u1")))
    rows = rows[: first_where(rows["event"] == b"")]
    events = [event(row, part_of_text(text, row)) for row in rows]
    clocks = rows_of(file, "clocks")
    return Tables(tokens, hops, events, clocks[: first_where(clocks["offset_s"] == 0)])


def tables_until_3(file: h5py.File) -> Tables:
    """Read the tables of schemas without clocks, a token's moment and its number of hops; compute the latter
    two."""
    tokens, hops = rows_of(file, "tokens"), rows_of(file, "hops")
    steps, counts = np.unique(hops["step"], return_counts=True)
    hops_of = dict(zip(steps.tolist(), counts.tolist(), strict=True))
    tokens["hops"] = [hops_of.get(step, 0) for step in tokens["step"].tolist()]
    rows: Any = hdf5.rows(file, "events") if "events" in file else []
    events = [event(row, row["text"].decode()) for row in rows]
    asked = {each.step: each.at_s for each in events if each.event == "asked"}
    at_s = 0.0
    for token in tokens:
        at_s = asked.get(int(token["step"]), at_s) + token["total_s"]
        token["at_s"] = at_s
    return Tables(tokens, hops, events, np.zeros(0, TYPES["clocks"]))


def rows_of(file: h5py.File, name: str, most: int | None = None) -> np.ndarray:
    """Read rows of any schema with the fields of this one; a field that they lack is 0, or the value for
    unknown."""
    rows = hdf5.rows(file, name, TYPES[name], most)
    found = np.zeros(len(rows), TYPES[name])
    if name == "hops":
        found["temperature_c"] = NO_TEMPERATURE_C
    for each in set(found.dtype.names or ()) & set(rows.dtype.names or ()):
        found[each] = rows[each]
    return found


def first_where(true: np.ndarray) -> int:
    """Return the index of the first True; the length where there is none."""
    return int(true.argmax()) if true.any() else len(true)


def event(row: np.void, text: str) -> Event:
    first, layers = int(row["first_layer"]), int(row["layers"])
    name = row["event"].decode()
    return Event(
        float(row["at_s"]), int(row["step"]), int(row["node"]), RENAMED.get(name, name),
        range(first, first + layers), text
    )  # fmt: skip


def part_of_text(text: bytes, row: np.void) -> str:
    first = int(row["text_at"])
    return text[first : first + int(row["text_bytes"])].decode()
