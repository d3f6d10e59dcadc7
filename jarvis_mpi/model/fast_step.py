"""Run a token, or a few, through a block's layers and nothing else.

For a single row the family's forward also makes a mask in which nothing is masked, a row of the
rotary tables, and a final norm that a stage throws away. Here one dry run of that forward over a page
of positions records each layer's arguments, and a step uses the rows of that page.
"""

import contextlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..nn.batch_invariant import mask
from ..nn.kv_cache import new_cache
from ..nn.linear import ROWS_AT_ONCE
from .activations import from_bytes, to_bytes
from .family import CHANGING_ROTARY, cache_argument, context_of, hidden_of, rotary
from .fusion import TRIED_ROWS, Part, parts

PAGE_ROWS = ROWS_AT_ONCE  # positions for which rotary tables are made at a time
FEW_ROWS = 33  # a token and its drafts
# Rotary tables that depend on the position alone, as far as a text may go (context_of).
FIXED_ROTARY = {"default", "linear", "llama3", "yarn", "proportional", *CHANGING_ROTARY}

# Arguments that a step makes itself; any other must be the same at every position.
KNOWN = {"hidden_states", "attention_mask", "position_ids", "position_embeddings"}


class FastStep:
    """A block's layers, called without the rest of the family's forward.
    `possible` only where every argument of every layer is understood."""

    def __init__(self, model, layers: nn.ModuleList):
        self.model, self.layers = model, layers
        # Found once: it takes transformers 50 us.
        self.width, self.dtype = model.config.hidden_size, model.dtype
        self.embedding_width = model.get_input_embeddings().embedding_dim
        self.cache_argument = cache_argument(model)
        kinds = set(getattr(model.config, "layer_types", None) or ())
        self.page_rows = PAGE_ROWS if rotary_kinds(model.config) <= FIXED_ROTARY else 1
        self.page: list[dict[str, Any]] = []
        self.page_start = -PAGE_ROWS
        self.parts: list[Part] = []  # some of them fused: for ROWS_AT_ONCE rows
        self.possible = kinds <= {"full_attention", "sliding_attention"} and self.understood()
        if self.possible and self.page_rows >= ROWS_AT_ONCE:
            self.turn_page(max(0, context_of(model.config) - self.page_rows))
            self.parts = parts(model, layers, self.page, self.rows(0, TRIED_ROWS), self.cache_name)
            self.page_start = -PAGE_ROWS

    def understood(self) -> bool:
        """Return whether each layer takes only arguments that a step can make."""
        for self.gives_tuple in (False, True):
            with contextlib.suppress(Unservable), guarded("the family's forward"):
                self.turn_page(0)
                break
        return len(self.page) == len(self.layers) and all(
            name in KNOWN or not isinstance(value, (Tensor, tuple, list, dict))
            for arguments in self.page
            for name, value in arguments.items()
        )

    def can_run(self, rows: int) -> bool:
        return self.possible and rows <= min(FEW_ROWS, self.page_rows)

    def run_parts(self, body: bytes | memoryview, start: int, cache) -> bytes:
        """Run S rows, ROWS_AT_ONCE at the most -> S rows."""
        row = self.row_of(start, len(body) // (self.width * self.dtype.itemsize))
        for layers, fused in self.parts:
            if fused:
                body = fused.run(body, row, cache.layers[layers.start : layers.stop])
            else:
                h = from_bytes(body, self.width, self.dtype)
                body = to_bytes(self.run_layers(layers, h, row, start, cache))
        return bytes(body)

    def row_of(self, start: int, count: int) -> int:
        """Return the page's row of position `start`; turn the page where `count` rows do not fit."""
        if not self.page_start <= start <= self.page_start + self.page_rows - count:
            self.turn_page(start - start % self.page_rows if count == 1 else start)
        return start - self.page_start

    def run(self, h: Tensor, start: int, cache) -> Tensor:  # [1, S, D] -> [1, S, D]
        return self.run_layers(range(len(self.layers)), h, self.row_of(start, h.shape[1]), start, cache)

    @torch.inference_mode()
    def run_layers(self, layers: range, h: Tensor, row: int, start: int, cache) -> Tensor:
        """Run some layers by their own forward. `row`: the page's row of the first position."""
        count = h.shape[1]
        masks: dict[int, Tensor | None] = {}  # window -> its mask
        each = self.rows(row, row + count)
        for index in layers:
            layer, arguments = self.layers[index], each[index]
            if count > 1:
                window = getattr(cache.layers[index], "sliding_window", 0)
                if window not in masks:
                    masks[window] = mask(start, count, window, h.dtype)
                arguments["attention_mask"] = masks[window]
            output = layer.forward(h, **arguments, **{self.cache_name: cache})  # forward: past the two hooks
            h = hidden_of(output)
        return h

    def rows(self, first: int, end: int) -> list[dict[str, Any]]:
        """Return each layer's arguments for rows of the page; layers that share a table share its rows."""
        cut: dict[int, Any] = {}

        def of(value):
            if id(value) not in cut:
                cut[id(value)] = (
                    tuple(table[:, first:end] for table in value)
                    if isinstance(value, tuple)
                    else value[:, first:end]
                )
            return cut[id(value)]

        tables = ("position_ids", "position_embeddings")
        return [
            {
                name: of(value) if name in tables and value is not None else value
                for name, value in each.items()
            }
            for each in self.page
        ]

    @torch.inference_mode()
    def turn_page(self, start: int) -> None:
        """Record each layer's arguments in the family's forward at positions start .. start + page_rows."""
        self.page, self.page_start = [], -PAGE_ROWS
        seen: list[dict[str, Any]] = []
        real = list(self.layers)
        try:
            for index, layer in enumerate(real):
                self.layers[index] = Noting(layer, seen, self.gives_tuple)
            nothing = torch.zeros(1, self.page_rows, self.embedding_width, dtype=self.dtype)
            rows, cache = positions(start, self.page_rows), new_cache(self.model.config)
            if not self.parts or rotary_kinds(self.model.config) & set(CHANGING_ROTARY):
                # Rows of a table perhaps, which ends or changes there.
                rows.clamp_(max=context_of(self.model.config) - 1)
            self.model(
                inputs_embeds=nothing, position_ids=rows, use_cache=True, **{self.cache_argument: cache}
            )
        finally:
            for index, layer in enumerate(real):
                self.layers[index] = layer
        for arguments in seen:
            self.cache_name = next((name for name, value in arguments.items() if value is cache), "")
            if not self.cache_name:
                raise Unservable(f"a layer of kind {self.model.config.model_type!r} takes no cache")
            del arguments[self.cache_name]
            # Every cached row is visible to a single new one: the window layers keep just what they may see.
            arguments.update(attention_mask=None)
            self.page.append(arguments)
        for layers, fused in self.parts:
            if fused:
                fused.turn_page(self.page[layers.start : layers.stop])
        self.page_start = start


class Noting(nn.Module):
    """Stands in a layer's place: records the arguments of the call, and does nothing."""

    def __init__(self, layer: nn.Module, seen: list[dict[str, Any]], gives_tuple: bool):
        super().__init__()
        self.gives_tuple = gives_tuple
        self.signature, self.seen = inspect.signature(layer.forward), seen
        self.attention_type = getattr(layer, "attention_type", None)

    def forward(self, *args, **kwargs):
        named = self.signature.bind(*args, **kwargs).arguments
        named.update(named.pop("kwargs", {}))
        hidden = named.pop("hidden_states")
        self.seen.append(named)
        return (hidden,) if self.gives_tuple else hidden


def rotary_kinds(config: Any) -> set[str]:
    return {each.get("rope_type", "default") for each in rotary(config)}


def positions(start: int, count: int) -> Tensor:  # -> [1, count]
    return torch.arange(start, start + count)[None]
