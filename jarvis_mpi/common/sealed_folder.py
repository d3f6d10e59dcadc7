"""Seal a folder that we made and use again: a manifest of its files, with the digests that show damage.

SEAL holds each file's size and sha256. Sizes are checked whenever the folder is used; `damage` reads all of
it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import Unservable

SEAL = "jarvis.json"
PIECE_BYTES = 1 << 22


def seal(folder: Path, names: Iterable[str], **more: Any) -> None:
    """Write the manifest. It is the last file that is written: a folder without it is not whole."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names
    }
    with (folder / SEAL).open("w") as file:
        json.dump({**more, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def sealed(folder: Path) -> dict[str, Any] | None:
    """Return the manifest; None where there is none that can be read."""
    try:
        manifest = json.loads((folder / SEAL).read_bytes())
        files = manifest["files"].values()
        fine = all(isinstance(file["bytes"], int) and isinstance(file["sha256"], str) for file in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if fine else None


def sizes_right(folder: Path) -> None:
    """Raises Unservable unless the folder is sealed, and its files have the sizes of the manifest."""
    if (manifest := sealed(folder)) is None:
        raise Unservable(f"{folder} is damaged: it has no whole {SEAL}; delete it, and it is made anew")
    for name, file in manifest["files"].items():
        found = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if found != file["bytes"]:
            raise Unservable(
                f"{folder / name} is damaged: it has {found} bytes, not {file['bytes']}; delete {folder},"
                " and it is made anew"
            )


def damage(folder: Path, tell: Callable[[Path], None]) -> Iterator[str]:
    """Yield a line for each file that differs from the manifest; `tell` gets each file that is read."""
    try:
        sizes_right(folder)
    except Unservable as error:
        yield str(error)
        return
    for name, file in (sealed(folder) or {"files": {}})["files"].items():
        tell(folder / name)
        if sha256_of(folder / name) != file["sha256"]:
            yield (
                f"{folder / name} is damaged: its sha256 is another than when it was made; delete {folder}, "
                "and it is made anew"
            )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
