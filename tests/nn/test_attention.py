"""Attention for each position by itself: the result of torch in double precision."""

import pytest
import torch

from jarvis_mpi.nn.batch_invariant import attend


class Module:
    is_causal = True


def expected(q, k, v, seen, scale, cap):
    group = q.shape[1] // k.shape[1]
    k, v = (each.double().repeat_interleave(group, 1) for each in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * scale
    scores = cap * torch.tanh(scores / cap) if cap else scores
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize(("rows", "positions"), [(1, 1), (1, 50), (9, 9), (9, 50), (3, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_torch_gives(dtype, rows, positions, window, cap):
    torch.manual_seed(0)
    # Scores of tens, so that some keys count for nothing.
    q = torch.randn(1, rows, 6, 16).to(dtype).transpose(1, 2) * 8
    k, v = (torch.randn(1, 2, 400, width).to(dtype)[:, :, :positions] for width in (16, 72))
    seen = torch.ones(rows, positions, dtype=torch.bool).tril(positions - rows)
    if window:
        seen = seen.triu(positions - rows - window + 1)
    alone = rows == 1 and not window
    result, _ = attend(Module(), q, k, v, None if alone else seen[None, None], scaling=0.5, softcap=cap)
    exact = expected(q, k, v, seen, 0.5, cap)
    assert result.shape == exact.shape
    assert (result - exact).abs().max() < (1e-4 if dtype == torch.float32 else 2e-2)
    to_add = torch.zeros(rows, positions).masked_fill(~seen, torch.finfo(torch.float32).min)
    added, _ = attend(Module(), q, k, v, to_add[None, None], scaling=0.5, softcap=cap)
    assert torch.equal(added, result)
