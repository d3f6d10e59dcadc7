"""--prompts FILE: one prompt a line, or JSONL; each is a conversation of its own, and its answer a line of JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .link import Unservable
from .settings import is_utf8

if TYPE_CHECKING:
    from .conversation import Answer, Conversation
    from .load import Question


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


def ask_all(
    conversation: "Conversation", questions: Sequence[Asked], out: TextIO, before: Sequence["Question"] = ()
) -> int:
    """A line of JSON for each, in order, as soon as it is answered. -> how many could not be.

    `before`: what a run that is resumed had asked of them. Raises Unservable if that was something else.
    """
    from .conversation import refusal

    failed, before = 0, list(before)
    for asked in questions:
        if not before:
            conversation.begin_anew()
        line = {"line": asked.number, "prompt": asked.prompt}
        try:
            if why := asked.wrong or refusal(conversation.text, (), asked.prompt, conversation.context):
                failed += 1
                line["error"] = why
                conversation.record.refused(
                    conversation.asker.clock(), conversation.asker.step, asked.number, why
                )
            elif before:
                line |= asdict(again(conversation, asked, before.pop(0)))
            else:
                line |= asdict(conversation.ask(asked.prompt))
        except Unservable as error:  # and with it the run
            line["error"] = str(error)
            raise
        finally:
            print(json.dumps(line, ensure_ascii=False), file=out, flush=True)
    return failed


def again(conversation: "Conversation", asked: Asked, question: "Question") -> "Answer":
    """What was answered, or the rest of it."""
    from .conversation import Answer

    if question.prompt != asked.prompt:
        raise Unservable(
            f"line {asked.number} of --prompts is not what was asked before: {question.prompt!r}"
        )
    if question.answered:
        return Answer(question.text, len(question.tokens), question.ended)
    return conversation.answer(asked.prompt, question.ids, question.tokens)


def no_prompt(number: int) -> str:
    return f'line {number} is no object with a text "prompt"'
