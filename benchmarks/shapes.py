"""Models for benchmarks: SmolLM2, and random weights: in the shape of Gemma 2B (speed and memory, never
quality), and tiny (nothing but the run around them)."""

import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig

from jarvis_mpi.common import cache_folder
from jarvis_mpi.model import checkpoint, safetensors_files
from jarvis_mpi.nn.quantisation import FORMATS, OUTPUT_LAYER

SMOLLM2 = "smollm2-135m-instruct"
GEMMA_2B = "gemma-2b-shape"
SMOLLM2_18 = "smollm2-18-layers"  # its first ones: what Gemma 2B has, so that eight workers have two each


def locate(name: str) -> Path:
    """The folder of a model; those of this file are made on the spot, GEMMA_2B with 5 GB in bfloat16."""
    if name not in (GEMMA_2B, SMOLLM2_18):
        return checkpoint.locate(name, print)
    folder = cache_folder.cache_folder() / name
    if name == SMOLLM2_18:
        first_layers(checkpoint.locate(SMOLLM2, print), folder, 18)
        return folder
    if not (folder / "config.json").exists():
        print(f"making random weights in the shape of Gemma 2B in {folder} (5 GB)")
        folder.mkdir(parents=True, exist_ok=True)
        make_gemma_2b(folder)
    return folder


def first_layers(model: Path, folder: Path, count: int) -> None:
    """The same files, said to hold so many layers."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).symlink_to(path)
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": count}))


def make_gemma_2b(folder: Path) -> None:
    config = GemmaConfig(
        hidden_size=2048, num_hidden_layers=18, num_attention_heads=8, num_key_value_heads=1, head_dim=256,
        intermediate_size=16384, vocab_size=256000, max_position_embeddings=8192, dtype="bfloat16",
        architectures=["GemmaForCausalLM"], eos_token_id=None, bos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    files: dict[str, str] = {}
    noise = torch.randn(1 << 22).mul_(0.02).bfloat16()
    for index in range(-1, config.num_hidden_layers):
        shard = {}
        for name, parameter in model.named_parameters():
            layer = int(name.split(".")[2]) if ".layers." in name else -1
            if layer == index:
                count = parameter.numel()
                values = noise.repeat(-(-count // len(noise)))[:count].view(parameter.shape)
                shard[name] = (
                    values * (1 + index / 100)
                    if parameter.dim() > 1
                    else torch.zeros(parameter.shape).bfloat16()
                )
        file = f"model-{index + 1:02}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        files.update(dict.fromkeys(shard, file))
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    for file in checkpoint.locate(SMOLLM2, print).glob("*token*"):  # any tokenizer will do
        shutil.copy(file, folder)
    config.save_pretrained(folder)


def make_tiny(folder: Path, layers: int) -> None:
    """Random weights of a few megabytes, the same every time."""
    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, vocab_size=49152, max_position_embeddings=1024,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for file in checkpoint.locate(SMOLLM2, print).glob("*token*"):
        shutil.copy(file, folder)


def weights_bytes(folder: Path, weights: str) -> tuple[dict[int, float], float]:
    """Of each layer, and of all the rest (the head), as a run with `--weights` holds them; files in 16
    bits."""
    layers: dict[int, float] = {**checkpoint.bytes_by_layer(folder)}
    rest = sum(path.stat().st_size for path in safetensors_files.weight_files(folder)) - sum(layers.values())
    if weights in FORMATS:
        layers = {layer: size / 2 * FORMATS[weights].bytes_a_weight for layer, size in layers.items()}
        rest *= FORMATS[OUTPUT_LAYER.get(weights, weights)].bytes_a_weight / 2
    return layers, rest


def read_gb_s() -> float:
    """What one thread reads from memory."""
    torch.set_num_threads(1)
    numbers = torch.zeros(100_000_000)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        numbers.sum()
        times.append(time.perf_counter() - begun)
    return numbers.nbytes / min(times) / 1e9
