"""llama.cpp beside us, where its built programs are at hand (never part of this repository): --llama FOLDER
of llama-bench and the others.

Built so from its sources: cmake -B build -DGGML_RPC=ON && cmake --build build --target llama-bench
llama-quantize llama-completion ggml-rpc-server
"""

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gguf
import torch

from jarvis_mpi.model.checkpoint import headers
from jarvis_mpi.model.weights import Stored

KINDS = {"auto": "BF16", "int8": "Q8_0", "int4": "Q4_0"}  # what is nearest to our --weights
LISTENS_S = 10.0


def gguf_of(folder: Path, llama: Path, weights: str) -> Path:
    """The model in `folder` (Llama or Gemma) as llama.cpp wants it, without its tokenizer: for speed, never
    for text."""
    path = folder / f"speed-{KINDS[weights]}.gguf"
    if path.exists():
        return path
    begun = path.with_suffix(".part")  # what was broken off is not taken for whole
    if KINDS[weights] == "BF16":
        write_gguf(folder, begun)
    else:
        words = [llama / "llama-quantize", gguf_of(folder, llama, "auto"), begun, KINDS[weights]]
        subprocess.run(words, check=True, capture_output=True)
    return begun.rename(path)


def write_gguf(folder: Path, path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    kind, depth = config["model_type"], config["num_hidden_layers"]
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(depth)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], depth)
    for file, header, data_at in headers(folder):
        for name in header.keys() - {"__metadata__"}:
            tensor = Stored(name, file, header[name], data_at).mapped().to(torch.bfloat16)
            theirs = names.get_name(name, try_suffixes=(".weight",))
            if tensor.dim() == 1:
                writer.add_tensor(theirs, tensor.float().numpy())
            else:
                rows = tensor.contiguous().view(torch.uint8).numpy().reshape(len(tensor), -1)
                writer.add_tensor(theirs, rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextmanager
def servers(llama: Path, count: int) -> Iterator[tuple[list[subprocess.Popen], list[str]]]:
    """RPC servers on loopback, one compute thread each: the processes and their addresses."""
    running, addresses = [], []
    try:
        for _ in range(count):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            words = [llama / "ggml-rpc-server", "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
            running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            addresses.append(f"127.0.0.1:{port}")
            await_listening(port)
        yield running, addresses
    finally:
        for server in running:
            server.kill()
            server.wait()


def await_listening(port: int) -> None:
    deadline = time.monotonic() + LISTENS_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"ggml-rpc-server does not listen on port {port} after {LISTENS_S:.0f} s")


def bench(llama: Path, model: Path, addresses: Sequence[str], rows: int, tokens: int) -> dict[str, float]:
    """Tokens/s of llama-bench, one compute thread; layers on the servers where there are any."""
    words = [llama / "llama-bench", "-m", model, "-t", "1", "-p", str(rows), "-n", str(tokens), "-r", "1"]
    if addresses:
        words += ["--rpc", ",".join(addresses), "-ngl", "99"]
    done = subprocess.run([*words, "-o", "json"], check=True, capture_output=True, timeout=600)
    seen = {("decode" if each["n_gen"] else "prefill"): each["avg_ts"] for each in json.loads(done.stdout)}
    return {kind: float(seen[kind]) for kind in ("decode", "prefill")}
