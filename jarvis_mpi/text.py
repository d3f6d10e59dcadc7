"""Text <-> token ids: the model's own tokenizer, chat template and end tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from .link import Unservable


class Text:
    def __init__(self, folder: Path):
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (ValueError, OSError, KeyError) as error:
            raise Unservable(
                f"{folder} has no tokenizer that can be used: {str(error).splitlines()[0]}"
            ) from None
        self.end_ids = frozenset(end_ids(folder)) | {self.tokenizer.eos_token_id} - {None}
        self.stream = DecodeStream(skip_special_tokens=True)

    def ids_of(self, prompt: str) -> list[int]:
        """The prompt as one turn of a chat; without a chat template, as text to be completed."""
        if self.tokenizer.chat_template:
            turn = [{"role": "user", "content": prompt}]
            asked: Any = self.tokenizer.apply_chat_template(
                turn, add_generation_prompt=True, return_dict=True
            )
        else:
            asked = self.tokenizer(prompt)
        return list(asked["input_ids"])

    def piece(self, token: int) -> str:
        """What one more token adds; '' while a character of several bytes is not whole."""
        return self.stream.step(self.tokenizer.backend_tokenizer, token) or ""


def end_ids(folder: Path) -> set[int]:
    """The ids that end an answer, from generation_config.json and config.json."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            ids = json.loads((folder / name).read_text()).get("eos_token_id")
            found |= set(ids) if isinstance(ids, list) else {ids} - {None}
    return found
