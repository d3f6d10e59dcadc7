"""Reads records: of every schema, while they grow, and after `kill -9`.
Needs h5py and numpy, no MPI, no torch."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..common.boundary import guarded
from ..common.errors import Unservable
from . import hdf5
from .record_form import TEXTS, check_event, check_start
from .run import Run, Unreadable
from .schema import LIBVER, SCHEMA
from .tables import renamed, tables


def load(path: Path | str) -> Run:
    """Read all that is in the record now. Raises Unreadable."""
    path = Path(path)
    try:
        with guarded(f"{path} is damaged"), opened(path) as file:
            run = read(path, file)
            _ = run.questions, run.faults
            return run
    except Unreadable:
        raise
    except Unservable as error:
        raise Unreadable(str(error)) from error


def opened(path: Path) -> h5py.File:
    """Open the file, also if another process writes it, or wrote it when it was killed."""
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
    if "already open for write" in reason and path.stat().st_size >= claimed_bytes(path):
        return hdf5.read(path, libver=LIBVER, swmr=True)
    cut_short = "truncated" in reason or "already open for write" in reason
    raise Unreadable(f"{path} is damaged: {'it is cut short' if cut_short else reason.splitlines()[0]}")


def claimed_bytes(path: Path) -> int:
    """Return the file's length as its superblock has it (HDF5's file format, version 3): SWMR does not look,
    and would wait for more."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(36)[28:36], "little")


def read(path: Path, file: h5py.File) -> Run:
    """Read the run from an open file. Raises ValueError, KeyError, Absent or Unservable."""
    schema = schema_of(path, file)
    tokens, hops, events, clocks = tables(file, schema)
    attributes = renamed(
        {name: value if name in TEXTS else unpacked(value) for name, value in hdf5.attributes(file).items()}
    )
    check_start(attributes, "its attributes")
    for number, each in enumerate(events):
        check_event(each.event, each.text, schema, f"its event {number}")
    return Run(path, schema, attributes, tokens, hops, clocks, events)


def schema_of(path: Path, file: h5py.File) -> int:
    """Return the file's schema. Raises Unreadable where it is no record, or newer than this reader."""
    schema = file.attrs.get("schema")
    if not isinstance(schema, int | np.integer) or schema < 1:
        raise Unreadable(f"{path} is no record of a run: it says of no schema that it is of")
    if schema > SCHEMA:
        raise Unreadable(
            f"{path} is a record of schema {schema}, newer than this reader's {SCHEMA}: update jarvis_mpi"
        )
    if lacking := [name for name in ("tokens", "hops") if name not in file]:
        raise Unreadable(f"{path} is no record of a run: it has no {lacking[0]}")
    return int(schema)


def unpacked(value: Any) -> Any:
    """Parse an attribute that is JSON."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
