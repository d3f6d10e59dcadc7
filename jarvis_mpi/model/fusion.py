"""Which of a block's layers run in one call: those for which that gives what their own forward gives."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from ..nn.batch_invariant import attend, mask, scale_and_cap
from ..nn.decoder_layer import Shape, shape_of
from ..nn.fused_layers import Fused, Told
from ..nn.kv_cache import new_cache
from .activations import from_bytes, to_bytes
from .family import hidden_of

TRIED_ROWS = 2
# How alike both ways must be in float32: what attention is given and gives, and what the layer changes, where 4-bit weights round
# what they are multiplied with (a number that falls the other way: up to 3e-3 of a small layer's).
NEAR_ATTENTION, NEAR = 1e-4, 1e-2
HEARING = "hearing"
LIMITS = ("clip", "limit")  # in the name of a setting: what rows tried here do not reach


class Part(NamedTuple):
    """Layers one after the other, together or each by its own forward."""

    layers: range
    fused: Fused | None


class Heard(NamedTuple):
    """What a layer's attention tells the function that it calls, and is given."""

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
    """[] where none is fused. `page`: what each layer is told of some positions, late in a text, lest one counts them otherwise; `tried`:
    of the first TRIED_ROWS of them; `cache_name`: what a layer calls its cache.

    Whether a layer is fused depends on that layer alone, so that another cut of the model gives the same bits.
    """
    config = vars(model.config)
    if any(value for name, value in config.items() if any(word in name for word in LIMITS)):
        return []
    told = [
        compared(model, cache_name, *each)
        for each in zip(layers, range(len(layers)), page, tried, strict=True)
    ]
    made = []
    for alike, of in groupby(range(len(layers)), key=lambda index: told[index] is not None):
        indices = list(of)
        of_these = [its for index in indices if (its := told[index])]
        fused = Fused([layers[index] for index in indices], of_these, model.dtype) if alike else None
        made.append(Part(range(indices[0], indices[-1] + 1), fused))
    return made if any(part.fused for part in made) else []


@torch.inference_mode()
def compared(
    model, cache_name: str, layer: Any, index: int, page: dict[str, Any], arguments: dict[str, Any]
) -> Told | None:
    """In float32, where no rounding hides a difference. None if there is one."""
    shape, config = shape_of(layer), model.config
    if not shape or not has_tables(page, shape):
        return None
    h = torch.randn(1, TRIED_ROWS, shape.hidden, generator=torch.Generator().manual_seed(0))
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
    with heard_of_attention(config) as heard:
        output = layer.forward(h, **arguments, **{cache_name: theirs})
    if not heard:
        return None
    wanted = hidden_of(output)
    told = Told(shape, heard[0].scale, heard[0].cap, torch.float32)
    alone = Fused([layer], [told], h.dtype)
    alone.turn_page([{"position_embeddings": tables}])
    given = from_bytes(alone.run(to_bytes(h), 0, [our]), shape.hidden, h.dtype)
    kept = [buffer[:, :, :TRIED_ROWS] for buffer in our.buffers]
    attended = [
        (alone.rows_of("q", TRIED_ROWS), heard[0].query.transpose(1, 2)),
        (alone.rows_of("seen", TRIED_ROWS), heard[0].seen),
        *zip(kept, (their.keys, their.values), strict=True),
    ]
    alike = near(given - h, wanted - h, NEAR) and all(near(*pair, NEAR_ATTENTION) for pair in attended)
    return told._replace(tables=page["position_embeddings"][0].dtype) if alike else None


def near(one: Tensor, other: Tensor, share: float) -> bool:
    return bool((one.flatten() - other.flatten()).norm() <= share * other.norm())


def has_tables(arguments: dict[str, Any], shape: Shape) -> bool:
    """Whether cosines and sines are as the kernel reads them."""
    tables = arguments.get("position_embeddings")
    return isinstance(tables, tuple) and all(
        len(table) == 1 and table.shape[2] == shape.width and table.is_contiguous() for table in tables
    )


@contextmanager
def heard_of_attention(config) -> Iterator[list[Heard]]:
    heard: list[Heard] = []

    def hearing(module, query: Tensor, *args, **more):
        seen, weights = attend(module, query, *args, **more)
        heard.append(Heard(query, seen, *scale_and_cap(query, more)))
        return seen, weights

    before = config._attn_implementation
    AttentionInterface.register(HEARING, hearing)
    config._attn_implementation = HEARING
    try:
        yield heard
    finally:
        config._attn_implementation = before
