"""Run a block of a model's layers: a Stage for every block, besides the Head at the end user (head.py).

Nothing of any model family is rewritten here. A Stage is the family's own class, built with fewer
layers, so that the family makes its own masks and rotary tables. Hooks let the activation in before
the first layer and out after the last, because a family's work before its first layer (scaling,
position embeddings) must happen once a token, in the Head, and not once a hop. Layers of the usual form
run in one call of ours, where that gives the same result as the family's own forward (fusion.py).

Outside this file an activation is bytes: S rows of D numbers in the run's dtype, as they travel.

Shapes: S rows (positions) in this message, D hidden size, V vocabulary; a batch is always 1.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from ..common.boundary import of_model
from ..common.errors import Unservable
from ..common.layers import Block, named
from ..nn.batch_invariant import ROW_BY_ROW, keep_rows_apart
from ..nn.kv_cache import cropped, new_cache
from ..nn.linear import ROWS_AT_ONCE
from ..nn.quantisation import FORMATS
from .activations import from_bytes, to_bytes
from .checkpoint import layer_of
from .family import (
    cache_argument,
    decoder_layers,
    embedding_name,
    hidden_of,
    in_model,
    keep_layers,
    load_config,
    of_block,
)
from .fast_step import FastStep, positions
from .not_a_number import refuse_unsound
from .weights import AS_THEY_ARE, empty_parameters, fill, names_used, quantise_beforehand

TRIED_ROWS = 3
CHECK = -2  # the sequence of a comparison
# The largest difference in a comparison, relative to what the layers add: in float32, and where numbers are
# rounded to less.
ROUNDING_EXACT, ROUNDING = 1e-3, 0.1


class Stage:
    """The decoder layers of `block`, with a key/value cache for every sequence.

    A copy is built `asleep`: it reads its weights only when it is used, and takes no memory until then.
    """

    def __init__(
        self,
        folder: Path,
        block: Block,
        dtype: torch.dtype,
        asleep: bool = False,
        weights: str = AS_THEY_ARE,
    ):
        self.folder, self.block, self.dtype, self.weights = folder, block, dtype, weights
        self.build()
        self.names_used: set[str] = set()  # of tensors in the files, once it is awake
        self.caches: dict[int, Any] = {}
        self.h = torch.empty(0)
        self.fast_step: FastStep | None = None
        if not asleep:
            self.refuse_unsound()
            self.wake()
        self.layers[0].register_forward_pre_hook(self._enter, with_kwargs=True)
        self.layers[-1].register_forward_hook(self._leave)

    @of_model
    def build(self) -> None:
        """Build the family's own class, with these layers and no weights."""
        config = load_config(self.folder)
        config.vocab_size, config.pad_token_id = 1, 0  # a stage embeds nothing: no memory for that
        with empty_parameters():
            self.model = AutoModel.from_config(config, dtype=self.dtype)
        keep_layers(self.model, self.block)
        name, self.layers = decoder_layers(self.model)
        self.cache_argument = cache_argument(self.model)
        embedding = self.model.get_input_embeddings()
        embedding.weight = nn.Parameter(
            torch.zeros(embedding.weight.shape, dtype=self.dtype), requires_grad=False
        )
        self.rename = of_block(name, self.block, embedding_name(self.model))
        self.in_model = in_model(name, self.block)
        self.width = self.model.config.hidden_size
        self.row_bytes = self.width * self.dtype.itemsize

    def quantise_beforehand(self) -> None:
        """Quantise the weights at a node's start: it takes seconds, which a copy must not spend when it takes
        over."""
        if self.weights in FORMATS:
            quantise_beforehand(self.model, self.folder, self.rename, self.weights, self.in_model)

    def wake(self) -> FastStep:
        """Read the weights."""
        self.names_used = fill(self.model, self.folder, self.rename, self.dtype, self.weights, self.in_model)
        self.fast_step = self.make_fast_step()
        return self.fast_step

    @of_model
    def make_fast_step(self) -> FastStep:
        if self.model._supports_attention_backend:
            keep_rows_apart(self.layers, self.model)
        return FastStep(self.model, self.layers)

    def run(self, body: bytes | memoryview, start: int, sequence: int = 0) -> bytes:
        """Run S rows at positions start, start + 1, ... of a sequence -> S rows.
        A start of 0 begins the sequence again."""
        fast_step = self.fast_step or self.wake()
        if start == 0:
            self.caches[sequence] = new_cache(self.model.config)
        cache = self.caches[sequence]
        assert cache.get_seq_length() == start, f"{cache.get_seq_length()} positions cached, {start} expected"
        if not fast_step.parts:
            return self.run_by_layers(fast_step, body, start, cache)
        assert len(body), "no rows"
        rows, piece = memoryview(body), ROWS_AT_ONCE * self.row_bytes
        return b"".join(
            fast_step.run_parts(rows[at : at + piece], start + at // self.row_bytes, cache)
            for at in range(0, len(rows), piece)
        )

    @torch.inference_mode()
    def run_by_layers(self, fast_step: FastStep, body: bytes | memoryview, start: int, cache) -> bytes:
        h = from_bytes(body, self.width, self.dtype)
        if fast_step.can_run(h.shape[1]):
            return to_bytes(fast_step.run(h, start, cache))
        return to_bytes(self.run_by_family(h, start, cache))

    def run_by_family(self, h: Tensor, start: int, cache) -> Tensor:  # [1, S, D] -> [1, S, D]
        """Run rows through the forward of the model's own class."""
        self.h = h
        self.model(
            inputs_embeds=h.new_zeros(1, h.shape[1], self.model.get_input_embeddings().embedding_dim),
            position_ids=positions(start, h.shape[1]),
            use_cache=True,
            **{self.cache_argument: cache},
        )
        return self.h

    def crop(self, sequence: int, end: int) -> bool:
        """Forget the positions of a sequence from `end` on.
        Return False where a sliding window no longer has the rows that it would need."""
        return cropped(self.caches[sequence], end)

    def forget(self, sequence: int) -> None:
        self.caches.pop(sequence, None)

    @torch.inference_mode()
    def check_against_family(self) -> None:
        """Compare this stage's result for a few rows with the family's own forward and plain attention, on
        this processor.

        Raises Unservable where they differ by more than rounding.
        """
        draw = torch.Generator().manual_seed(0)
        rows = torch.randn(1, TRIED_ROWS + 1, self.width, generator=draw).to(self.dtype)
        parts = ((rows[:, :TRIED_ROWS], 0), (rows[:, TRIED_ROWS:], TRIED_ROWS))
        ours = [self.run(to_bytes(part), start, CHECK) for part, start in parts]
        self.forget(CHECK)
        config, cache = self.model.config, new_cache(self.model.config)
        before = config._attn_implementation
        # Else it is the family's own already, and another attention of the family may differ.
        if before == ROW_BY_ROW:
            config._attn_implementation = "eager"
        try:
            theirs = [self.run_by_family(part, start, cache) for part, start in parts]
        finally:
            config._attn_implementation = before
        got = from_bytes(b"".join(ours), self.width, self.dtype).float()
        wanted = torch.cat(theirs, 1).float()
        off, change = float((got - wanted).norm()), float((wanted - rows.float()).norm())
        exact = self.dtype == torch.float32 and self.weights not in FORMATS
        # A layer may change nothing: pruned ones do.
        if not off <= (ROUNDING_EXACT if exact else ROUNDING) * change:
            raise Unservable(
                f"{named(self.block)} of {self.folder} give something else here than transformers' own code"
                f" ({off / (change or 1):.1g} apart): they are not used on this processor"
            )

    @of_model
    def warm_up(self, pieces: Sequence[int], clock: Callable[[], float]) -> tuple[float, float]:
        """Read the weights in and make the kernels for pieces of these numbers of rows: all nodes do it at
        once, at their start, not one after the other at the first prompt. Return the seconds that a layer
        takes for one row, and for each further one.

        Raises Unservable where this processor gives something else than the family's own code.
        """
        times: dict[int, float] = {}
        for rows in sorted({*pieces, 1}):
            for start, count in ((0, rows), (rows, 1)):
                begun = clock()
                self.run(bytes(count * self.row_bytes), start, sequence=-1)
                times[count] = clock() - begun
        self.forget(-1)
        self.check_against_family()
        most = max(times)
        more_s = max(0.0, times[most] - times[1]) / (most - 1) if most > 1 else times[1]
        return times[1] / len(self.block), more_s / len(self.block)

    def refuse_unsound(self) -> None:
        """Raises Unservable where a tensor of this block, or a rotary table, holds NaN or infinity."""
        used = names_used(self.model, self.folder, self.rename)
        refuse_unsound(
            self.folder, named(self.block), lambda name: layer_of(name) in self.block and name in used
        )
        for name, table in self.model.named_buffers():
            if not table.is_meta and not table.isfinite().all():
                raise Unservable(
                    f"{self.folder}/config.json makes {name} of numbers that are no numbers: fetch it again"
                )

    def _enter(self, _layer, args, kwargs):
        if args:  # GPT-2 passes it by position
            return (self.h, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.h}

    def _leave(self, _layer, _args, output):
        self.h = hidden_of(output)
