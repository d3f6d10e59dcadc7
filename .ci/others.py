#!/usr/bin/env python3
"""On each other Python that is found: imports and one answer (tests/smoke.py --quick), in an environment of
its own.

python .ci/others.py [--only VERSION ...]     (.ci/run does, behind the suite)
An environment takes some minutes and 5 GB under runs/, and is removed at once. For what there is no time
left, and what cannot be installed, is left out, and said. The status is 0 if none failed.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matrix import PYTHONS, ROOT, found

EACH_S = 720.0  # for one Python: to install torch, which comes with CUDA, takes 4 minutes of it
ALL_S = 1200.0
AT_LEAST_S = 300.0  # with less than this left none is begun
ROOM = 8e9  # bytes
LINES = 15  # of what failed


class Ended(Exception):
    """By .ci/run, whose suite has failed."""


def run(words: list[str], said: Path, until: float, scratch: str) -> int | None:
    """-> its status; None if it was not done in time. Nothing of it is left running."""
    # Two mpiruns of one user that begin and end at once remove each other's folder in TMPDIR.
    environment = {**os.environ, "TMPDIR": scratch}
    with said.open("a") as output:
        done = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        return done.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if done.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(done.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                done.wait(15)  # for the ranks' own end, which mpirun sees to
        with contextlib.suppress(ProcessLookupError):
            os.killpg(done.pid, signal.SIGKILL)


def passes(version: str, python: str, until: float) -> bool:
    """Make the environment, try it, remove it. -> whether all was well."""
    folder = ROOT / "runs" / f"ci-python{version}"
    said, own = folder.with_suffix(f"{folder.suffix}.txt"), str(folder / "bin" / "python")
    folder.parent.mkdir(exist_ok=True)
    said.write_text("")
    pip = [own, "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", "constraints.txt"]
    begun, status = time.monotonic(), None
    scratch = tempfile.mkdtemp(prefix="jarvis-ci-")
    makes = [python, "-m", "venv", "--clear", str(folder)], [*pip, "--editable", "."]
    tries = [own, "tests/smoke.py", "--quick"]
    try:
        for words in (*makes, tries):
            if (status := run(words, said, until, scratch)) != 0:
                break
    finally:
        for made in (folder, scratch):
            shutil.rmtree(made, ignore_errors=True)
    took = f"{time.monotonic() - begun:.0f} s"
    lines = said.read_text(errors="replace").splitlines() or ["it said nothing"]
    if status == 0:
        print(f"passed  Python {version}, imports and one answer: {lines[-1]}, {took}", flush=True)
        said.unlink()
        return True
    if words is not tries:  # a registry's day, and nothing of ours
        why = lines[-1] if status else f"installing was not done after {took}"
        print(f"left out  Python {version}: {why}", flush=True)
        return True
    what = f"not done after {took}: {' '.join(words[1:4])}" if status is None else f"status {status}, {took}"
    print("\n    ".join([f"FAILED  Python {version}: {what}", *lines[-LINES:]]), flush=True)
    return False


def end(*_: object) -> None:
    raise Ended


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="these versions alone")
    parser.add_argument("--each-s", type=float, default=EACH_S, help="(default: %(default)s)")
    parser.add_argument("--all-s", type=float, default=ALL_S, help="(default: %(default)s)")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, end)
    until, results = time.monotonic() + asked.all_s, []
    mine = ".".join(map(str, sys.version_info[:2]))
    for version in asked.only or [each for each in PYTHONS if each != mine]:
        left_s = until - time.monotonic()
        if not (python := found(version)):
            why = "not on PATH, nor in $PYENV_ROOT/versions"
        elif left_s < min(AT_LEAST_S, asked.each_s):
            why = f"{max(0.0, left_s):.0f} s are left"
        elif (free := shutil.disk_usage(ROOT).free) < ROOM:
            why = f"{free / 1e9:.0f} GB are free, it needs {ROOM / 1e9:.0f}"
        else:
            results.append(passes(version, python, min(until, time.monotonic() + asked.each_s)))
            continue
        print(f"left out  Python {version}: {why}", flush=True)
    return int(not all(results))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Ended:
        print("left out  the other Pythons: ended", flush=True)
        sys.exit(1)
