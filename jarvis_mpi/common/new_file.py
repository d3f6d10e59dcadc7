"""Make a file under a temporary name first, and never replace an existing one.

publish     gives the file its name, where none is by now: this alone protects what others wrote
claim       writes into NAME.part which process is going to write NAME, so that a second run is refused before
            its work, not after. A file that is in the way of a claim stays as it is.
"""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import process_identity
from .errors import Unservable
from .json_form import parsed

CLAIM = {"machine": str, "space": str, "pid": int, "begun": str}  # process_identity.named
ROOM = 1 << 16  # bytes of a record before its first token
LONGEST_CLAIM = 4096  # bytes
claims: dict[Path, str] = {}  # of this process


def check_path(path: Path, must_be_new: bool = True) -> None:
    """Check, before the work, that the file can be written (`must_be_new`: and that none exists).
    Raises Unservable."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder: name a file in it")
        make_folder(path.parent)
        part = fresh(path)
        try:
            put(part, " " * ROOM)
        finally:
            part.unlink(missing_ok=True)
        if must_be_new and os.path.lexists(path):
            raise FileExistsError(0, "there is a file of that name already")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents. Raises OSError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        raise NotADirectoryError(0, f"{existing} is no folder") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into Unservable."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise Unservable(f"--log {path} cannot be written: {why}") from None


def fresh(path: Path) -> Path:
    """Return an unused name beside `path`."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")


def publish(part: Path, path: Path) -> None:
    """Give the finished file its name. Raises FileExistsError."""
    try:
        os.link(part, path)
        part.unlink()
        return
    except FileExistsError:
        pass
    except OSError:  # no hard links here: an empty file takes the name, and is replaced
        try:
            put(path, "")
            part.replace(path)
            return
        except FileExistsError:
            pass
    raise FileExistsError(errno.EEXIST, "a file of that name has come meanwhile")


def put(path: Path, text: str) -> None:
    """Write a new file. Raises FileExistsError."""
    with path.open("x") as file:
        file.write(text)


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def claim(path: Path) -> None:
    """Claim `path` for this process.
    Raises Unservable where another process of this machine is about to write it."""
    mine, place = json.dumps(process_identity.named(os.getpid())), part_of(path)
    with contextlib.suppress(OSError):  # no room for the claim, or no permission: publish is enough
        for _ in range(2):
            try:
                put(place, mine)
                claims[path] = mine
                return
            except FileExistsError:
                owner = claimant(place)
                if owner is None:  # a file of the user's
                    return
                if process_identity.lives(owner):
                    raise Unservable(
                        f"--log {path} cannot be written: process {owner['pid']} is about to write it "
                        f"({place}): name another file"
                    ) from None
                place.unlink()  # of one that was killed


def claimant(place: Path) -> dict[str, str | int] | None:
    """Return the process that made a claim; None where the file is no claim."""
    with contextlib.suppress(OSError, ValueError):
        if place.is_file() and place.stat().st_size <= LONGEST_CLAIM:
            return parsed(place.read_text(), CLAIM, "a claim")
    return None


def give_back(path: Path | None = None) -> None:
    """Remove this process's claim to `path`, or all its claims: the file is written, or will not be."""
    for each in list(claims) if path is None else [path] if path in claims else []:
        mine = claims.pop(each)
        with contextlib.suppress(OSError, ValueError):
            if part_of(each).read_text() == mine:
                part_of(each).unlink()
