"""Reads hostfiles as mpirun does (Open MPI 5.0: PRRTE 3.0's hostfile.c). The only reader of them.

    python -m jarvis_mpi.net.hostfile FILE        prints how many ranks it has room for: for scripts

What mpirun refuses is one sentence here, with its line; what it takes gives the same ranks per host. Only
this reader refuses what mpirun takes for something that nobody means (a host without slots, a rankfile, a
name that ssh would take for an option).
"""

import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import psutil

from ..common.errors import Unservable
from ..common.output import run
from .hostfile_lexer import NAMES, Lexeme, LexemeKind, tokens

MOST_BYTES = 1 << 20
MOST_RANKS = 1 << 16  # a record's rows count nodes by 16 bits
END = Lexeme(LexemeKind.NEWLINE, "", 0)  # of the file
HINTS = {
    "\r": r"Windows ends its lines so, mpirun stops with a parse error: sed -i 's/\r$//' {path}",
    "#": "mpirun takes no comment without a newline behind it: end the file with one",
    "/": "mpirun takes no such comment: begin it with # and end it with a newline",
    "[": "mpirun takes an IPv6 address only without brackets",
    "^": "mpirun 5.0 leaves out no host: delete the line",
    '"': "mpirun takes no quotes",
}


class Refused(Exception):
    """The rest of a sentence: what is wrong, and in which line."""


@dataclass
class Host:
    name: str
    user: str
    line: int
    slots: int = 1
    has_slots: bool = False  # whether the file says how many
    most: int = 0

    def __str__(self) -> str:
        """USER@HOST, as ssh takes it."""
        return f"{self.user}@{self.name}" if self.user else self.name


def ranks(path: Path) -> list[str]:
    """Return each rank's host, as ssh takes it: a host's slots one after the other. Raises Unservable."""
    try:
        hosts = parsed(text_of(path), names_here().__contains__)
    except OSError as error:
        raise Unservable(f"--hostfile {path} cannot be read: {error.strerror}") from None
    except Refused as error:
        raise Unservable(f"--hostfile {path}{error}".replace("{path}", shlex.quote(str(path)))) from None
    for host in hosts:
        if not host.has_slots:
            raise Unservable(
                f"--hostfile {path}, line {host.line}: {host} has no slots, "
                "and mpirun would take its cores for them: write slots=1"
            )
    count = sum(host.slots for host in hosts)
    if count > MOST_RANKS:
        raise Unservable(f"--hostfile {path} names {count} slots: no more than {MOST_RANKS} ranks can run")
    if count < 2:
        raise Unservable(f"--hostfile {path} names {count} slots: an end user and a worker need two")
    return [str(host) for host in hosts for _ in range(host.slots)]


def text_of(path: Path) -> str:
    """Return the file as text, one character a byte. Raises OSError or Refused."""
    if path.exists() and not path.is_file():
        raise Refused(" is no file: mpirun reads a hostfile twice, so neither a pipe nor a folder will do")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise Refused(f" is larger than {MOST_BYTES >> 20} MiB: is it a hostfile")
    if data.startswith(b"\xef\xbb\xbf"):
        raise Refused(
            " begins with a byte order mark, and mpirun stops with a parse error: sed -i '1s/^...//' {path}"
        )
    return data.decode("latin-1")


def parsed(text: str, here: Callable[[str], bool]) -> list[Host]:
    """Return the hosts in mpirun's order, each once. `here`: whether mpirun takes a name for this machine's.
    Raises Refused."""
    found: dict[str, Host] = {}
    stream = chain(tokens(text), repeat(END))  # as mpirun's lexer, which returns 'done' again and again
    while (token := next(stream)) is not END:
        if token.kind is LexemeKind.NEWLINE:
            continue
        if token.kind is LexemeKind.RELATIVE:
            raise Refused(
                f", line {token.line}: {token.text} counts hosts of an allocation, and there is none"
            )
        if token.kind is LexemeKind.RANK:
            raise Refused(
                f", line {token.line}: this is a rankfile, whose ranks mpirun would not heed here: write "
                "HOST slots=N"
            )
        if token.kind not in NAMES:
            raise unexpected(token)
        name, user = name_and_user(token)
        key = "" if here(own := unqualified(name)) else own
        if host := found.get(key):
            host.slots, host.has_slots = host.slots + 1, True
        else:
            host = found[key] = Host(name, user, token.line)
        read_words(host, stream)
    return list(found.values())


