"""Where the answer goes, and where the person looks: straight to what mpirun writes to and reads from.

Open MPI 5.0 holds back what a rank prints until a whole line is there (mpirun --output :raw would let it
through, but no parameter file can say so), and a streamed answer is one long line. Where the end user was
started by mpirun on its own machine, mpirun's standard output can be opened by anyone of the same user.
A file is left to mpirun: nobody watches it, and two writers would overwrite each other.
"""

import io
import os
import sys
from pathlib import Path
from typing import TextIO

from ..common.output import stream
from ..net.launch_agents import LAUNCHERS


def launcher() -> Path | None:
    """mpirun's folder in /proc, where it is this process's parent."""
    parent = Path(f"/proc/{os.getppid()}")
    try:
        return parent if (parent / "comm").read_text().strip() in LAUNCHERS else None
    except OSError:  # no /proc
        return None


def launchers_stream(descriptor: int) -> TextIO:
    """mpirun's standard output (1) or error (2) if it is a terminal or a pipe, or else our own; nothing if it is closed."""
    try:
        output = (launcher() or Path("/nowhere")) / "fd" / str(descriptor)
        if is_own_pipe(output):
            return Path(os.devnull).open("w", encoding="utf-8")
        if output.exists() and not output.is_file():
            return stream(os.open(output, os.O_WRONLY | os.O_NOCTTY), own=True, needed=descriptor == 1)
    except OSError:  # a socket, another user's
        pass
    ours = sys.stdout if descriptor == 1 else sys.stderr
    if isinstance(ours, io.TextIOWrapper):  # a model says what no older encoding has letters for
        ours.reconfigure(encoding="utf-8", errors="backslashreplace")
    return ours


def is_own_pipe(descriptor: Path) -> bool:
    """Whether both ends are of that process: mpirun, started without standard input or output, has a pipe under its number."""
    if not descriptor.is_fifo():
        return False
    held = [flags_of(path) & os.O_ACCMODE for path in descriptor.parent.iterdir() if same(path, descriptor)]
    return os.O_RDONLY in held and os.O_WRONLY in held


def same(one: Path, other: Path) -> bool:
    try:
        return one.readlink() == other.readlink()
    except OSError:  # closed meanwhile
        return False


def flags_of(descriptor: Path) -> int:
    """How a process has opened what stands in its /proc/PID/fd."""
    lines = (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))


def goes_to_a_file(descriptor: int) -> bool:
    """Of mpirun where that started us, else of this process."""
    return ((launcher() or Path("/proc/self")) / "fd" / str(descriptor)).is_file()
