"""The usual form of a decoder layer: norms, attention with rotary embedding, a gated MLP (Llama, Mistral,
Qwen, Gemma, OLMo 2 and similar)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .linear import BatchInvariantLinear
from .norm import BatchInvariantNorm

BEFORE_ATTENTION, AFTER_ATTENTION = "input_layernorm", "post_attention_layernorm"
BEFORE_MLP, AFTER_MLP = "pre_feedforward_layernorm", "post_feedforward_layernorm"
# The parts of a layer, its attention and its MLP. All linear layers and others are required.
LINEARS = {
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj"},
}
OTHERS = {"": {"self_attn", "mlp"}, "mlp": {"act_fn"}}
NORMS = {
    "": {BEFORE_ATTENTION, AFTER_ATTENTION, BEFORE_MLP, AFTER_MLP},
    "self_attn": {"q_norm", "k_norm"},
}
ACTIVATIONS = {"silu": nn.functional.silu, "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh")}


class Shape(NamedTuple):
    """A layer's widths, in numbers of a row."""

    hidden: int
    heads: int
    key_heads: int
    width: int  # of a head
    gate: int
    activation: str  # of ACTIVATIONS


def shape_of(layer: Any) -> Shape | None:
    """Return the layer's shape; None where it is of another form, with more or fewer parts."""
    parts = [("", layer), *((name, part) for name, part in layer.named_children() if name in LINEARS)]
    if not all(is_made_of(name, part) for name, part in parts):
        return None
    attention, mlp, width = layer.self_attn, layer.mlp, getattr(layer.self_attn, "head_dim", 0)
    activation = activation_of(mlp.act_fn)
    if activation is None or not width or width % 8:
        return None
    heads, key_heads = attention.q_proj.outputs // width, attention.k_proj.outputs // width
    shape = Shape(attention.q_proj.columns, heads, key_heads, width, mlp.gate_proj.outputs, activation)
    hidden, query_width, key_width, gate = shape.hidden, heads * width, key_heads * width, shape.gate
    expected = {
        attention.q_proj: (hidden, query_width),
        attention.k_proj: (hidden, key_width),
        attention.v_proj: (hidden, key_width),
        attention.o_proj: (query_width, hidden),
        mlp.gate_proj: (hidden, gate),
        mlp.up_proj: (hidden, gate),
        mlp.down_proj: (gate, hidden),
    }
    fits = all((linear.columns, linear.outputs) == sizes for linear, sizes in expected.items())
    return shape if fits and heads % key_heads == 0 else None


def is_made_of(name: str, part: nn.Module) -> bool:
    children = dict(part.named_children())
    linears = {
        child
        for child, module in children.items()
        if isinstance(module, BatchInvariantLinear) and module.exact
    }
    norms = {child for child, module in children.items() if isinstance(module, BatchInvariantNorm)}
    return (
        not list(part.parameters(recurse=False))
        and linears == LINEARS.get(name, set())
        and norms <= NORMS.get(name, set())
        and children.keys() - linears - norms == OTHERS.get(name, set())
    )


def activation_of(function: Callable[[Tensor], Tensor]) -> str | None:
    x = torch.linspace(-8.0, 8.0, 100, dtype=torch.float32)[None]
    expected = function(x)
    return next(
        (name for name, activation in ACTIVATIONS.items() if torch.allclose(activation(x), expected)), None
    )