def name_and_user(token: Lexeme) -> tuple[str, str]:
    text = token.text.lstrip("0") or "0" if token.kind is LexemeKind.INT else token.text
    parts = [part for part in text.split("@") if part]
    if not 1 <= len(parts) <= 2:
        raise Refused(
            f", line {token.line}: {token.text} is no host, and mpirun crashes on it: write USER@HOST"
        )
    if token.kind is LexemeKind.INT and len(text) > 9:  # to mpirun another number
        raise Refused(f", line {token.line}: {text[:40]} is no host")
    if any(part.startswith("-") for part in parts):
        raise Refused(
            f", line {token.line}: {token.text} would be an option to ssh, not a host: no host is named so"
        )
    return parts[-1], parts[0] if len(parts) == 2 else ""


def unqualified(name: str) -> str:
    """Return the name without its domain, by which mpirun tells hosts apart."""
    try:
        socket.inet_aton(name)
        return name
    except OSError:
        return name.partition(".")[0]


def read_words(host: Host, stream: Iterator[Lexeme]) -> None:
    """Read the words behind a host's name, up to the line's end."""
    got_most = False
    while (token := next(stream)).kind is not LexemeKind.NEWLINE:
        match token.kind:
            case LexemeKind.USERNAME:  # anything but `=NAME` behind it is passed over
                if next(stream).kind is LexemeKind.EQUAL and (user := next(stream)).kind is LexemeKind.STRING:
                    if user.text.startswith("-"):
                        raise Refused(f", line {user.line}: username={user.text} would be an option to ssh")
                    host.user = user.text
            case LexemeKind.PORT:
                raise Refused(
                    f", line {token.line}: a port cannot be said here: write it into ~/.ssh/config (Host "
                    f"{host.name}, Port N)"
                )
            case LexemeKind.SLOTS:
                slots = number(host, token, stream)
                if host.has_slots:
                    raise Refused(
                        f", line {token.line}: {host.name} has its slots told twice, "
                        "which mpirun refuses: name it once"
                    )
                host.slots, host.has_slots = slots, True
                host.most = max(host.most, slots) if host.most else 0
            case LexemeKind.MAX_SLOTS:
                most = number(host, token, stream)
                if most < host.slots:
                    raise Refused(
                        f", line {token.line}: {host.name} has {token.text}={most}, "
                        f"less than its {host.slots} slots"
                    )
                got_most, host.most = got_most or host.most != most, most
            case LexemeKind.STRING | LexemeKind.INT:
                pass  # passed over, as mpirun does
            case _:
                raise unexpected(token)
    if got_most and not host.has_slots:
        host.slots, host.has_slots = host.most, True


def number(host: Host, token: Lexeme, stream: Iterator[Lexeme]) -> int:
    """Read the number behind `slots` or `max_slots`."""
    equal, value = next(stream), END
    if equal.kind is LexemeKind.EQUAL:
        value = next(stream)
    if value.kind is not LexemeKind.INT:
        text = value.text[:40] if value.kind is not LexemeKind.NEWLINE else ""
        raise Refused(f", line {token.line}: {host.name} has {token.text}={text}, which is no number")
    digits = value.text.lstrip("0") or "0"
    return int(digits) if len(digits) <= 9 else 10**9  # more than can run in any case


def unexpected(token: Lexeme) -> Refused:
    hint = HINTS.get(token.text[:1], "mpirun stops with a parse error: write HOST slots=N")
    return Refused(f", line {token.line}: {token.text[:40]!r} cannot stand there: {hint}")


def names_here() -> set[str]:
    """Return the names and addresses that mpirun knows as this machine's; it looks nothing up."""
    own = socket.gethostname()
    mine = {
        each.address.partition("%")[0]
        for nic, those in psutil.net_if_addrs().items()
        if nic != "lo"
        for each in those
    }
    return {own, own.partition(".")[0], "localhost", "127.0.0.1", *mine}


def main() -> str | None:
    if len(sys.argv) != 2:
        return "python -m jarvis_mpi.net.hostfile FILE"
    try:
        print(len(ranks(Path(sys.argv[1]))))
    except Unservable as error:
        return str(error)
    return None


if __name__ == "__main__":
    run(main)
