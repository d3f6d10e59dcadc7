"""Read what differs between model families: configs, classes, the names of layers.
No family has code of its own here."""

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from ..common.boundary import guarded
from ..common.errors import Unservable
from .checkpoint import bytes_by_layer, stored_dtype

# Rotary tables of which every row changes once a text is longer than `original_max_position_embeddings`.
CHANGING_ROTARY = ("longrope", "dynamic")
# Families' names for the number of positions that a text may have.
CONTEXT = ("max_position_embeddings", "max_seq_len", "seq_length", "n_ctx")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads")  # their names for the number of key/value heads
LAYER_NUMBERS = ("layer_idx", "layer_id", "layer_number")  # attributes of a layer and of its parts
# Config lists that may be as long as the model is deep, and have nothing to do with layers.
NOT_OF_LAYERS = ("_id", "_ids", "_token", "architectures")


def quiet() -> None:
    """Silence transformers' warnings and progress bars: our users get our own lines."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def import_family(config) -> None:
    """Import the model's own classes now, and not when the first stage is built."""
    _ = AutoModelForCausalLM._model_mapping[type(config)]


def load_config(folder: Path) -> Any:
    """Return the model's config, with the dtype of its files.
    Raises Unservable where it cannot be cut into blocks of layers."""
    config = read_config(folder)
    if config.dtype is None:
        config.dtype = getattr(torch, stored_dtype(folder))  # as transformers does for "auto"
    if not isinstance(config.dtype, torch.dtype) or not config.dtype.is_floating_point:
        raise Unservable(
            f"{folder}/config.json has {config.dtype!r} as its dtype: float32, bfloat16 or float16 is one"
        )
    check_depth(folder, config)
    return config


