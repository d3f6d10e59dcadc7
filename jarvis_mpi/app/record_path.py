"""Chooses where a run's record goes without --log."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..common.errors import Unservable
from ..common.new_file import check_path


def new_log(say: Callable[[str], None]) -> Path:
    """Return a new file name: under runs/ here, else in the user's state folder, else in a temporary one;
    `say` reports the latter two."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.h5"
    why = ""
    for folder in (Path("runs"), state_folder()):
        if folder is None:
            continue
        try:
            check_path(folder / name)
        except Unservable as error:
            why = why or str(error).removeprefix("--log ")
            continue
        if why:
            say(f"{why}: the record is {folder / name}")
        return folder / name
    try:
        path = Path(tempfile.mkdtemp(prefix="jarvis_mpi-")) / name
        check_path(path)
    except (OSError, Unservable):
        raise Unservable(
            f"{why}, nor can a temporary folder: say --log FILE where one can be written"
        ) from None
    say(f"{why}, nor can the user's state folder: the record is {path}, which may be gone after a restart")
    return path


def state_folder() -> Path | None:
    """Return our folder in $XDG_STATE_HOME, by default ~/.local/state; None where there is no home."""
    state_home = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        return (state_home if state_home.is_absolute() else Path.home() / ".local/state") / "jarvis_mpi/runs"
    except RuntimeError:
        return None
