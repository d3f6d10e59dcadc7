"""Read --prompts FILE: one prompt a line, or JSONL; each is a conversation of its own, and its answer a line
of JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import Unservable
from .given_file import MARK, data_of
from .settings import is_utf8

# Names of options in other programs' requests that would change an answer. Other names (id, reference ...)
# are passed over.
SHAPES = frozenset((
    "messages", "system", "max_tokens", "max_new_tokens", "max_completion_tokens", "max_length",
    "min_tokens", "n_predict", "temperature", "top_k", "top_p", "min_p", "typical_p",
    "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias", "seed", "stop",
    "stop_sequences", "n", "num_beams", "do_sample", "tools", "response_format", "suffix", "echo",
    "logprobs",
))  # fmt: skip


@dataclass(frozen=True)
class PromptLine:
    number: int  # of the line, from 1
    prompt: str
    wrong: str = ""  # why it cannot be asked


WHITE = " \t\n\r\v\f\x1a"  # characters of an empty line; the last one ends a file under DOS
OBJECT = 'write {"prompt": "..."}'


def read(path: Path) -> list[PromptLine]:
    """Return all prompts of a file, without empty lines.
    Raises Unservable if it cannot be read or holds none."""
    data = data_of("--prompts", path, "write the prompts into one, or pipe them into a chat")
    if b"\r" in data and b"\n" not in data:
        raise Unservable(
            f"--prompts {path} has no line ends but CR: tr '\\r' '\\n' < {path} > FILE makes usual ones"
        )
    content = whole_json(data)
    if isinstance(content, list) and any(isinstance(each, dict) for each in content):
        raise Unservable(f"--prompts {path} is one list of JSON: write an object a line, {OBJECT[6:]}")
    if isinstance(content, dict) and b"\n" in data.strip():
        raise Unservable(
            f"--prompts {path} is one object of JSON over several lines: write it in one line, {OBJECT[6:]}"
        )
    found = list(prompts_in(data.split(b"\n"), path.suffix == ".jsonl"))
    if not found:
        raise Unservable(f"--prompts {path} holds no prompt: write one a line")
    return found


def whole_json(data: bytes) -> Any:
    """Return a file that is one list or one object of JSON; None where it is neither."""
    if data.lstrip()[:1] not in (b"[", b"{"):
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def prompts_in(lines: list[bytes], jsonl: bool) -> Iterator[PromptLine]:
    for number, data in enumerate(lines, 1):
        try:
            line = data.decode().lstrip(MARK).rstrip("\r")
        except UnicodeDecodeError:
            yield PromptLine(number, "", f"line {number} is not UTF-8 text: save the file as UTF-8")
            continue
        if not line.strip(WHITE):
            continue
        if jsonl or line.lstrip(WHITE).startswith("{"):
            yield prompt_of(number, line)
        elif "\0" in line:
            yield PromptLine(
                number, "", f"line {number} holds zero bytes, which no text has: save the file as UTF-8"
            )
        else:
            yield PromptLine(number, line)


def prompt_of(number: int, line: str) -> PromptLine:
    """Return the prompt of a line of JSON."""
    try:
        entry = json.loads(line, object_pairs_hook=once)
        prompt = entry["prompt"]
    except Twice:
        return PromptLine(number, "", f'line {number} names "prompt" twice: leave one of them')
    except (ValueError, RecursionError):
        return PromptLine(number, "", f"line {number} is no JSON: {OBJECT}")
    except (KeyError, TypeError):
        return PromptLine(number, "", no_prompt(number))
    if not isinstance(prompt, str):
        return PromptLine(number, "", no_prompt(number))
    if not is_utf8(prompt):
        return PromptLine(
            number, "", f"line {number} holds half a character, a lone \\ud800 to \\udfff: leave it out"
        )
    if own := sorted(SHAPES & set(entry)):
        return PromptLine(
            number, "", f"line {number} asks for {', '.join(own)} of its own, which no line can: "
            "leave it out, or give it to all lines as an option (python -m jarvis_mpi --help)"
        )  # fmt: skip
    return PromptLine(number, prompt)


class Twice(Exception):
    """An object names its prompt more than once."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if [name for name, _ in pairs].count("prompt") > 1:
        raise Twice
    return dict(pairs)


def no_prompt(number: int) -> str:
    return f'line {number} is no object with a text "prompt": {OBJECT}'
