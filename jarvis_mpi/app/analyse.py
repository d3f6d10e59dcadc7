"""python -m jarvis_mpi analyse [SCRIPT ...]:
runs a script of analysis/, which draws or sums up records; without one: lists them."""

import ast
import runpy
import sys
from pathlib import Path

from ..common.errors import Unservable
from ..common.options import Parser

PACKAGE = Path(__file__).resolve().parent.parent
# Installed; a checkout's, also if that is editable.
FOLDERS = (PACKAGE / "analysis", PACKAGE.parent / "analysis")
IS_SCRIPT = 'if __name__ == "__main__":'


def main(words: list[str]) -> int | str:
    scripts = {path.stem: path for path in sorted(folder().glob("*.py")) if IS_SCRIPT in path.read_text()}
    if words and words[0] in scripts:
        path = scripts[words[0]]
        sys.argv = [str(path), *words[1:]]
        sys.path.insert(0, str(path.parent))  # where the scripts find one another
        runpy.run_path(str(path), run_name="__main__")
        return 0
    parser = Parser(
        prog="python -m jarvis_mpi analyse",
        description="Draw and sum up records. Without a script: list them all.",
        epilog="Each tells its own options: python -m jarvis_mpi analyse latency --help",
    )
    parser.add_argument("script", nargs="?", choices=scripts, metavar="SCRIPT")
    try:
        parser.parse_args(words)
    except Unservable as error:
        return str(error)
    for name, path in scripts.items():
        print(f"{name:<{max(map(len, scripts))}}  {opening(path)}")
    return 0


def folder() -> Path:
    return next((each for each in FOLDERS if each.is_dir()), FOLDERS[0])


def opening(path: Path) -> str:
    """Return the first paragraph of the script's docstring, on one line.

    It is read from the source, since `python -OO` has no docstrings."""
    words = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(words.partition("\n\n")[0].split())
