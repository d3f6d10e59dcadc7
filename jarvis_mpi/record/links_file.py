"""Writes and reads the file of `doctor --log`: each host's answer, and the links between them; for
analysis/predict.py and --links."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ..common import new_file
from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.json_form import parsed
from . import hdf5


class Measured(NamedTuple):
    """The link between two nodes, measured; NaN where they could not reach each other."""

    a: int
    b: int
    round_trip_s: float
    kbit_s: float  # of one message, from `a` to `b`


LINKS = [("a", "u2"), ("b", "u2"), ("round_trip_s", "f8"), ("kbit_s", "f8")]
Links = dict[frozenset[str], list[float | None]]
Stamp = tuple[int, int, int] | None  # of a file; None: there is none


def stamp(path: Path) -> Stamp:
    if not os.path.lexists(path):
        return None
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def usable(path: Path) -> Stamp:
    """Check that `path` can be written.
    Raises Unservable where it cannot, or where a file is there that doctor did not write."""
    new_file.check_path(path, must_be_new=False)
    with guarded(f"--log {path} is not what doctor writes", "name another file"):
        if found := stamp(path):
            if not path.is_file():
                raise OSError("it is no file")
            links_of(path)
        return found


def write(
    path: Path,
    hosts: Sequence[str],
    answers: Mapping[str, Any],
    links: Sequence[Measured],
    before: Stamp = None,
) -> None:
    """Replace the file that `usable` found. Raises Unservable."""
    with new_file.writing(path):
        if stamp(path) != before:
            raise Unservable(f"--log {path} was written by another process meanwhile: name another file")
        part = new_file.fresh(path)
        try:
            with part.open("xb") as file:
                file.write(image(hosts, answers, links))
            if before:
                part.replace(path)
            else:
                new_file.publish(part, path)
        finally:
            part.unlink(missing_ok=True)


def image(hosts: Sequence[str], answers: Mapping[str, Any], links: Sequence[Measured]) -> bytes:
    """Make the file in memory: HDF5 crashes where a disk is full."""
    with h5py.File("doctor.h5", "w", driver="core", backing_store=False) as file:
        file.create_dataset("links", data=np.array([tuple(link) for link in links], LINKS))
        file.attrs["hosts"] = json.dumps(list(hosts))
        file.attrs["said"] = json.dumps(answers)
        file.flush()
        return file.id.get_file_image()


def links_in(path: Path) -> Links:
    """Read what `write` wrote: two host names -> round trip in s, kbit/s; None where nothing went through.
    Raises Unservable."""
    with guarded(f"--links {path} is not what doctor --log writes"):
        return links_of(path)


def links_of(path: Path) -> Links:
    """As `links_in`; raises whatever HDF5 raises."""
    with hdf5.read(path) as file:
        rows, attributes = hdf5.rows(file, "links", np.dtype(LINKS)), hdf5.attributes(file)
    hosts = parsed(str(attributes["hosts"]), [str], "its attribute hosts")
    answers = parsed(str(attributes["said"]), {str: (str, {"host": str})}, "its attribute said")
    names = [answers[host]["host"] for host in hosts]
    return {
        frozenset((names[row["a"]], names[row["b"]])): [
            figure if math.isfinite(figure) and figure >= 0 else None
            for figure in (float(row["round_trip_s"]), float(row["kbit_s"]))
        ]
        for row in rows
    }
