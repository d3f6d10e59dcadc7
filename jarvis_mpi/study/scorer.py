"""Score texts, questions and answers with a whole model, layer by layer, with layers left out."""

import copy
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.layers import Case
from . import skip_cases
from .tasks import TaskQuestion

if TYPE_CHECKING:
    from ..model.head import Head
    from ..model.tokenizer import Text

ROWS = 64  # logits at a time: 262,144 numbers a row with Gemma 3
SHARED, OWN = 0, 1  # sequences: the beginning of all choices, and the rest of one


class Encoded(NamedTuple):
    """A question as token ids: each choice's whole text, and how many of them are the context."""

    ids: tuple[tuple[int, ...], ...]
    context: int

    @property
    def shared(self) -> int:
        """Return how many tokens all inputs begin with.
        The last token of a text is predicted, and never an input."""
        inputs = [ids[:-1] for ids in self.ids]
        return next(
            (at for at, column in enumerate(zip(*inputs, strict=False)) if len(set(column)) > 1),
            min(map(len, inputs)),
        )


def encoded(text: "Text", question: TaskQuestion) -> Encoded:
    """Encode context and choice together, as lm-eval does: a choice's tokens are those behind the
    context's."""
    context = question.context.rstrip()
    spaces = question.context[len(context) :]
    begin = text.beginning
    whole = [(*begin, *text.encode(f"{context}{spaces}{each}", begin=False)) for each in question.choices]
    return Encoded(tuple(whole), len(begin) + len(text.encode(context, begin=False)))


class Scorer:
    """Holds a stage for every layer, and one text's states before each layer."""

    def __init__(
        self, folder: Path, dtype: Any, windows: Sequence[Sequence[int]] = (), weights: str = "auto"
    ):
        from ..model.family import load_config
        from ..model.head import Head
        from ..model.stage import Stage

        self.depth = load_config(folder).num_hidden_layers
        self.head = Head(folder, dtype, weights)
        self.layers = [
            Stage(folder, range(layer, layer + 1), dtype, weights=weights) for layer in range(self.depth)
        ]
        self.windows, self.window, self.before = windows, -1, [b""]
        self.row = self.head.width * dtype.itemsize

    def run(self, layer: int, body: bytes) -> bytes:
        done = self.layers[layer].run(body, 0)
        self.layers[layer].forget(0)
        return done

    def states_of(self, ids: Sequence[int]) -> list[bytes]:
        """Return a text's states before each layer, and after the last one."""
        before = [self.head.embed(ids, 0)]
        for layer in range(self.depth):
            before.append(self.run(layer, before[-1]))
        return before

    def windows_nats(self, window: int, first: int, cases: Sequence[Case]) -> Iterator[tuple[Case, float]]:
        """Yield the summed nats of the window's tokens after the first, for cases that all have `first` as
        their first hole."""
        if window != self.window:
            self.window, self.before = window, self.states_of(self.windows[window])
        for case, body in skip_cases.walk(cases, self.depth, first, self.before[first], self.run):
            yield case, nats(self.head, body, self.windows[window])

    def choices_nats(
        self, question: Encoded, cases: Sequence[Case]
    ) -> Iterator[tuple[Case, tuple[float, ...]]]:
        """Yield the summed nats of each choice's own tokens, for each case."""
        shared = question.shared
        tails = [ids[shared:-1] for ids in question.ids]
        first = [self.head.embed(question.ids[0][:shared], 0)]
        first += [self.head.embed(tail, shared) if tail else b"" for tail in tails]
        for case, (before, *after) in skip_cases.walk(cases, self.depth, 0, first, self.run_choices):
            yield case, self.of_choices(question, before, after)

    def answer(
        self,
        prompt: Sequence[int],
        through: Callable[[bytes, int], bytes],
        most: int,
        end_ids: Container[int],
    ) -> tuple[list[int], float | None]:
        """Generate greedily, `most` tokens at the most; return the ids, and what a token of them costs the
        whole model, None without tokens.

        `through` takes rows from a position on through the remaining layers.
        """
        ids, start = list(prompt), 0
        while len(ids) - len(prompt) < most:
            body = through(self.head.embed(ids[start:], start), start)
            start = len(ids)
            token = int(self.head.logits(body).argmax())
            if token in end_ids:
                break
            ids.append(token)
        for stage in self.layers:
            stage.forget(0)
        generated = ids[len(prompt) :]
        if not generated:
            return generated, None
        body = self.states_of(ids)[-1][(len(prompt) - 1) * self.row :]
        return generated, nats(self.head, body, ids[len(prompt) - 1 :]) / len(generated)

    def run_choices(self, layer: int, bodies: list[bytes]) -> list[bytes]:
        """Run a layer: the beginning of all choices once, and each choice's rest from a copy of its keys and
        values."""
        stage, (before, *after) = self.layers[layer], bodies
        done = [stage.run(before, 0, SHARED)]
        for body in after:
            if body:
                stage.caches[OWN] = copy.deepcopy(stage.caches[SHARED])
                body = stage.run(body, len(before) // self.row, OWN)
            done.append(body)
        stage.forget(SHARED)
        stage.forget(OWN)
        return done

    def of_choices(self, question: Encoded, before: bytes, after: Sequence[bytes]) -> tuple[float, ...]:
        import torch

        # Letters: one row predicts all of them.
        if not any(after) and len(before) == question.context * self.row:
            log_probabilities = torch.log_softmax(self.head.logits(before[-self.row :]), -1)
            return tuple(-log_probabilities[ids[-1]].item() for ids in question.ids)
        start = (question.context - 1) * self.row
        return tuple(
            nats(self.head, (before + tail)[start:], ids[question.context - 1 :])
            for tail, ids in zip(after, question.ids, strict=True)
        )


def nats(head: "Head", body: bytes, ids: Sequence[int]) -> float:
    """Return the sum of -log p of the S - 1 tokens after the first, from S - 1 or more rows."""
    import torch
    from torch.nn.functional import cross_entropy

    total = 0.0
    with torch.inference_mode():
        for first in range(0, len(ids) - 1, ROWS):
            wanted = torch.tensor(ids[first + 1 : first + 1 + ROWS])
            logits = head.rows_logits(body, first, first + len(wanted))
            total += cross_entropy(logits, wanted, reduction="sum").item()
    return total