def read_config(folder: Path) -> Any:
    """Return the config of config.json, without looking at other files.
    Raises Unservable, naming why such a model cannot be cut."""
    with guarded(f"{folder}/config.json cannot be used"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # What its maker's program asked for: more outputs, in another form, by an attention that need not be
        # here.
        config.output_attentions = config.output_hidden_states = False
        config.return_dict, config._attn_implementation = True, None
    kind = f"{folder} is a model of kind {config.model_type!r}"
    forbidden = {
        "is_encoder_decoder": "an encoder, and only decoders can be cut",
        "vision_config": "an encoder for pictures; only text models can be cut",
        "audio_config": "an encoder for sound; only text models can be cut",
        "num_kv_shared_layers": "layers that share keys and values across a cut",
        "hidden_size_per_layer_input": "an input of its own to each layer, which does not travel",
        "scale_attn_by_inverse_layer_idx": "layers that reckon with their own number",
        "quantization_config": "quantised weights; save it dequantised first",
    }
    for name, reason in forbidden.items():
        if getattr(config, name, None):
            raise Unservable(f"{kind} with {reason} ({name} in its config)")
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise Unservable(f"{kind}, which generates no text")
    if not longest_text(config):
        raise Unservable(f"{kind}, which does not say how long a text may be (no max_position_embeddings)")
    cuttable = {"full_attention", "sliding_attention", "chunked_attention"}
    if others := set(getattr(config, "layer_types", None) or ()) - cuttable:
        raise Unservable(f"{kind} with layers that cannot be cut: {', '.join(sorted(others))}")
    return config


def check_depth(folder: Path, config) -> None:
    """Raises Unservable where the config asks for no layers, or more than the files have: transformers would
    make random ones."""
    depth, stored = getattr(config, "num_hidden_layers", None), len(bytes_by_layer(folder))
    if type(depth) is not int or not 0 < depth <= stored:
        raise Unservable(f"{folder}/config.json asks for {depth!r} layers, its files have {stored}")


def dtype_of(config, wanted: str) -> torch.dtype:
    """Return the dtype to compute in.
    'auto' is bfloat16 for files in bfloat16, else float32 (float16 is slow on every CPU of ours)."""
    if wanted == "auto":
        return torch.bfloat16 if config.dtype == torch.bfloat16 else torch.float32
    return getattr(torch, wanted)


def cache_row_bytes(config, dtype: torch.dtype) -> int:
    """Return the bytes that a layer caches for a position, at the most: its key and its value."""
    heads = config.num_attention_heads
    kv_heads = key_heads(config)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * kv_heads * width * dtype.itemsize


def key_heads(config: Any) -> int:
    named = [getattr(config, name, None) for name in KEY_HEADS]
    return next(filter(None, named), config.num_attention_heads)


def context_of(config: Any) -> int:
    """Return how many positions a text may have.

    Where a family changes its rotary tables for a long text, `generate` computes all rows with the later
    tables, in some families those cached before too. Stages keep their caches, so a text ends where the first
    tables do.
    """
    return min(
        [longest_text(config)]
        + [
            parameters["original_max_position_embeddings"]
            for parameters in rotary(config)
            if parameters.get("rope_type") in CHANGING_ROTARY
            and parameters.get("original_max_position_embeddings")
        ]
    )


def longest_text(config: Any) -> int:
    """Return the number of positions in the config; 0 where it has none."""
    named = [getattr(config, name, None) for name in CONTEXT]
    return next((length for length in named if isinstance(length, int) and length > 0), 0)


def rotary(config: Any) -> list[dict[str, Any]]:
    """Return the config's rotary parameters: one set, or one for each kind of layer; [] for none."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [each for each in parameters.values() if isinstance(each, dict)]
    return nested or [parameters]


def per_layer(config: Any) -> list[str]:
    """Return the names of the config's lists with one entry for each layer."""
    return [
        name
        for name, value in vars(config).items()
        if isinstance(value, (list, tuple))
        and len(value) == config.num_hidden_layers > 1
        and not name.endswith(NOT_OF_LAYERS)
    ]


def cut_config(config: Any, block: Sequence[int]) -> Any:
    """Return a copy of the config with only the layers of `block`."""
    cut = copy.deepcopy(config)
    keep_in_config(cut, block)
    return cut


def keep_in_config(config: Any, block: Sequence[int]) -> None:
    for name in per_layer(config):
        setattr(config, name, [getattr(config, name)[layer] for layer in block])
    config.num_hidden_layers = len(block)


def keep_layers(model: Any, block: Sequence[int]) -> None:
    """Remove all layers of `model` but those of `block`; caches count them from 0.

    The model is built whole first, since some families choose or scale by a layer's own number and the whole
    depth.
    """
    name, layers = decoder_layers(model)
    remaining = nn.ModuleList(layers[layer] for layer in block)
    for index, layer in enumerate(remaining):
        for module in layer.modules():
            for number in LAYER_NUMBERS:
                if isinstance(getattr(module, number, None), int):
                    setattr(module, number, index)
    model.set_submodule(name, remaining)
    keep_in_config(model.config, block)


def decoder_layers(model) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of the model's decoder layers, in any family: the shallowest
    list of the right length (a layer's experts may be as many)."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers
    ]
    if not found:
        raise Unservable(
            f"a model of kind {model.config.model_type!r} cannot be cut: it has no list of decoder layers"
        )
    return min(found, key=lambda each: each[0].count("."))


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states of a decoder layer's output: some families return more beside them."""
    return output[0] if isinstance(output, (tuple, list)) else output


def cache_argument(model: Any) -> str:
    """Return the name of the cache argument of the model's forward: `cache` from transformers 5.24 on; ''
    where it takes none."""
    takes = inspect.signature(model.forward).parameters
    # Something else is called so in a family before that.
    if "cache" in takes and "Cache" in str(takes["cache"].annotation):
        return "cache"
    return "past_key_values" if "past_key_values" in takes else ""


def embedding_name(model) -> str:
    embedding = model.get_input_embeddings()
    return next(name for name, module in model.named_modules() if module is embedding)


def in_model(layers: str, block: Sequence[int]) -> Callable[[str], str]:
    """Return a function from a tensor's name in a stage to its name in the whole model."""

    def name(tensor: str) -> str:
        before, mark, after = tensor.partition(f"{layers}.")
        layer, _, rest = after.partition(".")
        return f"{before}{mark}{block[int(layer)]}.{rest}" if layer.isdecimal() else tensor

    return name


def of_block(layers: str, block: Sequence[int], embedding: str = "") -> Callable[[str], str | None]:
    """Return a function from a tensor's name in the files to its name in a stage: layers counted from 0, no
    other layers, not the token `embedding` if that is named."""
    layers, embedding = layers.split(".")[-1], embedding.split(".")[-1]

    def rename(tensor: str) -> str | None:
        if embedding and f".{embedding}." in f".{tensor}":
            return None
        before, mark, after = f".{tensor}".partition(f".{layers}.")
        if not mark:
            return tensor
        layer, _, rest = after.partition(".")
        if not layer.isdecimal():
            return tensor
        return f"{before}{mark}{block.index(int(layer))}.{rest}"[1:] if int(layer) in block else None

    return rename
