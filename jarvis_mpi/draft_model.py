"""--draft MODEL: a small model at the end user, with the same tokenizer, guesses what the chain will say."""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .family import dtype_of, import_family, load_config
from .flight import alike
from .link import Unservable
from .stage import Head, Stage
from .text import Text

AHEAD = 2  # times the drafts of a step: so far it guesses while the chain works


@dataclass
class Guessed:
    """`ids`: a text and what was guessed to follow; the model has run `ran` of them."""

    ids: list[int] = field(default_factory=list)
    ran: int = 0
    text: int = 0  # how many of them are the text


class DraftModel:
    """See draft.Source. Its guesses are the likeliest tokens."""

    def __init__(self, folder: Path, text: Text, name: str, dtype: str, weights: str):
        if Text(folder).tokenizer.get_vocab() != text.tokenizer.get_vocab():
            raise Unservable(f"--draft {name} has another tokenizer than the model: its tokens are others")
        config = load_config(folder)
        import_family(config)
        kind = dtype_of(config, dtype)
        self.head = Head(folder, kind, weights)
        self.stage = Stage(folder, range(config.num_hidden_layers), kind, weights=weights)
        self.context = config.max_position_embeddings
        self.paths: dict[int, Guessed] = {}
        for _ in range(2):  # the first one reads the weights in
            begun = time.perf_counter()
            self.guess(-1, (0,), 1)
            self.guess_s = time.perf_counter() - begun
            self.over(-1)

    def kind(self, sequence: int, ids: Sequence[int]) -> Hashable:
        return "model" if len(ids) < self.context else None

    def follow(self, sequence: int, ids: Sequence[int]) -> None:
        path = self.paths.setdefault(sequence, Guessed())
        same = alike(path.ids, ids)
        if same < len(ids):
            path.ids = list(ids)
            self.crop(sequence, path, same)
        path.text = len(ids)

    def guess(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        self.follow(sequence, ids)
        path = self.paths[sequence]
        while len(path.ids) < min(path.text + most, self.context):
            self.one_more(sequence, path)
        return path.ids[path.text : path.text + most]

    def crop(self, sequence: int, path: Guessed, end: int) -> None:
        if path.ran > end:
            path.ran = end
            if not end or not self.stage.crop(sequence, end):
                self.stage.forget(sequence)
                path.ran = 0

    def one_more(self, sequence: int, path: Guessed) -> None:
        body = self.head.embed(path.ids[path.ran :], path.ran)
        body = self.stage.run(body, path.ran, sequence)
        path.ran = len(path.ids)
        path.ids.append(int(self.head.logits(body).argmax()))

    def ahead(self, most: int) -> bool:
        """One token for the text that has the fewest guesses; its first one runs the prompt."""
        for sequence, path in sorted(self.paths.items(), key=lambda each: len(each[1].ids) - each[1].text):
            if len(path.ids) < min(path.text + AHEAD * most, self.context):
                self.one_more(sequence, path)
                return True
        return False

    def over(self, sequence: int) -> None:
        self.paths.pop(sequence, None)
        self.stage.forget(sequence)
