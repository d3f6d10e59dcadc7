"""A fault planted into a copy of the protocol: stories must notice it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from places import ROOT

import jarvis_mpi


def noticed(folder: Path, program: str, piece: int, module: str, old: str, new: str, times: int = 1) -> str:
    """Put `new` for `old`, which stands so many times in the module; tell 1,500 stories, `piece` at a time,
    by `python -m PROGRAM FIRST END`. -> the first output that names a seed."""
    package = shutil.copytree(Path(jarvis_mpi.__file__).parent, folder / "jarvis_mpi")
    source = (package / f"{module}.py").read_text()
    assert source.count(old) == times, f"{module}.py has {source.count(old)} times: {old}"
    (package / f"{module}.py").write_text(source.replace(old, new))
    path = f"{folder}{os.pathsep}{ROOT / 'tests'}"
    for first in range(0, 1500, piece):
        done = subprocess.run(
            [sys.executable, "-m", program, str(first), str(first + piece)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if "seed" in done.stdout:
            print(done.stdout.splitlines()[0])
            return done.stdout
    raise AssertionError(f"1,500 stories did not notice it: {done.stdout} {done.stderr}")
