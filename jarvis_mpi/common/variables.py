"""Read environment variables: a launcher's numbers, and the user's command in place of ssh.
Only the standard library."""

import math
import os
import shlex
from collections.abc import Sequence

SSH = "JARVIS_SSH"  # the user's command in place of ssh, such as "ssh -p 2222"
DEBUG = "JARVIS_DEBUG"  # the user's: which wings log what they do, such as protocol,net
DEBUG_WINGS = ("net", "protocol")
LONGEST = 60  # characters of a value that are shown


class Wrong(ValueError):
    """A variable has a wrong value: one sentence, which names the variable."""


def number(names: Sequence[str], default: int) -> int:
    """Return the number in the first of `names` that is set; `default` where none is. Raises Wrong."""
    for name in names:
        if (text := os.environ.get(name)) is not None:
            if not (text.isascii() and text.isdecimal() and len(text) < 10):
                raise wrong(name, text, "no number, as a launcher gives")
            return int(text)
    return default


def seconds(name: str) -> float:
    """Return a variable's seconds; 0 where it is not set. Raises Wrong."""
    text = os.environ.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise wrong(name, text, "no number of seconds")
    return value


def ssh() -> list[str]:
    """Return the words of the command in place of ssh. Raises Wrong."""
    text = os.environ.get(SSH, "")
    try:
        return shlex.split(text) or ["ssh"]
    except ValueError as error:
        raise Wrong(
            f"the variable {SSH} is {text[:LONGEST]!r}, which is no command ({error}): close its quotes"
        ) from None


def debugged_wings() -> frozenset[str]:
    """Return the wings that JARVIS_DEBUG names. Raises Wrong."""
    text = os.environ.get(DEBUG, "")
    wings = frozenset(filter(None, (part.strip() for part in text.split(","))))
    if wings - set(DEBUG_WINGS):
        raise wrong(DEBUG, text, f"no list of {' and '.join(DEBUG_WINGS)}")
    return wings


def not_started(error: OSError) -> str:
    """Return why ssh, or the command in its place, cannot be started."""
    if isinstance(error, FileNotFoundError) and error.filename == "ssh":
        return "there is no ssh here: apt-get install openssh-client"
    return f"{error.filename}: {error.strerror}"


def wrong(name: str, text: str, what: str) -> Wrong:
    return Wrong(f"the variable {name} is {text[:LONGEST]!r}, which is {what}: unset {name}")
