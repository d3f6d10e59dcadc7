"""Batch invariance: a position's result is the same, bit for bit, whatever other rows its message holds.

Torch's kernels add in another order for one row than for many. A copy that catches up on many positions at
once, or a step with drafts, would round otherwise than one row after the other, and a near-tie could turn.
Our products (linear.py) and our attention (kernels/attention.py) do not. This module makes the layers use
them, and calls whatever else mixes rows for each row by itself.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from ..common.errors import Unservable
from ..kernels.attention import attention, scratch_bytes
from ..kernels.builder import LANES
from .linear import DTYPES

# Options of a family's attention that ours honours; the mask holds windows, too.
HONOURED = {
    "dropout",
    "scaling",
    "softcap",
    "sliding_window",
    "is_causal",
    "position_ids",
    "cache_position",
    "use_cache",
}
ROW_BY_ROW = "row_by_row"  # the name under which transformers finds `attend`


def attend(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more
) -> tuple[Tensor, None]:
    """Attend with queries [1, heads, S, width] of the last S of K positions -> [1, S, heads, width]."""
    asked = {name for name, value in more.items() if value is not None and value is not False}
    if asked - HONOURED or query.shape[-1] % LANES or value.shape[-1] % LANES:
        return family_attention(module, query, key, value, attention_mask, **more)
    _, heads, rows, width = query.shape
    kernel = attention(DTYPES[query.dtype], width, value.shape[-1], *scale_and_cap(query, more))
    y = query.new_empty(1, rows, heads, value.shape[-1])
    firsts = (
        torch.zeros(rows, dtype=torch.int64) if attention_mask is None else first_seen(attention_mask[0, 0])
    )
    positions, threads = key.shape[2], torch.get_num_threads()
    scratch = torch.empty(scratch_bytes(positions, threads), dtype=torch.uint8)
    inputs = [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key, value)]
    addresses = [tensor.data_ptr() for tensor in (*inputs, y, firsts, scratch)]
    steps = [tensor.stride(axis) * tensor.itemsize for tensor in inputs for axis in (1, 2)]
    kernel([*addresses, rows, positions, heads, heads // key.shape[1], *steps], threads)
    return y, None


def family_attention(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more
) -> tuple[Tensor, None]:
    """Attend with the eager attention of the family's own file: with sinks, biases and whatever else its
    models have."""
    plain = vars(sys.modules[type(module).__module__]).get("eager_attention_forward")
    if plain is None:
        raise Unservable(
            f"{type(module).__name__} cannot be run: its attention asks for {', '.join(sorted(more))}"
        )
    rows = query.shape[2]
    if attention_mask is None:
        attention_mask = mask(key.shape[2] - rows, rows, 0, query.dtype)
    elif attention_mask.dtype == torch.bool:
        attention_mask = added(attention_mask, query.dtype)
    return plain(module, query, key, value, attention_mask, **{"scaling": query.shape[-1] ** -0.5, **more})[
        0
    ], None


def scale_and_cap(query: Tensor, options: Mapping[str, Any]) -> tuple[float, float]:
    """Return the scale and the cap of the scores, from the options of a family's attention.
    A cap of 0: none."""
    scale = options.get("scaling")
    return query.shape[-1] ** -0.5 if scale is None else scale, options.get("softcap") or 0.0


def first_seen(mask: Tensor) -> Tensor:
    """Return the first position of each row's window, from a mask [S, K], boolean or additive."""
    return (mask if mask.dtype == torch.bool else mask == 0).int().argmax(-1)


def mask(start: int, count: int, window: int, dtype: torch.dtype) -> Tensor:
    """Return an additive mask [1, 1, S, cached + S]: each new row sees those before it, and no more than its
    window."""
    cached = min(start, window - 1) if window else start
    seen = torch.ones(count, cached + count, dtype=torch.bool).tril(cached)
    if window:
        seen = seen.triu(cached - window + 1)
    return added(seen, dtype)[None, None]


def added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a boolean mask of seen positions into an additive one."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def keep_rows_apart(layers: nn.Module, model) -> None:
    """Compute attention, activation functions and rotary tables for each row by itself.

    Torch shares the numbers of all rows among its threads. Where a share is no multiple of the vectors'
    width, its last numbers go through another exp, tanh or cos.
    """
    model.config._attn_implementation = ROW_BY_ROW
    for module in layers.modules():
        if type(module).__module__ in ("torch.nn.modules.activation", "transformers.activations"):
            module.forward = apart(module.forward)  # type: ignore
    for module in model.modules():
        if is_rotary(module):
            module.forward = tables_apart(module.forward)  # type: ignore


def is_rotary(module: nn.Module) -> bool:
    """Return whether the module makes the tables of a rotary embedding."""
    return type(module).__name__.endswith("RotaryEmbedding")


def apart(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:  # [..., S, width]
        return function(x) if x.shape[-2] == 1 else torch.cat([function(row) for row in x.split(1, -2)], -2)

    return forward


def tables_apart(function: Callable[..., Any]) -> Callable[..., Any]:
    def forward(x: Tensor, position_ids: Tensor, *args, **kwargs):
        each = [function(x, row, *args, **kwargs) for row in position_ids.split(1, -1)]
        if isinstance(each[0], Tensor):
            return torch.cat(each, 1)
        return tuple(torch.cat(tables, 1) for tables in zip(*each, strict=True))

    return forward


AttentionInterface.register(ROW_BY_ROW, attend)
AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)
