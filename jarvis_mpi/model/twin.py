"""Make a small twin of a large model: its config with fewer and narrower layers, and random weights.

The twin has the family's masks, windows, rotary tables and kinds of layers. A cut of it can be compared with
the whole in a second, before any weight of the large model is read (trial.py).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from .family import CONTEXT, KEY_HEADS, cut_config, key_heads, longest_text, per_layer

MOST_KINDS = 12  # of layers
# Key/value heads: some families need four, and in some the widths depend on each other in special ways.
AS_THE_MODEL = 0
GROUPS = (2, 4, AS_THE_MODEL)
MOST_WIDTH = 1024  # of a twin as wide as the model
VOCABULARY, GATE, LENGTH = 160, 96, 192  # rows of the embedding; numbers within an MLP; positions
WINDOW, UNSCALED = 8, 32  # positions: of a window; of a rotary table before it is scaled
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
STRENGTHS = (1.5, 0.7, 0.3)  # of random weights: each layer must matter, and no rounding grow large
SEED = 7


def twin_config(config: Any, groups: int) -> Any:
    """Return `config` with few and narrow layers of all its kinds, and at most `groups` key/value heads.

    Raises ValueError where it is to be as wide as the model, and that is too wide.
    """
    if groups == AS_THE_MODEL and config.hidden_size > MOST_WIDTH:
        raise ValueError(f"a small model of its making cannot be made, and it is {config.hidden_size} wide")
    few = cut_config(config, layers_of_twin(config))
    native = few.attribute_map
    small = shrunk(few.to_dict(), groups == AS_THE_MODEL)
    known = {native.get(name, name): value for name, value in widths(few, groups).items()}
    small.update({name: value for name, value in {**known, **TOKENS}.items() if name in small})
    return type(config)(**small)


def layers_of_twin(config: Any) -> list[int]:
    """Return the layers that the twin has: the first of each kind, the first and the last ones."""
    depth = config.num_hidden_layers
    lists = [getattr(config, name) for name in per_layer(config)]
    kinds = [repr([each[layer] for each in lists]) for layer in range(depth)]
    firsts = sorted({kind: layer for layer, kind in reversed(list(enumerate(kinds)))}.values())
    ends = [*range(depth)[:3], *range(depth)[-3:]]
    return sorted({*firsts[:MOST_KINDS], *ends})


def widths(config: Any, groups: int) -> dict[str, Any]:
    """Return the twin's smaller sizes, by the names that all families share."""
    lengths = {"vocab_size": VOCABULARY, **dict.fromkeys(CONTEXT, length(config))}
    if groups == AS_THE_MODEL:
        return lengths
    heads = config.num_attention_heads
    kv_heads = key_heads(config)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    group = min(heads // kv_heads, 2)
    few = min(kv_heads, groups)
    ratio = config.hidden_size / (heads * width)
    hidden = few * group * width * ratio
    return {
        **lengths,
        "num_attention_heads": few * group,
        **dict.fromkeys(KEY_HEADS, few),
        "head_dim": getattr(config, "head_dim", None),
        "hidden_size": max(16, round(hidden / 16) * 16) if ratio != 1 else round(hidden),
    }


def length(config: Any) -> int:
    """Return the twin's positions: the same multiple of its unscaled ones as in the model."""
    whole = longest_text(config)
    unscaled = [value for value in of_rope(config.to_dict()) if isinstance(value, int) and 0 < value < whole]
    return min(LENGTH, round(UNSCALED * whole / unscaled[0])) if unscaled else LENGTH


def of_rope(named: Mapping[str, Any]) -> list[Any]:
    found = [value for name, value in named.items() if name == "original_max_position_embeddings"]
    return found + [each for value in named.values() if isinstance(value, dict) for each in of_rope(value)]


def shrunk(named: Mapping[str, Any], wide: bool) -> dict[str, Any]:
    """Return a config's values with short windows, early borders of rotary tables and, unless it is to be as
    `wide`, narrow MLPs."""
    return {name: smaller(name, value, wide) for name, value in named.items()}


def smaller(name: str, value: Any, wide: bool) -> Any:
    if isinstance(value, dict):
        return shrunk(value, wide)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if name == "original_max_position_embeddings":
        return min(value, UNSCALED)
    if ("window" in name or "chunk" in name) and "layers" not in name:
        return min(value, WINDOW)
    if not wide and any(word in name for word in ("intermediate", "ffn", "inner")) and value > GATE:
        return GATE
    return value


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def make_twin(config: Any, groups: int) -> Any:
    """Make a twin of `config` with random weights, the same each time, in float32."""
    with seeded(SEED):
        model = AutoModelForCausalLM.from_config(twin_config(config, groups), dtype=torch.float32).eval()
        draw(model, STRENGTHS[0])
    return model.requires_grad_(False)


@torch.no_grad()
def draw(model: Any, strength: float) -> None:
    """Give the model random weights that make outputs `strength` times as large as inputs."""
    embedding = {id(each) for each in model.get_input_embeddings().parameters()}
    with seeded(SEED):
        for parameter in model.parameters():
            if parameter.dim() < 2:  # norms, biases, sinks
                parameter.add_(torch.randn_like(parameter), alpha=0.2 * strength)
            elif id(parameter) in embedding:
                parameter.normal_(0, 0.3)
            else:
                parameter.normal_(0, strength / parameter.shape[-1] ** 0.5)
        saved = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in saved and buffer.is_floating_point():  # such as a factor of a layer's output
                buffer.mul_(1 + 0.2 * torch.rand_like(buffer))
