"""RMSNorm in one call: the result of the family's own, and the same beside any other rows."""

import pytest
import tiny
import torch
from torch import nn

from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.nn.norm import BatchInvariantNorm, replacement

OURS = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3"}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_rms_norm_of_a_family_is_ours_and_no_other_norm(family, tmp_path):
    folder = tiny.make(family, tmp_path / "model")
    for part in (Stage(folder, range(0, 6), torch.bfloat16), Head(folder, torch.bfloat16)):
        norms = {type(module) for module in part.model.modules() if "Norm" in type(module).__name__}
        assert norms == ({BatchInvariantNorm} if family in OURS else {nn.LayerNorm})


class Norm(nn.Module):
    """With gains that are `more` than its weights, and `power` times too large."""

    def __init__(self, more: float, power: float):
        super().__init__()
        self.weight, self.eps, self.more, self.power = nn.Parameter(torch.randn(40)), 1e-5, more, power

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.power * (self.more + self.weight) * x * (x.square().mean(-1, True) + self.eps).rsqrt()


@pytest.mark.parametrize("more", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_gives_what_the_norm_gives(more, dtype):
    torch.manual_seed(0)
    norm = Norm(more, 1.0).requires_grad_(False)
    ours = replacement(norm)
    assert ours
    x = (torch.randn(1, 3, 5, 40) * torch.logspace(-3, 3, 5)[:, None]).to(dtype)
    result = ours(x.transpose(1, 2))
    assert result.dtype == dtype
    assert torch.allclose(result.float(), norm(x.float()).transpose(1, 2), torch.finfo(dtype).eps, 1e-6)
    assert torch.equal(torch.stack([ours(row) for row in x.flatten(0, 2)]), ours(x.flatten(0, 2)))


def test_what_is_no_rms_norm_stays():
    assert replacement(Norm(0.0, 1.01)) is None
    assert replacement(Norm(0.5, 1.0)) is None
    assert replacement(nn.LayerNorm(40)) is None
    assert replacement(nn.RMSNorm(36, eps=1e-5)) is None  # no multiple of the vectors' width
    assert replacement(nn.RMSNorm(40, eps=1e-5))
