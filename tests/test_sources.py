"""The sources themselves: what one Python forgives and another does not."""

import ast
from collections.abc import Iterator

import pytest
from places import ROOT

SOURCES = sorted(
    path
    for folder in ("jarvis_mpi", "analysis", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def hidden(source: str) -> list[str]:
    """Names that a comprehension binds while the function around it takes them from outside.

    Python 3.12 runs a comprehension in the frame around it (PEP 709), and its first releases then take one
    name for the other: a function that is called elsewhere in the same one is "a local variable without a
    value".
    """
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, FUNCTIONS)]
    return sorted({f"line {line}: {name}" for function in functions for line, name in hidden_in(function)})


def hidden_in(function: ast.AST) -> Iterator[tuple[int, str]]:
    uses = list(names(function, frozenset()))
    # := binds in the function, wherever it stands.
    own = {name.id for name, bound in uses if isinstance(name.ctx, ast.Store) and name.id not in bound}
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            own.add(node.arg)
        elif node is not function and isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).partition(".")[0])
    taken = {name.id for name, bound in uses if isinstance(name.ctx, ast.Load) and name.id not in bound | own}
    for name, bound in uses:
        if isinstance(name.ctx, ast.Store) and name.id in bound & taken:
            yield name.lineno, name.id


def names(node: ast.AST, bound: frozenset[str]) -> Iterator[tuple[ast.Name, frozenset[str]]]:
    """Each name in `node`, and what the comprehensions around it bind."""
    if isinstance(node, ast.Name):
        yield node, bound
    elif isinstance(node, COMPREHENSIONS):
        first, *others = node.generators
        yield from names(first.iter, bound)  # which is reckoned outside
        targets = [name for each in node.generators for name in ast.walk(each.target)]
        bound |= {name.id for name in targets if isinstance(name, ast.Name)}
        result = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for part in (first.target, *first.ifs, *others, *result):
            yield from names(part, bound)
    else:
        for child in ast.iter_child_nodes(node):
            yield from names(child, bound)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_comprehension_hides_a_name_of_its_function(path):
    assert hidden(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("hides", "body"),
    [
        (True, "a = {n: layers for n, layers in b}; return [[layers(c) for c in d] for d in b]"),
        (True, "a = [layers for layers in b]; return layers(a)"),
        (True, "return layers([layers for layers in b])"),
        (True, "return [layers for layers in layers(b)]"),
        (True, "a = lambda: layers(b); return [layers for layers in b]"),
        (True, "return [x for layers in b for x in layers], {layers(x) for x in b}"),
        (False, "return [layers for layers in b], {layers for layers in b}"),
        (False, "layers = b; return [layers for layers in b], layers"),
        (False, "return [count for count in b], layers(b)"),
    ],
)
def test_what_counts_as_hidden(hides, body):
    assert bool(hidden(f"def function(b):\n    {body}")) == hides
