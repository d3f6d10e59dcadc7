"""A block's layers in one call: which layers, and with the result of the family's own forward."""

import os
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from jarvis_mpi.kernels import elementwise
from jarvis_mpi.model.activations import to_bytes
from jarvis_mpi.model.fast_step import FastStep
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.nn.linear import DTYPES

pytestmark = pytest.mark.slow

ALL = list(range(tiny.LAYERS))
FUSED = {
    "llama": ALL, "mistral": ALL, "qwen2": ALL, "qwen3": ALL, "gemma": ALL, "gemma2": ALL,
    "gemma3_text": ALL, "olmo2": ALL,
    "smollm3": [0, 1, 2, 4, 5],  # 3 has no rotary embedding
}  # fmt: skip
# More rows than go together, several windows, a few.
STEPS = [70, *[1] * (2 * tiny.WINDOW), 3, tiny.WINDOW + 2, 1]
# Relative differences: beside 4-bit weights the rows are rounded to 8 bits.
NEAR = {"auto": 1e-5, "int8": 1e-3, "int4": 0.05}


def layers_of(stage: Stage) -> list[int]:
    return [layer for part in stage.fast_step.parts if part.fused for layer in part.layers]


def outputs_of(stage: Stage) -> torch.Tensor:
    starts = [sum(STEPS[:at]) for at in range(len(STEPS))]
    texts = (
        torch.randn(sum(STEPS), stage.width, generator=torch.Generator().manual_seed(0))
        .bfloat16()
        .to(stage.dtype)
    )
    bodies = [
        stage.run(to_bytes(text), start) for text, start in zip(texts.split(STEPS), starts, strict=True)
    ]
    return torch.frombuffer(bytearray(b"".join(bodies)), dtype=stage.dtype).float()


@pytest.mark.parametrize(("family", "weights"), tiny.families_with(NEAR))
def test_what_the_familys_own_forward_gives(family, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    folder = tiny.make(family, tmp_path / "model", **tiny.WHOLE_BLOCKS)
    apart = {}  # dtype, whether fused -> the distance from their forward in float32
    for dtype in (torch.float32, torch.bfloat16):
        fused, theirs = (Stage(folder, range(tiny.LAYERS), dtype, weights=weights) for _ in range(2))
        assert layers_of(fused) == FUSED.get(family, [])
        theirs.fast_step.possible, theirs.fast_step.parts = False, []
        if dtype == torch.float32:
            exact = outputs_of(theirs)
        for stage in (fused, theirs):
            apart[dtype, stage is fused] = ((outputs_of(stage) - exact).norm() / exact.norm()).item()
    assert apart[torch.float32, True] < NEAR[weights]
    assert apart[torch.bfloat16, True] < 1.2 * apart[torch.bfloat16, False]


def test_a_layer_gives_the_same_bits_in_any_block(tmp_path):
    folder = tiny.make("smollm3", tmp_path / "model")
    whole, *blocks = (
        Stage(folder, block, torch.bfloat16) for block in (range(0, 5), range(0, 3), range(3, 4), range(4, 5))
    )
    text = to_bytes(torch.randn(1, 70, whole.width).bfloat16())
    cut = text
    for block in blocks:
        cut = block.run(cut, 0)
    assert whole.run(text, 0) == cut


SAY_BITS = """
import hashlib, sys, torch
from pathlib import Path
from jarvis_mpi.model.activations import to_bytes
from jarvis_mpi.model.stage import Stage
for weights in ("auto", "int8", "int4"):
    stage = Stage(Path(sys.argv[1]), range(6), torch.bfloat16, weights=weights)
    text = to_bytes(torch.randn(1, 70, stage.width, generator=torch.Generator().manual_seed(0)).bfloat16())
    print(all(part.fused for part in stage.fast_step.parts), hashlib.sha256(stage.run(text, 0)).hexdigest())
"""


def test_the_same_bits_without_avx512(tmp_path):
    folder = tiny.make("gemma2", tmp_path / "model", **tiny.WHOLE_BLOCKS)
    printed = [
        subprocess.run(
            [sys.executable, "-c", SAY_BITS, str(folder)], env={**os.environ, "JARVIS_CACHE": str(tmp_path),
                                                                **without},
            check=True, capture_output=True, text=True, timeout=400,
        ).stdout.split()
        for without in ({}, {"JARVIS_WITHOUT": "avx512"})
    ]  # fmt: skip
    assert printed[0] == printed[1]
    assert printed[0][::2] == ["True"] * 3


class Doubled(nn.Module):
    def __init__(self, function: nn.Module):
        super().__init__()
        self.function, self.factor = function, 2.0

    def forward(self, x):
        return self.factor * self.function(x)


def louder(layer):
    layer.mlp.act_fn = Doubled(layer.mlp.act_fn)


def with_another_parameter(layer):
    layer.self_attn.sinks = nn.Parameter(torch.ones(4))


def with_another_part(layer):
    layer.mlp.router = nn.Identity()


def that_scales_what_it_adds(layer):
    def scaled(hidden_states, **kwargs):
        return hidden_states + layer.multiplier * (forward(hidden_states, **kwargs) - hidden_states)

    layer.multiplier, forward = 0.5, layer.forward
    layer.forward = scaled


@pytest.mark.parametrize(
    "changed", [louder, with_another_parameter, with_another_part, that_scales_what_it_adds]
)
def test_a_layer_that_is_a_little_different_is_not_fused(changed, tmp_path):
    stage = Stage(tiny.make("llama", tmp_path / "model"), range(1, 3), torch.float32)
    assert layers_of(stage) == [0, 1]
    changed(stage.layers[1])
    stage.fast_step = FastStep(stage.model, stage.layers)
    assert layers_of(stage) == [0]


def rotated_by_nothing(q, k, cos, sin, **more):
    return q, k


def asked_louder(q, k, cos, sin, **more):
    q, k = apply_rotary_pos_emb(q, k, cos, sin)
    return 1.02 * q, k


@pytest.mark.parametrize("other", [rotated_by_nothing, asked_louder])
def test_a_difference_that_hardly_shows_in_what_the_layer_gives(other, tmp_path, monkeypatch):
    folder = tiny.make("llama", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: 1e-3 * tensor if "o_proj" in name else tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert layers_of(Stage(folder, range(2), torch.float32)) == [0, 1]
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", other)
    assert layers_of(Stage(folder, range(2), torch.float32)) == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "function"), [
    ("silu", nn.functional.silu), ("gelu_tanh", lambda x: nn.functional.gelu(x, approximate="tanh")),
])  # fmt: skip
def test_gates(dtype, name, function):
    x = torch.cat(
        [torch.linspace(-30, 30, 1016), torch.tensor([0.0, -0.0, 1e4, -1e4, 200.0, -200.0, 1e-8, -1e-8])]
    ).to(dtype)
    y = torch.linspace(-3, 3, len(x)).to(dtype)
    wanted = function(x.double()) * y.double()
    elementwise.gate(DTYPES[dtype], name)((x.data_ptr(), y.data_ptr(), y.data_ptr(), len(x)), 3)
    assert torch.allclose(y.double(), wanted, torch.finfo(dtype).eps, 1e-6)


def test_kernels_run_one_after_the_other():
    x, y = torch.arange(8.0), torch.ones(8)
    add = elementwise.add("F32").address
    table = torch.tensor([[add, *(each.data_ptr() for each in line), 8] for line in ((x, y, y), (y, x, x))])
    elementwise.sequence()((table.data_ptr(), 2, 40), 3)
    assert torch.equal(y, torch.arange(8.0) + 1)
    assert torch.equal(x, 2 * torch.arange(8.0) + 1)
