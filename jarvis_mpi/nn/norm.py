"""RMSNorm (arXiv:1910.07467) in one call: in Python it takes nine, as long as reading a small layer's weights
does."""

import torch
from torch import Tensor, nn

from ..kernels.builder import LANES
from ..kernels.rms_norm import rms_norm
from .linear import DTYPES

TRIED_ROWS, NEAR = 4, 1e-5  # how near ours must be to the family's own


class BatchInvariantNorm(nn.Module):
    """RMSNorm [..., K] -> [..., K], of the same dtype, rounded once."""

    def __init__(self, gains: Tensor, epsilon: float):
        super().__init__()
        self.gains, self.epsilon = gains.float().contiguous(), epsilon

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        kernel = rms_norm(DTYPES[x.dtype], self.epsilon)
        sizes = x.numel() // len(self.gains), len(self.gains)
        kernel((x.data_ptr(), self.gains.data_ptr(), y.data_ptr(), *sizes), torch.get_num_threads())
        return y


def replacement(norm: nn.Module) -> BatchInvariantNorm | None:
    """Return a BatchInvariantNorm equal to a family's own, whose gains are its weights or its weights + 1;
    None where neither is."""
    weight, epsilon = (
        getattr(norm, "weight", None),
        getattr(norm, "variance_epsilon", getattr(norm, "eps", None)),
    )
    if not isinstance(weight, Tensor) or epsilon is None or weight.shape[-1] % LANES:
        return None
    x = torch.linspace(-2.0, 3.0, TRIED_ROWS * len(weight), dtype=torch.float32).view(TRIED_ROWS, -1)
    wanted, even = norm(x), x * (x.square().mean(-1, True) + epsilon).rsqrt()
    for gains in (weight.float(), 1 + weight.float()):
        if torch.allclose(even * gains, wanted, NEAR, NEAR):
            return BatchInvariantNorm(gains, epsilon)
    return None
