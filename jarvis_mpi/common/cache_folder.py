"""The user's cache folder: its files are made once, by one process at a time."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Unservable

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Return $JARVIS_CACHE, else our folder in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("JARVIS_CACHE") or f"{base}/jarvis_mpi")
    try:
        return folder.expanduser()
    except RuntimeError:  # no HOME, and the system knows no such user
        raise Unservable(f"there is no home folder for {folder}: name a folder in JARVIS_CACHE") from None


def another(cache: Path, variable: str) -> str:
    """Return the advice for a cache folder that cannot be used."""
    home = os.environ.get("HOME")
    if home and cache.is_relative_to(home):
        return f"name another in {variable}, or your own home folder in HOME (it is {home})"
    return f"name another in {variable}"


def keep(path: Path, data: bytes) -> None:
    """Write a file that saves time at the next start: whole or not at all, and not where there is no room."""
    scratch = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        scratch.rename(path)


def is_cached(path: Path) -> bool:
    """Return whether `keep` has written the file; False where the folder is another user's."""
    try:
        return path.is_file()
    except OSError:
        return False


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raises Unservable where files cannot be made or locked in there."""
    try:
        yield
    except TimeoutError:  # filelock's own: another has it
        raise
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        raise Unservable(
            f"the cache folder {folder} cannot be used ({why}): {another(folder, 'JARVIS_CACHE')}"
        ) from None


@contextmanager
def only_one(folder: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock between the ranks of one host. Raises Unservable after `timeout_s`."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_suffix(".lock"))
    try:
        with writable(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout_s)
    except Timeout:
        raise Unservable(f"another process has been making {folder} for {timeout_s:.0f} s: end it") from None
    try:
        yield
    finally:
        lock.release()
