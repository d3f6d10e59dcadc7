"""Which wing may import which, and which heavy library only which wing may name: one table, held against
every import.

And how long a function, a class, a file may be.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "jarvis_mpi"
MAY: dict[str, set[str]] = {  # wing -> the wings it may import; every wing may import itself
    "common": set(),
    "kernels": {"common"},
    "protocol": {"common"},
    "nn": {"kernels", "common"},
    "net": {"protocol", "common"},
    "record": {"protocol", "common"},
    "model": {"nn", "common"},
    "study": {"model", "record", "net", "protocol", "common"},
    "testbed": {"model", "record", "net", "protocol", "common"},
    "app": {"model", "record", "net", "protocol", "common"},
}
NEVER = {  # heavy libraries: the only wings that may name them, wherever the import stands
    "mpi4py": {"net"},
    "torch": {"kernels", "nn", "model", "study", "app"},
    "transformers": {"nn", "model", "study"},
    "llvmlite": {"kernels"},
    "h5py": {"record"},
    "rich": {"common", "app", "testbed"},
}
FUNCTION, CLASS, METHODS, FILE = 60, 200, 12, 300  # lines, lines, public ones, lines
HEAD = 10  # of a file: where its reason to be long may stand
REASON = re.compile(r"# long: \S+ ?\S*")
IMPURE = {"numpy", "time", "socket", "threading", "pathlib", "asyncio", "random", "os"}  # not in protocol


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = list(path.relative_to(PACKAGE.parent).parts[: -node.level or None]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def files() -> list[tuple[str, Path]]:
    """Each file of a wing, with the wing's name."""
    found = [(path.relative_to(PACKAGE).parts[0], path) for path in sorted(PACKAGE.rglob("*.py"))]
    return [(wing, path) for wing, path in found if wing in MAY]


def test_every_file_lies_in_a_wing():
    alone = {path.name for path in PACKAGE.glob("*.py")}
    assert alone == {"__init__.py", "__main__.py"}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} == MAY.keys()


def test_arrows_run_down():
    wrong = []
    for wing, path in files():
        for name in imports(path):
            first, *rest = name.split(".")
            if first == PACKAGE.name and rest and rest[0] in MAY.keys() - MAY[wing] - {wing}:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}: {wing} may not see {rest[0]}")
            if wing == "protocol" and first in IMPURE:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}: protocol is pure")
            if wing not in NEVER.get(first, {wing}):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}: not in {wing}")
    assert not wrong, "\n".join(wrong)


def test_no_two_files_of_a_wing_import_each_other():
    """At the top of the file: inside a function it may be so for a light start."""
    above: dict[str, set[str]] = {}
    for _, path in files():
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        tree.body = [node for node in tree.body if isinstance(node, ast.ImportFrom | ast.Import)]
        above[module] = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.level:
                base = [
                    *path.relative_to(PACKAGE.parent).parts[: -node.level],
                    *([node.module] if node.module else []),
                ]
                above[module] |= {
                    ".".join(base),
                    *(".".join([*base, alias.name]) for alias in node.names),
                }
    left = dict(above)
    while free := [module for module, needs in left.items() if not needs & left.keys() - {module}]:
        for module in free:
            del left[module]
    assert not left, f"a circle among {sorted(left)}"


def lengths(path: Path) -> Iterator[tuple[int, str]]:
    """What is too long in a file and has no reason beside it: the line, and what it is."""
    text = path.read_text()
    lines = text.splitlines()
    if len(lines) > FILE and not any(REASON.search(line) for line in lines[:HEAD]):
        yield 1, f"{len(lines)} lines"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        length = node.end_lineno - node.lineno + 1
        methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
        public = sum(not name.startswith("_") for name in methods)
        if isinstance(node, ast.ClassDef):
            found = length > CLASS or public > METHODS
        else:
            found = length > FUNCTION
        head = lines[node.lineno - 1 : node.body[0].lineno]
        if found and not any(REASON.search(line) for line in head):
            yield node.lineno, f"{node.name}: {length} lines, {public} public methods"


def test_no_room_is_long_without_a_reason():
    """ruff counts branches and statements; this counts lines.
    A reason is a comment `# long: why` where the room begins."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for folder in ("jarvis_mpi", "analysis", "benchmarks", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, what in lengths(path)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f():\n" + "    pass\n" * 60, 1),
        ("def f():\n" + "    pass\n" * 59, 0),
        ("def f(  # long: a table\n):\n" + "    pass\n" * 60, 0),
        ("class A:\n" + "    def f(self): ...\n" * 13, 1),
        ("class A:  # long: one message each\n" + "    def f(self): ...\n" * 13, 0),
        ("class A:\n" + "    def _f(self): ...\n" * 13, 0),
        ("x = 1\n" * 301, 1),
        ("# long: a list\n" + "x = 1\n" * 301, 0),
    ],
)
def test_what_counts_as_long(source, count, tmp_path):
    (tmp_path / "room.py").write_text(source)
    assert len([*lengths(tmp_path / "room.py")]) == count


def test_each_wing_says_what_it_is_for():
    for wing in MAY:
        words = ast.get_docstring(ast.parse((PACKAGE / wing / "__init__.py").read_text()))
        assert words, wing
        assert words.splitlines()[0].endswith(".")


def test_each_wing_and_the_scripts_of_analysis_are_in_the_wheel():
    """The list in pyproject.toml is written by hand: a folder that it lacks would be left out without a
    word."""
    config = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")}
    assert {*config["packages"]} == {".".join(each.parts) for each in folders} | {"jarvis_mpi.analysis"}
    assert config["package-dir"] == {"jarvis_mpi.analysis": "analysis"}
