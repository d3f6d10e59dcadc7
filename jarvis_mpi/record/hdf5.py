"""Opens HDF5 files, in one way for all writers and readers, and reads them without trust in what they claim.

HDF5's own locks are never used: it gives up where a file system has none (ENOLCK, as NFS without its lock
daemon), and a reader's lock would stop a run that is resumed. Instead a writer takes a lock of ours where
there are locks. No reference to another file is followed, and nothing is read whose claimed size the file
cannot hold.
"""

import contextlib
import errno
import fcntl
import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..common.errors import Unservable
from . import hdf5_check, hdf5_chunks

LEAST_LIMIT = 1 << 26  # bytes that any file may claim
PACKED = 64  # how many times its size a file may claim: equal rows are packed, or not written yet


class Absent(LookupError):
    """The file has no dataset of that name: it is another kind of file."""


class InUse(OSError):
    """Another process has locked the file: its writer, or a reader with HDF5's own lock."""

    def __init__(self, path: Path | None = None) -> None:
        who = ", ".join(holders(path)) if path else ""
        super().__init__(
            errno.EWOULDBLOCK, f"{who or 'another process'} has it open: end that, or wait for its end"
        )


def holders(path: Path) -> list[str]:
    """Return the processes of this machine that have it open, as far as this user may see."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) != os.getpid() and any(
                each.samefile(path) for each in (process / "fd").iterdir() if each.is_file()
            ):
                found.append(f"process {process.name} ({(process / 'comm').read_text().strip()})")
    return found


def free(path: Path) -> None:
    """Check that it can be written. Raises OSError where it cannot, InUse where another process has it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        hold(descriptor, path)
    finally:
        os.close(descriptor)


def made(path: Path, libver: Any = None) -> h5py.File:
    """Create a new file, which only its writer may use until `shared`. Raises OSError."""
    file = h5py.File(path, "x", libver=libver, locking=False)
    hold(handle(file))
    return file


def changed(path: Path, libver: Any = None) -> h5py.File:
    """Open an existing file to write, for this process alone until `shared`.
    Raises OSError, InUse if another writes it."""
    # Lock before HDF5 opens it: on closing, HDF5 cuts a file to the length that it knew.
    first = os.open(path, os.O_RDWR)
    try:
        hold(first, path)
        hdf5_check.check(path)
        file = h5py.File(path, "r+", libver=libver, locking=False)
    finally:
        os.close(first)
    hold(handle(file), path)
    return file


def read(path: Path, **more: Any) -> h5py.File:
    """Open a file to read, also while another process writes it. Raises OSError."""
    hdf5_check.check(path)
    return h5py.File(path, "r", locking=False, **more)


def shared(file: h5py.File) -> None:
    """Release the writer's lock: other programs' readers ask for HDF5's."""
    with contextlib.suppress(OSError):
        fcntl.flock(handle(file), fcntl.LOCK_UN)


def handle(file: h5py.File) -> int:
    return file.id.get_vfd_handle()


def hold(descriptor: int, path: Path | None = None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUse(path) from None
    except OSError:  # no locks here
        pass


def limit(file: h5py.File) -> int:
    return max(LEAST_LIMIT, PACKED * Path(file.filename).stat().st_size)


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return the dataset of that name, if all of it is in the file and fits. Raises Absent or Unservable."""
    link = file.get(name, getlink=True)
    if link is None:
        raise Absent(f"it has no {name}")
    if not isinstance(link, h5py.HardLink):
        raise Unservable(f"{file.filename} is not read: its {name} points elsewhere, which is not followed")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise Unservable(f"{file.filename} is damaged: its {name} is no table")
    if found.is_virtual or found.external:
        raise Unservable(
            f"{file.filename} is not read: its {name} lies in another file, which is not followed"
        )
    if not plain(found.dtype) or not as_usual(found):
        raise Unservable(f"{file.filename} is damaged: its {name} is no such table ({found.dtype})")
    item = max(1, found.dtype.itemsize)
    rows, chunk = math.prod(found.shape or (1,)), math.prod(found.chunks or (1,))
    if found.shape is None or max(rows, chunk) * item > limit(file):
        raise Unservable(
            f"{file.filename} is damaged: its {name} claims {max(rows, chunk)} rows of {item} bytes, "
            f"and the file has {Path(file.filename).stat().st_size} bytes"
        )
    if wrong := hdf5_chunks.wrong_with(found):
        raise Unservable(f"{file.filename} is damaged: its {name} {wrong}")
    return found


def as_usual(found: h5py.Dataset) -> bool:
    """Whether its numbers are as some machine has them: HDF5 2.0 writes past its buffers in converting others
    (of a damaged field)."""
    return found.id.get_type().equal(h5py.h5t.py_create(found.dtype, logical=True))


def plain(kind: np.dtype) -> bool:
    """Whether it is of numbers and texts: HDF5 2.0 crashes in reading lists of an unknown type (of a damaged
    text)."""
    if kind.names is not None:
        return all(kind[name].names is None and plain(kind[name]) for name in kind.names)
    return kind.kind in "iufbS" or h5py.check_string_dtype(kind) is not None


def rows(file: h5py.File, name: str, like: np.dtype | None = None, most: int | None = None) -> np.ndarray:
    """Return the first `most` rows of a table. `like`: the kinds of its fields.
    Raises Absent or Unservable."""
    found = dataset(file, name)
    if found.ndim == 0 or (like is not None and not alike(found.dtype, like)):
        raise Unservable(f"{file.filename} is damaged: its {name} is no such table ({found.dtype})")
    if most is None:
        return found[:]
    return found[: max(0, min(most, found.shape[0]))]


def alike(has: np.dtype, wanted: np.dtype) -> bool:
    """Whether the fields that both have are of the same kinds."""
    if has.names is None or wanted.names is None:
        return has.names == wanted.names and has.kind == wanted.kind and has.shape == wanted.shape
    return all(
        has[name].kind in ("iu" if wanted[name].kind in "iu" else wanted[name].kind) and not has[name].shape
        for name in set(has.names) & set(wanted.names)
    )


def attributes(file: h5py.File) -> dict[str, str | int | float]:
    """Return all attributes, each a text or a number. Raises Unservable or ValueError."""
    found: dict[str, str | int | float] = {}
    attrs, most = file.attrs, limit(file)
    for name in attrs:
        attribute = attrs.get_id(name)
        if attribute.get_storage_size() > most or attribute.shape != () or not plain(attribute.dtype):
            raise Unservable(f"{file.filename} is damaged: its attribute {name} is no text and no number")
        value = attrs[name]
        if isinstance(value, str):
            value.encode()  # raises a ValueError where it is no text
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, str | int | float):
            raise Unservable(f"{file.filename} is damaged: its attribute {name} is no text and no number")
        found[name] = value
    return found
