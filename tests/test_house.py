"""Which wing may import which, and which heavy library only which wing may name: one table, held against every import."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

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


def test_each_wing_says_what_it_is_for():
    for wing in MAY:
        words = ast.get_docstring(ast.parse((PACKAGE / wing / "__init__.py").read_text()))
        assert words, wing
        assert words.splitlines()[0].endswith(".")


def test_each_wing_and_the_scripts_of_analysis_are_in_the_wheel():
    """The list in pyproject.toml is written by hand: a folder that it lacks would be left out without a word."""
    config = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")}
    assert {*config["packages"]} == {".".join(each.parts) for each in folders} | {"jarvis_mpi.analysis"}
    assert config["package-dir"] == {"jarvis_mpi.analysis": "analysis"}
