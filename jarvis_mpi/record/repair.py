"""Repairs a record whose writer was killed, for any HDF5 program: clears its flag, drops half rows."""

import time
from pathlib import Path

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.new_file import fresh
from ..common.process_identity import lives
from . import hdf5
from .reader import load, opened
from .run import Run, Unreadable
from .schema import FIELDS, LIBVER

QUIET_S = 60.0  # a run writes a row of clock offsets every ten seconds


def mend(path: Path) -> Run:
    """Repair a record that nobody writes any more. Raises Unreadable where its writer may still live."""
    run = load(path)
    try:
        hdf5.read(path).close()
        return run
    except OSError:
        pass
    refuse_living_writer(run)
    part = fresh(path)
    try:
        with guarded(f"{path} cannot be mended"):
            copy_whole_rows(run, part)
        part.replace(path)
    except (OSError, Unservable) as error:
        part.unlink(missing_ok=True)
        raise Unreadable(str(error)) from error
    return run


def refuse_living_writer(run: Run) -> None:
    """Raises Unreadable where the record's writer lives, or may live on another machine."""
    writer_lives = lives(run.writer)
    if run.writer and writer_lives:
        raise Unreadable(f"{run.path} is still being written, by process {run.writer['pid']} of this machine")
    quiet_s = time.time() - run.path.stat().st_mtime
    if writer_lives is None and 0 <= quiet_s < QUIET_S:
        raise Unreadable(
            f"{run.path} was written {quiet_s:.0f} s ago, perhaps by another machine: wait for "
            f"{QUIET_S:.0f} s"
        )


def copy_whole_rows(run: Run, to: Path) -> None:
    whole = {name: len(getattr(run, name)) for name in ("tokens", "hops", "events", "clocks")}
    with opened(run.path) as old, hdf5.made(to, libver=LIBVER) as new:
        for name in [name for name in FIELDS if name in old]:
            old.copy(hdf5.dataset(old, name), new, name)
            new[name].resize(whole.get(name, len(new[name])), axis=0)
        for name, value in hdf5.attributes(old).items():
            new.attrs[name] = value
