"""8-bit weights: what a layer says, alone and beside other rows, and what a run with them says."""

import pytest
import tiny
import torch
from test_mpirun import mpirun, small, tokens_of, words_for  # noqa: F401 (a fixture)
from test_parts import bytes_folder  # noqa: F401 (a fixture)
from torch import nn

from jarvis_mpi.int8 import Int8Linear, Rows
from jarvis_mpi.stage import Head, Stage


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """What 8 bits and a scale a channel leave of the weights."""
    scales = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scales).round() * scales


@pytest.mark.parametrize("outlier", [1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_as_good_as_its_rounded_weights(outlier, dtype):
    torch.manual_seed(0)
    linear = nn.Linear(576, 200).requires_grad_(False)
    made = Int8Linear(Rows(), lambda: linear.weight, linear.weight.shape, linear.bias)
    x = torch.randn(1, 7, 576).to(dtype)
    x[..., 3] *= outlier
    said, exact = made(x), nn.functional.linear(x.float(), rounded(linear.weight), linear.bias)
    assert said.dtype == dtype
    assert (said - exact).norm() / exact.norm() < (2e-3 if dtype == torch.float32 else 5e-3)


def test_what_a_row_gives_does_not_depend_on_the_others_bit_for_bit():
    torch.manual_seed(0)
    made = Int8Linear(
        Rows(), lambda: torch.randn(300, 64, generator=torch.Generator().manual_seed(1)), (300, 64), None
    )
    x = torch.randn(1, 9, 64) * torch.logspace(-3, 3, 9)[None, :, None]
    together = made(x)
    assert torch.equal(torch.cat([made(x[:, at : at + 1].clone()) for at in range(9)], 1), together)
    assert torch.equal(made(x[:, :4]), together[:, :4])
    assert torch.equal(made(torch.zeros(1, 1, 64)), torch.zeros(1, 1, 300))


def test_a_weight_of_many_parts_is_the_same_as_one(monkeypatch):
    weight = torch.randn(5000, 16)
    whole = Int8Linear(Rows(), lambda: weight, weight.shape, None)
    monkeypatch.setattr("jarvis_mpi.int8.rows_a_part", lambda columns: 2048)
    cut = Int8Linear(Rows(), lambda: weight, weight.shape, None)
    x = torch.randn(1, 3, 16)
    assert len(cut.parts) == 3
    assert torch.equal(cut(x), whole(x))


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2", "phi3"])
def test_every_linear_layer_of_a_model_is_replaced(family, tmp_path):
    folder = tiny.make(family, tmp_path)
    for part in (
        Stage(folder, range(0, 6), torch.float32, weights="int8"),
        Head(folder, torch.float32, "int8"),
    ):
        kinds = {type(module) for module in part.model.modules()}
        assert Int8Linear in kinds
        assert nn.Linear not in kinds
    exact, rough = (
        Stage(folder, range(0, 6), torch.float32, weights=weights) for weights in ("auto", "int8")
    )
    body = torch.randn(1, 5, 32).numpy().tobytes()
    both = [torch.frombuffer(bytearray(stage.run(body, 0)), dtype=torch.float32) for stage in (exact, rough)]
    assert not torch.equal(*both)
    assert torch.nn.functional.cosine_similarity(*both, 0) > 0.97


def test_a_run_in_int8_says_the_same_on_any_chain_and_from_a_copy(small, tmp_path):  # noqa: F811
    said = []
    for ranks, fault in ((2, ""), (5, "kill 2 @ 3")):
        log = tmp_path / f"{ranks}.h5"
        done = mpirun(ranks, *words_for(small, log, "--weights", "int8", "--ignore-eos", "--fault", fault))
        assert done.returncode == 0, done.stderr.decode()
        assert "int8 weights" in done.stderr.decode()
        said.append(tokens_of(log))
    assert "from the copy" in done.stderr.decode()
    assert said[0] == said[1]
