"""Small GGUF files, of tiny models (tiny.py), with a tokenizer of single bytes."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import gguf
import numpy as np
import tiny
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM

from jarvis_mpi.model import gguf as gguf_model

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<unk>", "<s>", "</s>", "<|eot|>", "<|eom|>", "<pad>", *ALPHABET, "ab"]
EOS, EOT, EOM = 2, 3, 4
IDS = torch.tensor([[65, 17, 3, 142, 9, 31, 77, 8, 65, 100, 12]])
Writes = Callable[[gguf.GGUFWriter], object]
ARCHITECTURES = {"gemma3_text": "gemma3"}


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k as llama.cpp has them in its Llamas."""
    return (
        weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def plain(family: str) -> dict:
    """What makes a tiny model one that its GGUF file can say."""
    same_layers = {"use_sliding_window": False, "layer_types": None}
    return {"qwen2": same_layers, "qwen3": same_layers, "gemma3_text": {"layer_types": None}}.get(family, {})


def write(
    path: Path, family: str = "llama", more: Writes = lambda writer: None,
    without: Iterable[str] = (), tensors: dict[str, np.ndarray] | None = None, pre: str = "gpt-2",
    further: Mapping[str, int] | None = None, matrices: type = np.float32, **changes,
):  # fmt: skip
    """The GGUF file of a tiny model; `further`: tokens and their kinds; `matrices`: their dtype."""
    tokens = [*TOKENS, *(further or {})]
    folder = tiny.make(
        family, path.with_suffix(".model"), vocab_size=len(tokens), **{**plain(family), **changes}
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config, kind = model.config, ARCHITECTURES.get(family, family)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width := model.model.layers[0].self_attn.head_dim)
    writer.add_key_length(width)
    writer.add_value_length(width)
    if kind in ("gemma3", "phi3"):
        writer.add_sliding_window(config.sliding_window)
    if kind == "gemma3":
        writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 6 + [1] * (len(ALPHABET) + 1) + [*(further or {}).values()])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(EOS)
    more(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.num_hidden_layers)
    made = {}
    for name, parameter in model.named_parameters():
        theirs, numbers = names.get_name(name, (".weight", ".bias")), parameter.detach().float().numpy()
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            numbers = permuted(numbers, heads)
        made[theirs] = numbers + 1 if kind == "gemma3" and "norm" in name else numbers
    for name, numbers in (made | (tensors or {})).items():
        if name not in without:
            kind = matrices if numbers.ndim > 1 else np.float32
            writer.add_tensor(name, np.ascontiguousarray(numbers, dtype=kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def split(path: Path, parts: int) -> list[Path]:
    """The same in several files, as llama-gguf-split makes them."""
    whole = gguf.GGUFReader(path)
    made = [path.with_name(f"{path.stem}-{number:05}-of-{parts:05}.gguf") for number in range(1, parts + 1)]
    for number, file in enumerate(made):
        writer = gguf.GGUFWriter(file, str(whole.get_field("general.architecture").contents()))
        if number == 0:
            for key, field in whole.fields.items():
                if not key.startswith("GGUF.") and key != "general.architecture":
                    sub = field.types[-1] if len(field.types) > 1 else None
                    writer.add_key_value(key, field.contents(), field.types[0], sub)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", len(whole.tensors))
        for tensor in whole.tensors[number::parts]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return made


def converted(path: Path) -> Path:
    """The folder of a model that the file becomes."""
    folder = path.with_suffix(f".{time.monotonic_ns()}")
    folder.mkdir()
    gguf_model.make(str(path), str(folder))
    return folder


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model.float()(IDS).logits


def same(folder: Path, model) -> bool:
    """Whether the model in the folder gives the logits of `model`."""
    # Two float32 forms of the same bfloat16 numbers; an epsilon in float32 differs from Python's.
    return torch.allclose(
        logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model), atol=1e-4, rtol=1e-4
    )
