"""Opens the terminal or pipe that mpirun itself writes to, for the answers.

Open MPI 5.0 holds back what a rank prints until a whole line is there (mpirun --output :raw would let it
through, but no parameter file can say so), and a streamed answer is one long line. Where mpirun started the
end user on its own machine, any process of the same user can open mpirun's standard output. A file is left
to mpirun: nobody watches it, and two writers would overwrite each other.
"""

import io
import os
import sys
from pathlib import Path
from typing import TextIO

from ..common.output import stream
from ..net.launcher import launchers_descriptor, launchers_process


def launchers_stream(descriptor: int) -> TextIO:
    """Return mpirun's standard output (1) or error (2) if it is a terminal or a pipe; else our own; /dev/null
    if it is closed."""
    try:
        output = launchers_descriptor(descriptor)
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
    """Whether that process has both ends: mpirun, started without standard input or output, has a pipe in its
    place."""
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
    """Return with which flags a process has opened a descriptor in its /proc/PID/fd."""
    lines = (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text().splitlines()
    return next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))


def goes_to_a_file(descriptor: int) -> bool:
    """Whether the descriptor is a file: mpirun's where that started us, else this process's."""
    return ((launchers_process() or Path("/proc/self")) / "fd" / str(descriptor)).is_file()
