#!/usr/bin/env python3
"""make matrix: the smoke set on each Python that is found, with the oldest, the newest and the last tested
packages.

python .ci/matrix.py [--only NAME ...] [--list]     (each environment takes 5 GB and some minutes)
Environments and what they said are kept in runs/matrix.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "runs" / "matrix"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NEIGHBOURS = ("torchvision", "torchaudio", "peft")
INSTALL_S, SMOKE_S = 1800, 2400


def found(version: str) -> str | None:
    """A Python of that version which starts: a shim on PATH may not."""
    places = [f"python{version}"]
    if root := os.environ.get("PYENV_ROOT"):
        places += [str(path) for path in sorted(Path(root).glob(f"versions/{version}.*/bin/python3"))]
    asks = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for place in places:
        try:
            if subprocess.run([place, "-c", asks], capture_output=True, timeout=30).returncode == 0:
                return place
        except (OSError, subprocess.TimeoutExpired):
            continue
    return None


def oldest() -> str:
    """Constraints: each dependency's lower bound."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return "".join(
        f"{name}=={bound}\n" for name, bound in re.findall(r"([\w-]+)>=([\d.]+)", "\n".join(wanted))
    )


def environments(pythons: dict[str, str]) -> dict[str, tuple[str, str | None, tuple[str, ...]]]:
    """Name -> Python, constraints (a path; None: the newest allowed), further packages."""
    tested, lower = str(ROOT / "constraints.txt"), str(KEPT / "oldest.txt")
    made: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
        f"python{version}": (python, tested, ()) for version, python in pythons.items()
    }
    first, last = next(iter(pythons.values())), list(pythons.values())[-1]
    return made | {
        "oldest": (first, lower, ()),
        "newest": (last, None, ()),
        # Not on the first: machines that build for it may have a torch of their own (+cpu), and the index's
        # torchvision does not fit that one; transformers itself cannot be imported there.
        "neighbours": (last, tested, NEIGHBOURS),
    }


def tried(name: str, python: str, constraints: str | None, further: tuple[str, ...]) -> bool:
    """Make the environment and run the smoke set in it. -> whether all passed."""
    folder = KEPT / name
    own = str(folder / "bin" / "python")
    pip = [own, "-m", "pip", "install", "--quiet", *(["--constraint", constraints] if constraints else [])]
    with (KEPT / f"{name}.txt").open("w") as output:
        for words, longest_s in (
            ([python, "-m", "venv", "--clear", str(folder)], 120),
            ([*pip, "--editable", f"{ROOT}[test]", *further], INSTALL_S),
            ([own, "tests/smoke.py"], SMOKE_S),
        ):
            try:
                done = subprocess.run(
                    words, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=longest_s, check=False
                )
            except subprocess.TimeoutExpired:
                print(f"FAILED  {name}: {' '.join(words[:4])} took over {longest_s} s", flush=True)
                return False
            if done.returncode:
                break
    lines = (KEPT / f"{name}.txt").read_text(errors="replace").splitlines() or [""]
    print(f"{'FAILED' if done.returncode else 'passed'}  {name}: {lines[-1]}", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="these environments alone")
    parser.add_argument("--list", action="store_true", help="say what would be tried")
    asked = parser.parse_args()
    pythons = {version: python for version in PYTHONS if (python := found(version))}
    for version in PYTHONS:
        if version not in pythons:
            print(f"left out  Python {version}: not on PATH, nor in $PYENV_ROOT/versions", flush=True)
    if not pythons:
        return 1
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / "oldest.txt").write_text(oldest())
    every = environments(pythons)
    if unknown := set(asked.only) - every.keys():
        print(f"there is no environment {', '.join(sorted(unknown))}: name some of {', '.join(every)}")
        return 2
    chosen = {name: what for name, what in every.items() if not asked.only or name in asked.only}
    if asked.list:
        for name, (python, constraints, further) in chosen.items():
            print(f"{name}: {python}, {constraints or 'the newest allowed'} {' '.join(further)}".rstrip())
        return 0
    results = [tried(name, *what) for name, what in chosen.items()]
    print(f"{sum(results)} of {len(results)} environments passed; what they said is in {KEPT}")
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
