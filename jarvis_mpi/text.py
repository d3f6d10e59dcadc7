"""Text <-> token ids: the model's own tokenizer, chat template and end tokens."""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from .link import Unservable
from .models import json_object


class Text:
    """`ids` is all of a conversation so far, `prompt` what is asked next."""

    def __init__(self, folder: Path):
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (ValueError, OSError, KeyError) as error:
            raise Unservable(
                f"{folder} has no tokenizer that can be used: {str(error).splitlines()[0]}"
            ) from None
        self.end_ids = frozenset(end_ids(folder)) | {self.tokenizer.eos_token_id} - {None}
        self.asked: list[str] = []  # the questions of the conversation

    def begin_anew(self) -> None:
        """Another conversation."""
        self.asked = []

    def ids_of(self, prompt: str) -> list[int]:
        """The prompt as one turn of a chat; without a chat template, as text to be completed."""
        if self.tokenizer.chat_template:
            return list(self.tokenizer(self.rendered([user(prompt)]), add_special_tokens=False)["input_ids"])
        return list(self.tokenizer(prompt)["input_ids"])

    def windows(self, ids: Sequence[int], window: int) -> list[list[int]]:
        """A long text's `ids` in parts of at most `window` tokens, each begun as the model's texts begin (Gemma's do with <bos>)."""
        begin = list(self.tokenizer("")["input_ids"])
        step = window - len(begin)
        return [[*begin, *ids[first : first + step]] for first in range(0, len(ids), step)]

    def after(self, ids: Sequence[int], prompt: str) -> list[int]:
        """The conversation with `prompt` at its end: `ids`, without an end token, stay as they are, so their caches do."""
        if not ids:
            return self.ids_of(prompt)
        more = f"\n{prompt}"
        if self.tokenizer.chat_template:
            answer = uuid.uuid4().hex  # stands for the last answer: what comes behind it is new
            turns = [turn for question in self.asked for turn in (user(question), assistant("."))]
            turns[-1] = assistant(answer)
            more = self.rendered([*turns, user(prompt)]).rpartition(answer)[2]
        return [*ids, *self.tokenizer(more, add_special_tokens=False)["input_ids"]]

    def rendered(self, turns: list[dict[str, str]]) -> str:
        words: Any = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return words

    def pieces(self) -> Callable[[int], str]:
        """Of one answer: what one more token adds; '' while a character of several bytes is not whole."""
        stream = DecodeStream(skip_special_tokens=True)
        return lambda token: stream.step(self.tokenizer.backend_tokenizer, token) or ""


def user(prompt: str) -> dict[str, str]:
    return {"role": "user", "content": prompt}


def assistant(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}


class Stops:
    """Ends an answer before any of `stops`; text that may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]):
        self.stops, self.held, self.met = [stop for stop in stops if stop], "", False

    def add(self, piece: str) -> str:
        """What can be shown, now that `piece` has come."""
        self.held += piece
        found = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            self.met, shown, self.held = True, self.held[: min(found)], ""
            return shown
        most = max((len(stop) - 1 for stop in self.stops), default=0)
        for length in range(min(most, len(self.held)), 0, -1):
            if any(stop.startswith(self.held[-length:]) for stop in self.stops):
                shown, self.held = self.held[:-length], self.held[-length:]
                return shown
        shown, self.held = self.held, ""
        return shown


def end_ids(folder: Path) -> set[int]:
    """The ids that end an answer, from generation_config.json and config.json. Raises Unservable where they are none."""
    found: set[int] = set()
    for path in (folder / "generation_config.json", folder / "config.json"):
        ids = json_object(path).get("eos_token_id") if path.is_file() else None
        each = ids if isinstance(ids, list) else [ids] if ids is not None else []
        if not all(type(number) is int and number >= 0 for number in each):
            raise Unservable(
                f"{path} says that {ids!r} ends an answer (eos_token_id): those are no token ids"
            )
        found |= set(each)
    return found
