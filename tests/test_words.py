"""The field's words: no identifier, option, module or field of a record is made of a word that
docs/glossary.md does not know."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from jarvis_mpi.common.options import parser
from jarvis_mpi.record import schema

# The dialect that readers stopped at, word by word; what stands for each is in the glossary.
DIALECT = frozenset(
    re.findall(
        r"\w+",
        "crew enduser flight flights trip trips upkeep news hears harm harms nought told said its there "
        "kept anew roll parting lifeline foretold crowd tally rowwise lean distil",
    )
)
ALLOWED = re.compile("round_?trip|in_?flight", re.IGNORECASE)  # the field's own
PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")  # of snake_case and CamelCase
FILES = [path for top in ("jarvis_mpi", "analysis") for path in sorted((ROOT / top).rglob("*.py"))]


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each name and its line."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.Name(id=name)
                | ast.Attribute(attr=name)
            ):
                yield name, node.lineno
            case ast.arg(arg=str(name)) | ast.keyword(arg=str(name)):
                yield name, node.lineno
            case ast.alias(name=name, asname=other):
                yield other or name, node.lineno


def of_the_dialect(name: str) -> set[str]:
    name = ALLOWED.sub("", name)
    return {part.lower() for part in PARTS.findall(name)} & DIALECT


def test_a_name_is_taken_apart():
    assert of_the_dialect("has_told") == {"told"}
    assert of_the_dialect("CrewOf") == {"crew"}
    assert not of_the_dialect("scrolled")
    assert not of_the_dialect("round_trip_s StepInFlight")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_identifiers_are_the_fields_words(path: Path):
    found = {
        f"{path.name}:{line} {name}"
        for name, line in identifiers(ast.parse(path.read_text()))
        if of_the_dialect(name)
    }
    assert not found
    assert not of_the_dialect(path.stem)


def test_options_are_the_fields_words():
    options = [option for action in parser()._actions for option in action.option_strings]
    assert "--max-new-tokens" in options
    assert not [option for option in options if of_the_dialect(option.replace("-", "_"))]


def test_fields_of_a_record_are_the_fields_words():
    fields = (
        {name for table in schema.FIELDS.values() for name, *_ in table}
        | {*schema.EVENTS}
        | {*schema.ATTRIBUTES}
    )
    assert "step" in fields
    assert not [name for name in fields if of_the_dialect(name)]
