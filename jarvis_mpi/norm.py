"""RMSNorm (arXiv:1910.07467) in one call: in Python it takes nine, as long as reading a small layer's weights does."""

import torch
from torch import Tensor, nn

from .compiled import kernel
from .kernels import BYTES, FLOATS, loaded, share, store
from .linear import DTYPES
from .vectors import FLOAT, INT64, LANES, Code

TRIED_ROWS, NEAR = 4, 1e-5  # how alike ours must be to the family's own


@kernel
def rms_norm(dtype: str, epsilon: float) -> Code:
    """Arguments: the addresses of x [S, K], of the gains [K] in float32 and of y [S, K]; S, K, a multiple of LANES."""
    code = Code(5)
    x, gains, y, rows, columns = code.arguments
    size, nought = BYTES[dtype], code.constant(INT64, 0)
    begin, end = share(code, rows)
    with code.loop(begin, end, 1) as row:
        here = row.now * columns
        with code.loop(nought, columns, LANES, code.constant(FLOATS, 0.0)) as along:
            numbers = loaded(code, dtype, x + (here + along.now) * size)
            along.values[0] = code.multiply_add(numbers, numbers, along.values[0])
        mean = along.results[0].sum_of_lanes() / columns.to(FLOAT, "sitofp")
        root = code.call("llvm.sqrt.f32", mean + epsilon)
        factor = (code.constant(FLOAT, 1.0) / root).in_all_lanes()
        with code.loop(nought, columns, LANES) as along:
            numbers = loaded(code, dtype, x + (here + along.now) * size) * factor
            store(
                code, dtype, numbers * code.load(gains + along.now * 4, FLOATS), y + (here + along.now) * size
            )
    return code


class RowwiseNorm(nn.Module):
    """[..., K] -> [..., K], of the same dtype, rounded once."""

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


def replacement(norm: nn.Module) -> RowwiseNorm | None:
    """What does the same as a family's own, whose gains are its weights or one more than them; None where it does something else."""
    weight, epsilon = (
        getattr(norm, "weight", None),
        getattr(norm, "variance_epsilon", getattr(norm, "eps", None)),
    )
    if not isinstance(weight, Tensor) or epsilon is None or weight.shape[-1] % LANES:
        return None
    x = torch.linspace(-2.0, 3.0, TRIED_ROWS * len(weight)).view(TRIED_ROWS, -1)
    wanted, even = norm(x), x * (x.square().mean(-1, True) + epsilon).rsqrt()
    for gains in (weight.float(), 1 + weight.float()):
        if torch.allclose(even * gains, wanted, NEAR, NEAR):
            return RowwiseNorm(gains, epsilon)
    return None
