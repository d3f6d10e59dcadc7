"""Whether a block's layers may run in one call: where that gives what their own forward gives."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from .activations import from_bytes, to_bytes
from .cache import new_cache
from .form import Shape, shape_of
from .fused import Fused, Told
from .rowwise import attend, mask

TRIED_ROWS = 8
NEAR = 0.03  # of what a layer changes. In bfloat16 both ways differ by 0.01; a layer without rotary embedding by 0.3
HEARING = "hearing"


# What the family told a layer of such a class with such settings, or None: it does something else.
KNOWN: dict[Hashable, Told | None] = {}


def fused(
    model, layers: nn.ModuleList, page: Sequence[dict[str, Any]], tried: Sequence[dict[str, Any]]
) -> Fused | None:
    """`page`: what each layer is told of some positions, late in a text, lest one counts them otherwise; `tried`: of the first TRIED_ROWS of them."""
    told: list[Told] = []
    for index, (layer, its_page, arguments) in enumerate(zip(layers, page, tried, strict=True)):
        kind = kind_of(layer, model.dtype)
        if kind not in KNOWN:
            KNOWN[kind] = compared(model, layer, index, its_page, arguments)
        if not (its := KNOWN[kind]):
            return None
        told.append(its)
    return Fused(layers, told, model.dtype)


def kind_of(layer: nn.Module, dtype: torch.dtype) -> Hashable:
    """What makes one layer do something else than another, but for its weights."""
    settings = (
        (name, type(module), setting, value)
        for name, module in layer.named_modules()
        for setting, value in vars(module).items()
        if isinstance(value, (bool, int, float, str)) and setting != "layer_idx"
    )
    return dtype, frozenset(settings), frozenset(name for name, _ in layer.named_parameters())


def compared(model, layer: Any, index: int, page: dict[str, Any], arguments: dict[str, Any]) -> Told | None:
    shape = shape_of(layer)
    if not shape or not has_tables(page, shape):
        return None
    h = torch.randn(1, TRIED_ROWS, shape.hidden, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    theirs, ours = (new_cache(model.config) for _ in range(2))
    window = getattr(ours.layers[index], "sliding_window", 0)
    arguments = {**arguments, "attention_mask": mask(0, TRIED_ROWS, window, h.dtype)}
    with heard_of_attention(model.config) as heard:
        output = layer.forward(h, **arguments, past_key_values=theirs)
    if not heard:
        return None
    told = Told(*heard[0], page["position_embeddings"][0].dtype)
    alone = Fused([layer], [told], h.dtype)
    alone.turn_page([page])
    wanted = output[0] if isinstance(output, tuple) else output
    given = from_bytes(alone.run(to_bytes(h), 0, 0, [ours.layers[index]]), shape.hidden, h.dtype)
    return told if (given - wanted).float().norm() <= NEAR * (wanted - h).float().norm() else None


def has_tables(arguments: dict[str, Any], shape: Shape) -> bool:
    """Whether cosines and sines are as the kernel reads them."""
    tables = arguments.get("position_embeddings")
    return isinstance(tables, tuple) and all(
        len(table) == 1 and table.shape[2] == shape.width and table.is_contiguous() for table in tables
    )


@contextmanager
def heard_of_attention(config) -> Iterator[list[tuple[float, float]]]:
    """Scale and cap, as a layer's attention tells the function that it calls."""
    heard: list[tuple[float, float]] = []

    def hearing(module, query: Tensor, *args, **more):
        heard.append((more.get("scaling") or query.shape[-1] ** -0.5, more.get("softcap") or 0.0))
        return attend(module, query, *args, **more)

    before = config._attn_implementation
    AttentionInterface.register(HEARING, hearing)
    config._attn_implementation = HEARING
    try:
        yield heard
    finally:
        config._attn_implementation = before
