"""Opens mpirun's own folder of a run, if nobody else can put anything into it or read it.

Only the standard library, and little of it: see launch_agents.py.
"""

import os

FOLDER = "PMIX_SERVER_TMPDIR"  # which mpirun makes for a run, and removes


def opened(path: str) -> int | None:
    """Return a descriptor of a folder that is this user's alone; None if it is not, or is not there."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    found = os.fstat(folder)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return folder
    os.close(folder)
    return None
