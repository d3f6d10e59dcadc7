"""Tiny random models of every family, made on the spot: 6 layers, each of which changes the text."""

from collections.abc import Container, Iterable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

LAYERS = 6
WINDOW = 8
SEED = 7  # with it every family says something, and every layer matters
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WHOLE_BLOCKS = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}  # quantised, nothing is filled up
MIXED = ["sliding_attention", "full_attention"] * (LAYERS // 2)

FEW = ("llama", "gemma3_text", "gpt2")  # families that differ most from each other
FAMILIES = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": MIXED}),
    "qwen3": ("Qwen3", {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": MIXED}),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", {"sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3", {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "layer_types": MIXED}),
    "gpt2": ("GPT2", {"n_layer": LAYERS, "n_embd": 32, "n_head": 4, "n_positions": 128}),
    "phi3": ("Phi3", {"sliding_window": WINDOW}),
    "olmo2": ("Olmo2", {}),
    "smollm3": ("SmolLM3", {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": MIXED}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 16, "dropout": 0.0}),
}


def families_with(others: Iterable, few: Container[str] = FEW) -> list:
    """Pairs for pytest: every family with the first of `others`; with the rest the `few`, and all only with
    JARVIS_TEST_SLOW=1."""
    first, *rest = others
    pairs = [pytest.param(family, first) for family in FAMILIES]
    return pairs + [
        pytest.param(family, other, marks=[] if family in few else [pytest.mark.very_slow])
        for other in rest for family in FAMILIES
    ]  # fmt: skip


def make(family: str, folder: Path, **changes) -> Path:
    """A model of `family` in `folder`, the same every time."""
    name, extra = FAMILIES[family]
    config_class = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
    config = config_class(**{**SHAPE, **extra, **changes})
    torch.manual_seed(SEED)
    model = getattr(transformers, "OPTForCausalLM" if name == "OPT" else _causal(name))(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
            else:  # layers strong beside what the embedding lets through: each must matter
                parameter.normal_(0, 0.1 if "emb" in name or "wte" in name else 0.3)
    model.save_pretrained(folder)
    return folder


def _causal(name: str) -> str:
    return "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"


def put(folder: Path, name: str, value: float, at: int = 5) -> None:
    """One number of a tensor of the model in the folder becomes another."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[at] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
