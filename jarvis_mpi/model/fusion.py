"""Choose which of a block's layers run in one call: those with the same result as by their own forward."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from ..nn.batch_invariant import attend, mask, scale_and_cap
from ..nn.decoder_layer import Shape, shape_of
from ..nn.fused_layers import Fused, LayerSpec
from ..nn.kv_cache import new_cache
from .activations import from_bytes, to_bytes
from .family import hidden_of

TRIED_ROWS = 2
# How near both ways must be in float32: attention's inputs and outputs, and what the layer adds, where 4-bit
# weights round the rows that they multiply (a number that rounds the other way: up to 3e-3 of a small
# layer's).
NEAR_ATTENTION, NEAR = 1e-4, 1e-2
RECORDING = "recording"
LIMITS = ("clip", "limit")  # in the name of a setting: the rows tried here do not reach such limits


class Part(NamedTuple):
    """Consecutive layers, fused or each by its own forward."""

    layers: range
    fused: Fused | None


class AttentionCall(NamedTuple):
    """One call of a layer's attention function: its arguments and its result."""

    query: Tensor  # [1, heads, S, width]
    seen: Tensor  # [1, S, heads, width]
    scale: float
    cap: float


def parts(
    model,
    layers: nn.ModuleList,
    page: Sequence[dict[str, Any]],
    tried: Sequence[dict[str, Any]],
    cache_name: str,
) -> list[Part]:
    """Return the block's layers in parts, fused or not; [] where none is fused.

    `page`: each layer's arguments for some positions, late in a text, in case a layer counts them otherwise;
    `tried`: for the first TRIED_ROWS of them; `cache_name`: the name of a layer's cache argument.

    Whether a layer is fused depends on that layer alone, so that another cut of the model gives the same
    bits.
    """
    config = vars(model.config)
    if any(value for name, value in config.items() if any(word in name for word in LIMITS)):
        return []
    specs = [
        compared(model, cache_name, *each)
        for each in zip(layers, range(len(layers)), page, tried, strict=True)
    ]
    made = []
    for alike, of in groupby(range(len(layers)), key=lambda index: specs[index] is not None):
        indices = list(of)
        of_these = [spec for index in indices if (spec := specs[index])]
        fused = Fused([layers[index] for index in indices], of_these, model.dtype) if alike else None
        made.append(Part(range(indices[0], indices[-1] + 1), fused))
    return made if any(part.fused for part in made) else []


@torch.inference_mode()
def compared(
    model, cache_name: str, layer: Any, index: int, page: dict[str, Any], arguments: dict[str, Any]
) -> LayerSpec | None:
    """Compare a layer alone, fused, with its own forward, in float32, where no rounding hides a difference;
    None if they differ."""
    shape, config = shape_of(layer), model.config
    if not shape or not has_tables(page, shape):
        return None
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(1, TRIED_ROWS, shape.hidden, generator=draw, dtype=torch.float32)
    theirs, ours = new_cache(config), new_cache(config)
    their: Any = theirs.layers[index]
    our: Any = ours.layers[index]
    window = getattr(our, "sliding_window", 0)
    tables = [table.float() for table in page["position_embeddings"]]
    rows = tuple(table[:, :TRIED_ROWS] for table in tables)
    arguments = {
        **arguments,
        "attention_mask": mask(0, TRIED_ROWS, window, h.dtype),
        "position_embeddings": rows,
    }
    with recorded_attention(config) as calls:
        output = layer.forward(h, **arguments, **{cache_name: theirs})
    if not calls:
        return None
    wanted = hidden_of(output)
    spec = LayerSpec(shape, calls[0].scale, calls[0].cap, torch.float32)
    alone = Fused([layer], [spec], h.dtype)
    alone.turn_page([{"position_embeddings": tables}])
    given = from_bytes(alone.run(to_bytes(h), 0, [our]), shape.hidden, h.dtype)
    cached = [buffer[:, :, :TRIED_ROWS] for buffer in our.buffers]
    attended = [
        (alone.rows_of("q", TRIED_ROWS), calls[0].query.transpose(1, 2)),
        (alone.rows_of("seen", TRIED_ROWS), calls[0].seen),
        *zip(cached, (their.keys, their.values), strict=True),
    ]
    alike = near(given - h, wanted - h, NEAR) and all(near(*pair, NEAR_ATTENTION) for pair in attended)
    return spec._replace(tables=page["position_embeddings"][0].dtype) if alike else None


def near(one: Tensor, other: Tensor, share: float) -> bool:
    return bool((one.flatten() - other.flatten()).norm() <= share * other.norm())


def has_tables(arguments: dict[str, Any], shape: Shape) -> bool:
    """Return whether cosines and sines are laid out as the kernel reads them."""
    tables = arguments.get("position_embeddings")
    return isinstance(tables, tuple) and all(
        len(table) == 1 and table.shape[2] == shape.width and table.is_contiguous() for table in tables
    )


@contextmanager
def recorded_attention(config) -> Iterator[list[AttentionCall]]:
    calls: list[AttentionCall] = []

    def recording(module, query: Tensor, *args, **more):
        seen, weights = attend(module, query, *args, **more)
        calls.append(AttentionCall(query, seen, *scale_and_cap(query, more)))
        return seen, weights

    before = config._attn_implementation
    AttentionInterface.register(RECORDING, recording)
    config._attn_implementation = RECORDING
    try:
        yield calls
    finally:
        config._attn_implementation = before
