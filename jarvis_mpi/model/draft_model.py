"""--draft MODEL: a small model at the end user, with the same tokenizer, predicts the chain's tokens."""

import heapq
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common.errors import Unservable
from ..common.sequences import alike
from . import trial
from .family import context_of, dtype_of, import_family, load_config
from .head import Head
from .stage import Stage
from .tokenizer import Text

AHEAD = 2  # times the drafts of a step: texts that are continued while the chain works
CHOICES = 3  # likely next tokens of each text
SURE = 0.4  # the least chance of a text whose continuation a step waits for
WORTH = 0.1  # the least chance of a text that is continued: it costs power, and a shared machine's time

Ids = tuple[int, ...]


@dataclass
class Known:
    """The draft model's predictions for a text and its likely continuations."""

    text: Ids = ()
    ran: Ids = ()  # what its caches hold
    # A text -> its likely next tokens and their chances.
    coming: dict[Ids, list[tuple[int, float]]] = field(default_factory=dict)


class DraftModel:
    """A Source (protocol/speculation) that proposes the likeliest tokens; with fewer bits they come sooner,
    and hardly differ."""

    def __init__(self, folder: Path, text: Text, name: str, dtype: str, weights: str = "int8"):
        if Text(folder).tokenizer.get_vocab() != text.tokenizer.get_vocab():
            raise Unservable(f"--draft {name} has another tokenizer than the model: its tokens are others")
        trial.check(folder)
        config = load_config(folder)
        import_family(config)
        kind = dtype_of(config, dtype)
        self.head = Head(folder, kind, weights)
        self.stage = Stage(folder, range(config.num_hidden_layers), kind, weights=weights)
        self.context = context_of(config)
        # Of one tokenizer, yet models differ in their rows: some are only filled up, some tokens were added.
        self.rows, self.most = len(self.head.table), text.vocabulary
        self.known: dict[int, Known] = {}
        for _ in range(2):  # the first run reads the weights in
            begun = time.perf_counter()
            self.guess(-1, (0,), 1)
            self.guess_s = time.perf_counter() - begun
            self.finished(-1)

    def kind(self, sequence: int, ids: Sequence[int]) -> Hashable:
        return "model" if len(ids) < self.context and sequence in self.known else None

    def follow(self, sequence: int, ids: Sequence[int]) -> None:
        """Know the text so far; forget it where it has a token that this model lacks."""
        if max(ids) >= self.rows:
            self.finished(sequence)
            return
        known = self.known.setdefault(sequence, Known())
        known.text = text = tuple(ids)
        known.coming = {after: next_ for after, next_ in known.coming.items() if after[: len(text)] == text}

    def guess(self, sequence: int, ids: Sequence[int], most: int) -> Sequence[int]:
        self.follow(sequence, ids)
        known = self.known[sequence]
        end = text = known.text
        chance = 1.0
        while len(end) < min(len(text) + most, self.context):
            if end not in known.coming:
                if chance < SURE:
                    break
                self.look(sequence, known, end)
            token, share = known.coming[end][0]
            end, chance = (*end, token), chance * share
        return end[len(text) :]

    def propose_ahead(self, most: int) -> bool:
        """Continue the likeliest text that has no prediction yet, of the sequence with the fewest: first the
        prompt itself, then what the chain may answer to the drafts under way, whether it accepts them or not.
        """
        for sequence, known in sorted(self.known.items(), key=lambda each: len(each[1].coming)):
            if len(known.coming) < AHEAD * most and (text := self.likeliest(known)):
                self.look(sequence, known, text)
                return True
        return False

    def likeliest(self, known: Known) -> Ids:
        """Return the likeliest text without a prediction; () where all are too long or too unlikely."""
        likely = [(-1.0, known.text)]
        while likely:
            chance, text = heapq.heappop(likely)
            if len(text) >= self.context:
                continue
            if text not in known.coming:
                return text
            for token, share in known.coming[text]:
                if chance * share < -WORTH:
                    heapq.heappush(likely, (chance * share, (*text, token)))
        return ()

    def look(self, sequence: int, known: Known, text: Ids) -> None:
        same = min(alike(known.ran, text), len(text) - 1)
        if same < len(known.ran) and not (same and self.stage.crop(sequence, same)):
            self.stage.forget(sequence)
            same = 0
        body = self.stage.run(self.head.embed(text[same:], same), same, sequence)
        known.ran = text
        logits = self.head.logits(body)[: self.most]
        shares, tokens = logits.softmax(-1).topk(min(CHOICES, len(logits)))
        known.coming[text] = list(zip(tokens.tolist(), shares.tolist(), strict=True))

    def finished(self, sequence: int) -> None:
        self.known.pop(sequence, None)
        self.stage.forget(sequence)
