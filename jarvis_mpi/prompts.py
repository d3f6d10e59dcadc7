"""--prompts FILE: one prompt a line, or JSONL; each is a conversation of its own, and its answer a line of JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .link import Unservable
from .settings import is_utf8


@dataclass(frozen=True)
class Asked:
    number: int  # of the line, from 1
    prompt: str
    wrong: str = ""  # why it cannot be asked


def read(path: Path) -> list[Asked]:
    """All prompts of a file; empty lines are none. Raises Unservable if it cannot be read or holds none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise Unservable(f"--prompts {path} cannot be read: {error.strerror}") from None
    found = list(prompts_in(lines, path.suffix == ".jsonl"))
    if not found:
        raise Unservable(f"--prompts {path} holds no prompt: write one a line")
    return found


def prompts_in(lines: list[bytes], jsonl: bool) -> Iterator[Asked]:
    for number, data in enumerate(lines, 1):
        if not data.strip():
            continue
        try:
            line = data.decode().rstrip("\r")
        except UnicodeDecodeError:
            yield Asked(number, "", f"line {number} is not UTF-8 text")
            continue
        if not jsonl and not line.startswith("{"):
            yield Asked(number, line)
            continue
        try:
            prompt = json.loads(line)["prompt"]
            if not isinstance(prompt, str):
                yield Asked(number, "", no_prompt(number))
            elif not is_utf8(prompt):
                yield Asked(number, "", f"line {number} holds half a character")
            else:
                yield Asked(number, prompt)
        except (ValueError, RecursionError):
            yield Asked(number, "", f"line {number} is no JSON")
        except (KeyError, TypeError):
            yield Asked(number, "", no_prompt(number))


def no_prompt(number: int) -> str:
    return f'line {number} is no object with a text "prompt"'
