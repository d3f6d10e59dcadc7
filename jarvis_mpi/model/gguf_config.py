"""Correct a config from GGUF metadata that transformers does not read: each key is put into the config, or
refused by name.

A key of the arithmetic that nothing reads would silently make another model.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers.integrations import GGUF_CONFIG_MAPPING

from ..common.errors import Unservable
from .gguf_header import Gguf
from .gguf_rope import Rope

EPSILONS = ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps", "rms_norm_eps")
ABSENT = (-1, 2**32 - 1, 2**64 - 1)  # a token's number that stands for no token
TOKENIZER = "tokenizer.ggml."
ENDS = [f"{TOKENIZER}{name}_token_id" for name in ("eos", "eot", "eom")]
NEEDED = [*ENDS, *(f"{TOKENIZER}{name}_token_id" for name in ("bos", "unknown"))]
META_LAYOUT = "Meta AI original pth"  # a layout of rotating rows, which transformers turns back
# Depths of the models whose scores are scaled as if the heads filled the model's width.
SCALED_BY_MODEL_WIDTH = {"gemma2": 46, "gemma3": 62}


def corrected(config, file: Gguf):
    """Return transformers' config of `file` with the keys that it did not read.
    Raises Unservable where a config cannot hold one."""
    architecture = file.values["general.architecture"]
    own = {
        key.removeprefix(f"{architecture}."): value
        for key, value in file.values.items()
        if key.startswith(f"{architecture}.")
    }
    mapping: Any = GGUF_CONFIG_MAPPING
    names = mapping.get(config.model_type.removesuffix("_text"), {})
    read = {key for key, name in names.items() if name is not None}
    if own.get("expert_count"):
        raise Unservable(
            f"{file.path} is a mixture of experts ({architecture}.expert_count), which is not served"
        )
    for key in read & own.keys():
        if isinstance(own[key], list | str | bool):
            raise Unservable(
                f"{file.path} has {architecture}.{key} = {shown(own[key])}, and one number is wanted there"
            )
    changes: dict[str, Any] = {}
    rope = Rope(file, own, config)
    for key in sorted(own.keys() - read):
        if key.startswith("rope."):
            continue
        if key not in KNOWN:
            known = not own[key] or (key == "tensor_data_layout" and own[key] == META_LAYOUT)
        else:
            try:
                known = KNOWN[key](config, own[key], changes)
            except (TypeError, ValueError, ZeroDivisionError, OverflowError):
                known = False
        if not known:
            raise Unservable(
                f"{file.path} has {architecture}.{key} = {shown(own[key])}, which cannot be honoured here:"
                " take the model's safetensors, or another GGUF file of it"
            )
    # transformers' table of GPT-2 has a name for it that its config does not know.
    if "context_length" in own:
        attribute("max_position_embeddings")(config, own["context_length"], changes)
    if hasattr(config, "query_pre_attn_scalar") and "attention.scale" not in own:
        changes["query_pre_attn_scalar"] = pre_attention(config, architecture, changes)
    if (getattr(config, "pad_token_id", None) or 0) >= config.vocab_size:  # the family's, not this file's
        changes["pad_token_id"] = None
    changes |= rope.changes(changes.get("head_dim"))
    return remade(config, changes), rope


def remade(config, changes: dict[str, Any]):
    """Return the config as if it had been written with `changes`: values derived from them are derived
    again."""
    fields = config.to_dict()
    fields.pop("layer_types", None)
    return type(config).from_dict(fields | changes)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def pre_attention(config, architecture: str, changes: dict[str, Any]) -> float:
    if config.num_hidden_layers == SCALED_BY_MODEL_WIDTH.get(architecture):
        return config.hidden_size // config.num_attention_heads
    return changes.get("head_dim") or config.head_dim


# -- one function a key: returns whether the key is honoured, and adds to `changes`


def head_dim(config, value: Any, changes: dict[str, Any]) -> bool:
    if hasattr(config, "head_dim"):
        changes["head_dim"] = value
        return True
    return value * config.num_attention_heads == config.hidden_size


def same_as_key(config, value: Any, changes: dict[str, Any]) -> bool:
    width = changes.get("head_dim") or getattr(config, "head_dim", None)
    return value == (width or config.hidden_size // config.num_attention_heads)


def attribute(*names: str) -> Callable[[Any, Any, dict[str, Any]], bool]:
    def put(config, value: Any, changes: dict[str, Any]) -> bool:
        present = [name for name in names if hasattr(config, name)]
        changes.update(dict.fromkeys(present, value))
        return bool(present) or not value

    return put


def window(config, value: Any, changes: dict[str, Any]) -> bool:
    """Honour a window where the config has one for all its layers."""
    if config.model_type not in ("phi3", "starcoder2", "mistral"):
        return not value
    changes["sliding_window"] = value or None
    return True


def pattern(config, value: Any, changes: dict[str, Any]) -> bool:
    """Honour a window's layers where they are the family's own."""
    kinds = getattr(config, "layer_types", None) or []
    if isinstance(value, int) and value > 0:
        value = [bool((layer + 1) % value) for layer in range(len(kinds))]
    return [kind == "sliding_attention" for kind in kinds] == [bool(each) for each in value]


def scale(config, value: Any, changes: dict[str, Any]) -> bool:
    if hasattr(config, "query_pre_attn_scalar"):
        changes["query_pre_attn_scalar"] = value**-2
        return True
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return bool(np.isclose(value, width**-0.5))


KNOWN: dict[str, Callable[[Any, Any, dict[str, Any]], bool]] = {
    "attention.key_length": head_dim,
    "attention.value_length": same_as_key,
    "attention.layer_norm_epsilon": attribute(*EPSILONS),
    "attention.layer_norm_rms_epsilon": attribute(*EPSILONS),
    "attention.sliding_window": window,
    "attention.sliding_window_pattern": pattern,
    "attention.scale": scale,
    "attention.causal": lambda config, value, changes: value is True,
    "attn_logit_softcapping": attribute("attn_logit_softcapping"),
    "final_logit_softcapping": attribute("final_logit_softcapping"),
    "use_parallel_residual": attribute("use_parallel_residual"),
    "vocab_size": lambda config, value, changes: value == config.vocab_size,
    "context_length": attribute("max_position_embeddings"),
    "feed_forward_length": lambda config, value, changes: value == 4 * config.hidden_size,
    "attention.head_count_kv": lambda config, value, changes: value == config.num_attention_heads,
}


def leave_out_absent(file: Gguf) -> list[str]:
    """Remove the special tokens that the file lacks, given as -1 or as an unused number: llama.cpp passes
    over them, transformers looks them up. Return their keys."""
    absent = [
        key
        for key in token_keys(file)
        if file.values[key] in ABSENT or (key not in NEEDED and not is_token(file, key))
    ]
    for key in absent:
        del file.values[key], file.raw[key]
    return absent


def token_keys(file: Gguf) -> list[str]:
    return [key for key in file.values if key.startswith(TOKENIZER) and key.endswith("_token_id")]


def is_token(file: Gguf, key: str) -> bool:
    value = file.values[key]
    return type(value) is int and 0 <= value < len(file.values.get(f"{TOKENIZER}tokens", []))


def check_tokens(file: Gguf) -> None:
    """Raises Unservable where a special token is not in the file's vocabulary."""
    for key in token_keys(file):
        if not is_token(file, key):
            count = len(file.values.get(f"{TOKENIZER}tokens", []))
            raise Unservable(f"{file.path} is damaged: {key} = {shown(file.values[key])}, of {count} tokens")


def end_ids(file: Gguf) -> list[int]:
    """Return all tokens that the file names as ends of an answer."""
    return sorted({file.values[key] for key in ENDS if key in file.values})
