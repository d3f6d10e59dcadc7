"""The record of a run: one HDF5 file, written by the end user, whole after `kill -9` of anyone; see docs/records.md.

It can be read while it grows (load.py; HDF5 calls that SWMR): all datasets are there from the start, rows are
only added, what a row points at stands before the row. Workers' rows came with the messages.
"""

import functools
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from h5py import h5s, h5t

from ..common import new_file
from ..common.errors import Unservable
from ..common.layers import Block
from ..protocol.cluster import Hop
from ..protocol.events import Change, Token
from ..protocol.node_state import Sign
from . import hdf5
from .schema import FIELDS, LIBVER, SCHEMA

CHUNK_ROWS = {"tokens": 256, "hops": 1024, "events": 64, "clocks": 64, "text": 4096}


UNFINISHED: list["Record"] = []  # for which there was no room: HDF5 crashes where one is let go


class Tells(Protocol):
    """Who is told that the recording had to end."""

    def tell(self, line: str) -> None: ...


class Record:
    """Times are told by the end user's clock and written since the run's beginning, also of a run that is resumed."""

    def __init__(self, path: Path, attributes: Mapping[str, Any], now: float, screen: Tells):
        """A new file with `attributes`; it has its name when others can read it. Raises Unservable."""
        self.path, self.screen = path, screen
        self.begun_at = now
        part = new_file.fresh(path)
        try:
            self.make(part, attributes, now)
            new_file.publish(part, path)
        except (OSError, RuntimeError) as error:
            UNFINISHED.append(self)
            raise Unservable(f"--log {path} cannot be written: {reason(error)}") from None
        finally:
            part.unlink(missing_ok=True)
            new_file.give_back(path)

    def make(self, part: Path, attributes: Mapping[str, Any], now: float) -> None:
        """Raises OSError or RuntimeError."""
        self.file = hdf5.made(part, libver=LIBVER)
        for name, fields in FIELDS.items():
            dtype = (
                np.dtype([(field.name, field.type) for field in fields]) if name != "text" else np.dtype("u1")
            )
            self.file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(CHUNK_ROWS[name],))
        begun = {"clock_at_begin_s": now, "started_unix_s": time.time()}
        for name, value in {"schema": SCHEMA, **begun, **attributes}.items():
            self.file.attrs[name] = plain(value)
        self.open_for_readers(now)

    @classmethod
    def resumed(
        cls, path: Path, attributes: Mapping[str, Any], now: float, screen: Tells, at_s: float, step: int
    ) -> "Record":
        """Go on with the file, which nobody writes any more; its last row is of `at_s`, and `step` is the next."""
        self = cls.__new__(cls)
        self.path, self.screen = path, screen
        try:
            self.file = hdf5.changed(path, libver=LIBVER)
        except OSError as error:
            why = error.strerror if isinstance(error, hdf5.InUse) else os.strerror(error.errno or 5)
            raise Unservable(f"--resume {path} cannot be written: {why}") from None
        away_s = time.time() - float(
            self.file.attrs["started_unix_s"]
        )  # a Pi may have forgotten the time of day
        self.begun_at = now - max(at_s, away_s)
        self.open_for_readers(now)
        self.event(now, step, -1, "resumed", text=json.dumps(dict(attributes)))
        return self

    def open_for_readers(self, now: float) -> None:
        self.datasets = {name: self.file[name] for name in FIELDS}
        self.dtypes = {name: dataset.dtype for name, dataset in self.datasets.items()}
        self.writes = self.file.swmr_mode = True
        hdf5.shared(self.file)
        self.layers = 0  # run for the last token
        self.offset(now, 0, 0.0, 0.0)  # a start's first row

    # -- what enduser.Hears asks for

    def sign(self, at_s: float, step: int, node: int, sign: Sign) -> None:
        self.event(at_s, step, node, sign.name)

    def route(self, at_s: float, step: int, epoch: int, route: Iterable[Hop]) -> None:
        hops = [[hop.node, hop.block.start, len(hop.block), *[1] * hop.patch] for hop in route]
        self.event(at_s, step, -1, "route", text=json.dumps(hops))

    def copy(self, at_s: float, step: int, node: int, block: Block) -> None:
        self.event(at_s, step, node, "copy", block)

    def change(self, at_s: float, change: Change) -> None:
        self.event(at_s, change.step, change.node, "told", change.block, str(change))

    def words(self, at_s: float, step: int, node: int, words: str) -> None:
        self.event(at_s, step, node, "words", text=words)

    def shrunk(self, at_s: float, step: int, nodes: Sequence[int]) -> None:
        self.event(at_s, step, -1, "shrunk", text=json.dumps(list(nodes)))

    def offset(self, at_s: float, node: int, offset_s: float, uncertainty_s: float) -> None:
        """The node's clock is ahead of the end user's by `offset_s`, +- `uncertainty_s`."""
        self.add("clocks", (at_s - self.begun_at, node, offset_s + self.begun_at, uncertainty_s))

    # -- what is asked and answered

    def asked(
        self, at_s: float, step: int, sequence: int, prompt: str, ids: Sequence[int], kept: int
    ) -> None:
        """A question whose first token will be `step`; of its `ids` the first `kept` were there before."""
        said = {"sequence": sequence, "prompt": prompt, "kept": kept, "ids": list(ids)}
        self.event(at_s, step, -1, "asked", text=json.dumps(said))

    def answered(self, at_s: float, step: int, sequence: int, ended: str, text: str) -> None:
        """`step` is one after the answer's last."""
        said = {"sequence": sequence, "ended": ended, "text": text}
        self.event(at_s, step, -1, "answered", text=json.dumps(said))

    def refused(self, at_s: float, step: int, number: int, why: str) -> None:
        """The line of that number of --prompts cannot be asked."""
        self.event(at_s, step, -1, "refused", text=json.dumps({"line": number, "error": why}))

    def ended(self, at_s: float, step: int, sentence: str, done: bool, peak_bytes: Mapping[int, int]) -> None:
        """The last event: `done`, or what there is to resume. `sentence`: what went wrong, if anything."""
        said = {"sentence": sentence, "peak_bytes": peak_bytes}
        self.event(at_s, step, -1, "done" if done else "ended", text=json.dumps(said))

    def event(
        self, at_s: float, step: int, node: int, event: str, block: Block = range(0), text: str = ""
    ) -> None:
        data = text.encode()
        at = self.datasets["text"].id.shape[0] if self.writes else 0
        self.add("text", *data)
        row = (at_s - self.begun_at, step, node, event.encode(), block.start, len(block), at, len(data))
        self.add("events", row)

    def write(self, token: Token) -> None:
        """One token and the hops it took, on disk when this returns."""
        hops = [
            (
                token.step, piece.end - run.rows, run.rows, run.node, run.block.start, len(run.block), run.at_s,
                run.wait_s, run.compute_s, run.sent_s, run.received_bytes, *run.vitals, run.patch,
            )
            for piece in token.pieces
            for run in piece.runs
        ]  # fmt: skip
        if token.pieces:
            self.layers = sum(len(run.block) for run in token.pieces[-1].runs if not run.patch)
        self.add("hops", *hops)
        self.add(
            "tokens",
            (
                token.step, token.sequence, token.position, token.id, token.at_s - self.begun_at, token.total_s,
                token.head_s, self.layers, len(hops),
            ),
        )  # fmt: skip

    def add(self, name: str, *rows: Any) -> None:
        """On disk when this returns. Where that cannot be (the disk is full), the recording ends, and the run goes on.

        HDF5 crashes where such a file is closed, or one of its datasets let go: nobody touches them any more.
        """
        if not self.writes or not rows:
            return
        try:
            append(self.datasets[name], np.array(list(rows), self.dtypes[name]))
        except (OSError, RuntimeError) as error:
            self.writes = False
            self.screen.tell(f"the record {self.path} ends here, the run goes on: {reason(error)}")

    def close(self) -> None:
        if self.writes:
            self.writes = False
            self.file.close()


def reason(error: OSError | RuntimeError) -> str:
    """Of HDF5's many words those that the system said."""
    said = re.search(r"error message = '([^']*)'", str(error))
    return said[1] if said else getattr(error, "strerror", None) or str(error).splitlines()[0]


def append(dataset: h5py.Dataset, rows: np.ndarray) -> None:
    """By HDF5's own calls: h5py's `dataset[end:] = rows` takes four times as long, for it looks at the type each time."""
    end = dataset.id.shape[0]
    dataset.id.set_extent((end + len(rows),))
    place = dataset.id.get_space()
    place.select_hyperslab((end,), (len(rows),))
    dataset.id.write(h5s.create_simple((len(rows),)), place, rows, memory_type(rows.dtype))
    dataset.id.flush()


@functools.cache
def memory_type(dtype: np.dtype) -> h5t.TypeID:
    return h5t.py_create(dtype)


def plain(value: Any) -> str | int | float:
    """What is no text or number goes in as JSON."""
    return value if isinstance(value, str | int | float) else json.dumps(value)
