"""Splits a hostfile into tokens as mpirun's own lexer does (Open MPI 5.0: PRRTE 3.0's hostfile_lex.l).

The longest match counts; of two equally long ones, the first rule. What is an error to mpirun is an error
here.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple


class LexemeKind(Enum):
    NEWLINE = auto()  # the end of a comment is one too
    SPACE = auto()
    EQUAL = auto()
    SLOTS = auto()
    MAX_SLOTS = auto()
    RANK = auto()
    USERNAME = auto()
    PORT = auto()
    WORD = auto()  # another keyword of PRRTE's: it may stand nowhere in a hostfile
    RELATIVE = auto()
    INT = auto()
    STRING = auto()
    HOSTNAME = auto()
    QUOTED = auto()
    ERROR = auto()


class Lexeme(NamedTuple):
    kind: LexemeKind
    text: str
    line: int  # from 1


NAMES = (LexemeKind.STRING, LexemeKind.INT, LexemeKind.HOSTNAME)  # what may be a host's name
RULES: list[tuple[LexemeKind, str]] = [
    (LexemeKind.NEWLINE, r"[\f\t\v ]*\n"),
    (LexemeKind.NEWLINE, r"(?:#|//)[^\n]*\n"),
    (LexemeKind.NEWLINE, r"/\*(?s:.*?)(?:\*/|\Z)"),
    (LexemeKind.QUOTED, r'"[^"]*"'),
    (LexemeKind.SPACE, r"[\f\t\v ]+"),
    (LexemeKind.EQUAL, "="),
    (LexemeKind.SLOTS, "cpu|count|slots"),
    (LexemeKind.MAX_SLOTS, r"(?:slots|cpu|count)[-_]max|max[-_](?:slots|cpu|count)"),
    (LexemeKind.RANK, "rank"),
    (LexemeKind.WORD, "slot"),
    (LexemeKind.USERNAME, "user[-_]?name"),
    (LexemeKind.PORT, "port"),
    (LexemeKind.WORD, "boards|sockets[-_]per[-_]board|sockets|cores[-_]per[-_]socket|cores"),
    (LexemeKind.RELATIVE, r"\+n[0-9]+|\+[eE]:[0-9]+|\+[eE]"),
    (LexemeKind.INT, "[0-9]+"),
    (LexemeKind.STRING, "[A-Za-z0-9_,:*@-]+"),  # an IPv6 address too
    (
        LexemeKind.HOSTNAME,
        r"(?:\^?[A-Za-z0-9][A-Za-z0-9_-]*@)?[A-Za-z0-9][A-Za-z0-9_.-]*",
    ),  # an IPv4 address too
    (LexemeKind.ERROR, "."),
]
PATTERNS = [(kind, re.compile(pattern)) for kind, pattern in RULES]


def tokens(text: str) -> Iterator[Lexeme]:
    """Yield all tokens but spaces. `text`: one character a byte."""
    at, line = 0, 1
    while at < len(text):
        kind, found = max(
            ((kind, match[0]) for kind, pattern in PATTERNS if (match := pattern.match(text, at))),
            key=lambda each: len(each[1]),
        )
        if kind is not LexemeKind.SPACE:
            yield Lexeme(kind, found, line)
        at, line = at + len(found), line + found.count("\n")
