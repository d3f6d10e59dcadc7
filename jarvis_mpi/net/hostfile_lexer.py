"""Splits a hostfile into tokens as mpirun's own lexer does (Open MPI 5.0: PRRTE 3.0's hostfile_lex.l).

The longest match counts; of two equally long ones, the first rule. What is an error to mpirun is an error here.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple


class Kind(Enum):
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


class Token(NamedTuple):
    kind: Kind
    text: str
    line: int  # from 1


NAMES = (Kind.STRING, Kind.INT, Kind.HOSTNAME)  # what may be a host's name
RULES: list[tuple[Kind, str]] = [
    (Kind.NEWLINE, r"[\f\t\v ]*\n"),
    (Kind.NEWLINE, r"(?:#|//)[^\n]*\n"),
    (Kind.NEWLINE, r"/\*(?s:.*?)(?:\*/|\Z)"),
    (Kind.QUOTED, r'"[^"]*"'),
    (Kind.SPACE, r"[\f\t\v ]+"),
    (Kind.EQUAL, "="),
    (Kind.SLOTS, "cpu|count|slots"),
    (Kind.MAX_SLOTS, r"(?:slots|cpu|count)[-_]max|max[-_](?:slots|cpu|count)"),
    (Kind.RANK, "rank"),
    (Kind.WORD, "slot"),
    (Kind.USERNAME, "user[-_]?name"),
    (Kind.PORT, "port"),
    (Kind.WORD, "boards|sockets[-_]per[-_]board|sockets|cores[-_]per[-_]socket|cores"),
    (Kind.RELATIVE, r"\+n[0-9]+|\+[eE]:[0-9]+|\+[eE]"),
    (Kind.INT, "[0-9]+"),
    (Kind.STRING, "[A-Za-z0-9_,:*@-]+"),  # an IPv6 address too
    (Kind.HOSTNAME, r"(?:\^?[A-Za-z0-9][A-Za-z0-9_-]*@)?[A-Za-z0-9][A-Za-z0-9_.-]*"),  # an IPv4 address too
    (Kind.ERROR, "."),
]
PATTERNS = [(kind, re.compile(pattern)) for kind, pattern in RULES]


def tokens(text: str) -> Iterator[Token]:
    """Yield all tokens but spaces. `text`: one character a byte."""
    at, line = 0, 1
    while at < len(text):
        kind, found = max(
            ((kind, match[0]) for kind, pattern in PATTERNS if (match := pattern.match(text, at))),
            key=lambda each: len(each[1]),
        )
        if kind is not Kind.SPACE:
            yield Token(kind, found, line)
        at, line = at + len(found), line + found.count("\n")
