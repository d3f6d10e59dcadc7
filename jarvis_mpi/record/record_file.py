"""Creates or reopens the HDF5 file of a run, and appends rows to its tables.

It can be read while it grows (reader.py; HDF5 calls that SWMR): all datasets exist from the start, rows are
only added, and what a row points at is written before the row.
"""

import functools
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from h5py import h5s, h5t

from ..common import new_file
from ..common.errors import Unservable
from ..common.layers import Block
from . import hdf5
from .schema import FIELDS, LIBVER, SCHEMA

CHUNK_ROWS = {"tokens": 256, "hops": 1024, "events": 64, "clocks": 64, "text": 4096}
UNFINISHED: list[Any] = []  # files whose disk is full: HDF5 crashes where one is released


class Notifier(Protocol):
    """Tells the user that the recording had to end."""

    def tell(self, line: str) -> None: ...


class RecordFile:
    """The open file. Times come in by the end user's clock and are written since the run's beginning, also of
    a resumed run."""

    def __init__(self, path: Path, file: h5py.File, begun_at: float, now: float, screen: Notifier):
        """`file` is written for readers from now on; `begun_at`: the run's beginning by the end user's
        clock."""
        self.path, self.file, self.begun_at, self.screen = path, file, begun_at, screen
        self.datasets = {name: file[name] for name in FIELDS}
        self.dtypes = {name: dataset.dtype for name, dataset in self.datasets.items()}
        self.writes = True
        self.add_clock(now, 0, 0.0, 0.0)  # a start's first row

    def add_clock(self, at_s: float, node: int, offset_s: float, uncertainty_s: float) -> None:
        self.add("clocks", (at_s - self.begun_at, node, offset_s + self.begun_at, uncertainty_s))

    def add_event(
        self, at_s: float, step: int, node: int, event: str, block: Block = range(0), text: str = ""
    ) -> None:
        data = text.encode()
        at = self.datasets["text"].id.shape[0] if self.writes else 0
        self.add("text", *data)
        row = (at_s - self.begun_at, step, node, event.encode(), block.start, len(block), at, len(data))
        self.add("events", row)

    def add(self, name: str, *rows: Any) -> None:
        """Append rows, on disk when this returns.
        Where that fails (the disk is full), the recording ends, and the run goes on.

        HDF5 crashes where such a file is closed, or one of its datasets released: they are never touched
        again.
        """
        if not self.writes or not rows:
            return
        try:
            append(self.datasets[name], np.array(list(rows), self.dtypes[name]))
        except (OSError, RuntimeError) as error:
            self.writes = False
            UNFINISHED.append(self)
            self.screen.tell(f"the record {self.path} ends here, the run goes on: {reason(error)}")

    def close(self) -> None:
        if self.writes:
            self.writes = False
            self.file.close()


def created(path: Path, attributes: Mapping[str, Any], now: float, screen: Notifier) -> RecordFile:
    """Create a file with `attributes`; it gets its name once others can read it. Raises Unservable."""
    part = new_file.fresh(path)
    held: list[Any] = []
    try:
        held.append(hdf5.made(part, libver=LIBVER))
        lay_out(held[0], attributes, now)
        held.append(RecordFile(path, for_readers(held[0]), now, now, screen))
        new_file.publish(part, path)
        return held[1]
    except (OSError, RuntimeError) as error:
        UNFINISHED.append(held)
        raise Unservable(f"--log {path} cannot be written: {reason(error)}") from None
    finally:
        part.unlink(missing_ok=True)
        new_file.give_back(path)


def lay_out(file: h5py.File, attributes: Mapping[str, Any], now: float) -> None:
    """Write the empty tables and the attributes. Raises OSError or RuntimeError."""
    for name, fields in FIELDS.items():
        dtype = np.dtype([(field.name, field.type) for field in fields]) if name != "text" else np.dtype("u1")
        file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(CHUNK_ROWS[name],))
    begun = {"clock_at_begin_s": now, "started_unix_s": time.time()}
    for name, value in {"schema": SCHEMA, **begun, **attributes}.items():
        file.attrs[name] = plain(value)


def reopened(path: Path, now: float, screen: Notifier, at_s: float) -> RecordFile:
    """Open the file of a resumed run, whose last row is of `at_s`; nobody else writes it any more.
    Raises Unservable."""
    try:
        file = hdf5.changed(path, libver=LIBVER)
    except OSError as error:
        why = error.strerror if isinstance(error, hdf5.InUse) else os.strerror(error.errno or 5)
        raise Unservable(f"--resume {path} cannot be written: {why}") from None
    try:
        for_readers(file)
    except (OSError, RuntimeError) as error:
        raise Unservable(
            f"--resume {path} was rewritten by another program, "
            f"in a form that cannot grow ({reason(error)}): resume the original"
        ) from None
    away_s = time.time() - float(file.attrs["started_unix_s"])  # a Pi may have forgotten the time of day
    return RecordFile(path, file, now - max(at_s, away_s), now, screen)


def for_readers(file: h5py.File) -> h5py.File:
    """Return the same file, which others may read from now on while it grows."""
    file.swmr_mode = True
    hdf5.shared(file)
    return file


def reason(error: OSError | RuntimeError) -> str:
    """Return the system's own error message out of HDF5's."""
    found = re.search(r"error message = '([^']*)'", str(error))
    return found[1] if found else getattr(error, "strerror", None) or str(error).splitlines()[0]


def append(dataset: h5py.Dataset, rows: np.ndarray) -> None:
    """Append rows by HDF5's own calls: h5py's `dataset[end:] = rows` takes four times as long, for it looks
    at the type each time."""
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
    """Return texts and numbers as they are, all else as JSON."""
    return value if isinstance(value, str | int | float) else json.dumps(value)
