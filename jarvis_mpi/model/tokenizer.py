"""Convert text to token ids and back: the model's own tokenizer, chat template and end tokens."""

import contextlib
import uuid
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..common.boundary import guarded
from ..common.errors import Unservable
from . import chat_template
from .detokenizer import Pieces
from .safetensors_files import json_object
from .tokenizer_files import tokenizer_of

ADVICE = "fetch the model's tokenizer files again"
# Each stands for an answer, where what is behind it is encoded: one of them at least is a token of its own.
STAND_INS = ("a", ".", "0")


class Text:
    """A model's tokenizer. In its methods `ids` is the whole conversation so far, `prompt` the next question.
    An error of a prompt is Unservable, and concerns that prompt only."""

    def __init__(self, folder: Path, vocabulary: int | None = None):
        """Read the tokenizer. `vocabulary`: the number of tokens that the model knows."""
        self.tokenizer, self.vocabulary = tokenizer_of(folder), vocabulary
        with guarded(f"{folder} has a tokenizer whose special tokens cannot be read", ADVICE):
            # Id -> text; these are not shown.
            self.special: dict[int, str] = {
                number: str(token)
                for number, token in self.tokenizer.added_tokens_decoder.items()
                if token.special
            }
            self.has_template = bool(self.tokenizer.chat_template)
        named, self.end_note = end_ids(folder), ""
        if named is None and self.tokenizer.eos_token_id is not None:
            named = {self.tokenizer.eos_token_id}
            self.end_note = (
                f"{folder} names no token that ends an answer: the tokenizer's {self.tokenizer.eos_token} "
                "does"
            )
        elif named and names_no_end(folder / "generation_config.json"):
            self.end_note = (
                f"{folder / 'generation_config.json'} names no token that ends an answer: config.json's do; "
                "--ignore-eos goes on, as transformers does with these files"
            )
        self.end_ids = frozenset(named or ())
        self.turns: list[dict[str, str]] = []  # of the conversation, as templates take them
        if self.has_template:
            # Its modules are loaded.
            with guarded(f"{folder} has a tokenizer that takes no chat template", ADVICE):
                self.tokenizer.apply_chat_template([user("x")], chat_template="x", tokenize=False)
        self.rendered = chat_template.Renderer(self._render)
        self.longest = 0  # characters of the longest token

    def begin_conversation(self) -> None:
        """Forget the turns of the last conversation."""
        self.turns = []

    def add_turn(self, prompt: str, answer: str) -> None:
        """Add what was asked and answered to the conversation."""
        self.turns += [user(prompt), assistant(answer)]

    def ids_of(self, prompt: str) -> list[int]:
        """Encode the prompt as one turn of a chat; without a chat template, as text to be completed."""
        if self.has_template:
            return self.encode(self.asking([user(prompt)]), begin=False)
        return self.encode(prompt)

    def encode(self, words: str, begin: bool = True) -> list[int]:
        """Return the ids of `words`; `begin`: with the beginning of the model's texts (Gemma's <bos>)."""
        ids = ids_in(self.tokenizer, words, begin)
        if token := unknown(self.tokenizer, ids, self.vocabulary):
            raise Unservable(
                f"the prompt has {token}: leave it out of the prompt, or use the tokenizer that belongs to "
                "the model"
            )
        return ids

    def encode_behind(self, words: str) -> list[int]:
        """Return the ids of `words` behind an answer: many tokenizers put a space before the first word of a
        text, and only there."""
        for text in STAND_INS:
            before = self.encode(text, begin=False)
            ids = self.encode(text + words, begin=False)
            if before and ids[: len(before)] == before:
                return ids[len(before) :]
        return self.encode(words, begin=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, without special tokens."""
        with guarded("the tokenizer cannot make text of these tokens", ADVICE):
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def beginning(self) -> list[int]:
        """The ids that the tokenizer puts before a text; some put an end behind it too."""
        whole, own = self.encode("a"), self.encode("a", begin=False)
        places = range(len(whole) - len(own) + 1) if own else ()
        return next((whole[:at] for at in places if whole[at : at + len(own)] == own), self.encode(""))

    def windows(self, ids: Sequence[int], window: int) -> list[list[int]]:
        """Split a long text's `ids` into parts of at most `window` tokens, each with the beginning of the
        model's texts."""
        step = window - len(self.beginning)
        return [[*self.beginning, *ids[first : first + step]] for first in range(0, len(ids), step)]

    def after(self, ids: Sequence[int], prompt: str) -> list[int]:
        """Return the conversation with `prompt` at its end.

        `ids`, without an end token, stay as they are, so their caches do: not where the chat template writes
        otherwise what is no longer the last turn, as those of reasoning models do.
        """
        if not ids:
            return self.ids_of(prompt)
        if not self.has_template:
            return [*ids, *self.encode_behind(f"\n{prompt}")]
        whole = self.asking([*self.turns, user(prompt)])
        answer = uuid.uuid4().hex  # in the place of the last answer: the text behind it is new
        marked = self.asking([*self.turns[:-1], assistant(answer), user(prompt)])
        before, found, more = marked.rpartition(answer)
        as_asked = found and same_words(before, self.asking(self.turns[:-1]))
        if as_asked and same_words(whole, before + self.turns[-1]["content"] + more):
            return [*ids, *self.encode_behind(more)]
        return self.encode(whole, begin=False)

    def asking(self, turns: list[dict[str, str]]) -> str:
        """Render `turns`, the last of which is asked.
        Raises Unservable where the template leaves that one out, as some do that are made for pictures too
        and look for a list."""
        words, asked = self.rendered(turns), turns[-1]["content"]
        if asked.strip() not in words and words == self.rendered([*turns[:-1], user(uuid.uuid4().hex)]):
            raise Unservable(
                "the model's chat template leaves out what is asked: mend its chat_template, "
                "or delete it for a model that goes on with a text"
            )
        return words

    def _render(self, turns: list[dict[str, str]]) -> str:
        with guarded(
            "the model's chat template does not take this", "ask otherwise, or mend its chat_template"
        ):
            words: Any = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            return str(words)

    def fewest_tokens(self, words: str) -> int:
        """Return a lower bound of the tokens of `words`, without encoding: for a text that is far too long
        that takes minutes."""
        self.longest = self.longest or max(map(len, self.tokenizer.get_vocab()), default=1)
        return len(words) // self.longest

    def pieces(self) -> Pieces:
        """Return the pieces of a new answer: what one more token adds; '' while a character of several bytes
        is not whole."""
        return Pieces(self.tokenizer)


def check_template(text: Text) -> None:
    """Raises Unservable where the chat template writes a token that the model does not know: then nothing can
    be asked."""
    words = ""
    with contextlib.suppress(Unservable):  # which is about this question
        words = text.asking([user("x")]) if text.has_template else ""
    ids = ids_in(text.tokenizer, words, begin=False) if words else []
    if token := unknown(text.tokenizer, ids, text.vocabulary):
        raise Unservable(
            f"the model's chat template writes {token}: use the tokenizer and the template that belong to "
            "the model"
        )


def ids_in(tokenizer: Any, words: str, begin: bool) -> list[int]:
    with guarded("the tokenizer cannot take this text", ADVICE):
        return list(tokenizer(words, add_special_tokens=begin)["input_ids"])


def unknown(tokenizer: Any, ids: Sequence[int], vocabulary: int | None) -> str:
    """Return '' if the model knows all tokens, else the first that it does not know, in words."""
    most = vocabulary or 1 << 62
    for token in ids:
        if not isinstance(token, int) or not 0 <= token < most:
            known = tokenizer.convert_ids_to_tokens(token) if isinstance(token, int) else None
            return f"token {token} ({known!r}), but the model knows {vocabulary} tokens"
    return ""


def same_words(one: str, other: str) -> bool:
    """Whether the texts are the same but for spaces and line ends, which many a template takes from turns."""
    return "".join(one.split()) == "".join(other.split())


def user(prompt: str) -> dict[str, str]:
    return {"role": "user", "content": prompt}


def assistant(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}


def names_no_end(path: Path) -> bool:
    return path.is_file() and json_object(path).get("eos_token_id") is None


def end_ids(folder: Path) -> set[int] | None:
    """Return the ids that end an answer, those of generation_config.json, else those of config.json.

    `generate` does not look at the latter where there is a generation_config.json that names none, and goes
    on.

    None where neither names any. Raises Unservable where they are no ids.
    """
    for path in (folder / "generation_config.json", folder / "config.json"):
        ids = json_object(path).get("eos_token_id") if path.is_file() else None
        each = ids if isinstance(ids, list) else [ids] if ids is not None else []
        if not all(type(number) is int and number >= 0 for number in each):
            raise Unservable(
                f"{path} says that {ids!r} ends an answer (eos_token_id): those are no token ids"
            )
        if each:
            return set(each)
    return None
