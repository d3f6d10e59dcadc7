"""Damaged weights files and configs: transformers' tokens with the same files, or a sentence."""

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import tiny
import torch
from mutations import mutate
from transformers import AutoModelForCausalLM

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.family import dtype_of, load_config, quiet
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import end_ids

pytestmark = pytest.mark.slow

FAMILIES = ("llama", "gemma3_text", "gpt2", "qwen3")
PROMPT = [5, 17, 3, 42, 9, 31, 8, 77, 23, 50, 11]
TOKENS = 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return {family: tiny.make(family, tmp_path_factory.mktemp("whole") / family) for family in FAMILIES}


def ours(folder: Path) -> list[int]:
    """Return the greedy tokens of a run of two stages. Raises Unservable."""
    checkpoint.check(folder)
    checkpoint.fingerprint(folder)
    checkpoint.layer_bytes(folder, len(checkpoint.bytes_by_layer(folder)) or 1)
    config = load_config(folder)
    dtype, depth = dtype_of(config, "auto"), config.num_hidden_layers
    end_ids(folder)
    head = Head(folder, dtype)
    blocks = [range(depth // 2), range(depth // 2, depth)]
    stages = [Stage(folder, block, dtype) for block in blocks if block]
    for stage in stages:
        stage.warm_up([4], lambda: 0.0)
    ids, start = list(PROMPT), 0
    for _ in range(TOKENS):
        body = head.embed(ids[start:], start)
        for stage in stages:
            body = stage.run(body, start)
        logits = head.logits(body)
        start = len(ids)
        ids.append(int(logits.argmax()))
        if not logits[ids[-1]].isfinite():
            raise Unservable("no number")
    return ids[len(PROMPT) :]


@torch.inference_mode()
def theirs(folder: Path) -> list[list[int]]:
    """Return transformers' greedy tokens; further lists where two tokens were as near as rounding."""
    # Transformers refuses values that only sampling reads.
    (folder / "generation_config.json").unlink(missing_ok=True)
    index = folder / "model.safetensors.index.json"
    if index.exists():  # and of notes that say nothing
        index.write_bytes(mutate.as_json({**json.loads(index.read_bytes()), "metadata": {}}))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()
    if model.dtype == torch.float16:  # of which we make float32
        model = model.float()
    ids, margin = list(PROMPT), float("inf")
    for _ in range(TOKENS):
        best = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
        top = best.topk(2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    return [ids[len(PROMPT) :], margin]


def same_or_a_sentence(folder: Path) -> None:
    quiet()
    warnings.simplefilter("ignore")
    try:
        generated = ours(folder)
    except Unservable as error:
        sentence = str(error)
    else:
        tokens, margin = theirs(folder)
        assert generated == tokens or margin < 0.05, f"{generated} are not {tokens} (margin {margin})"
        return
    assert sentence.strip()
    assert "\n" not in sentence


def copied(whole: dict[str, Path], draw: random.Random, tmp_path: Path, number: int) -> Path:
    folder = tmp_path / str(number)
    shutil.copytree(whole[draw.choice(FAMILIES)], folder)
    return folder


def test_headers_of_weights(whole, tmp_path):
    def one(number):
        draw = random.Random(number)
        folder = copied(whole, draw, tmp_path, number)
        file = folder / "model.safetensors"
        data = file.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        if draw.random() < 0.4:
            file.write_bytes(mutate.damaged(draw, data, end))
        else:
            header = mutate.as_json(mutate.swapped(draw, json.loads(data[8:end])))
            file.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
        same_or_a_sentence(folder)
        shutil.rmtree(folder)

    mutate.survives(mutate.numbers(), one)


def test_configs(whole, tmp_path):
    def one(number):
        draw = random.Random(number)
        folder = copied(whole, draw, tmp_path, number)
        file = folder / ("generation_config.json" if draw.random() < 0.05 else "config.json")
        good = file.read_bytes() if file.exists() else b"{}"
        if draw.random() < 0.2:
            file.write_bytes(mutate.damaged(draw, good))
        else:
            file.write_bytes(mutate.as_json(mutate.swapped(draw, json.loads(good))))
        same_or_a_sentence(folder)
        shutil.rmtree(folder)

    mutate.survives(mutate.numbers(), one)


def test_indices(whole, tmp_path):
    def one(number):
        draw = random.Random(number)
        folder = tmp_path / str(number)
        AutoModelForCausalLM.from_pretrained(whole["llama"]).save_pretrained(folder, max_shard_size="30KB")
        file = folder / "model.safetensors.index.json"
        bad = mutate.swapped(draw, json.loads(file.read_bytes()))
        file.write_bytes(
            mutate.damaged(draw, file.read_bytes()) if draw.random() < 0.3 else mutate.as_json(bad)
        )
        same_or_a_sentence(folder)
        shutil.rmtree(folder)

    mutate.survives(mutate.numbers(max(20, mutate.MANY // 5)), one)
