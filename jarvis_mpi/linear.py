"""nn.Linear for inference: weights stay as they are on disk, mapped, and no row feels the others."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from .kernels import BLOCK, LANES, block_product, block_scratch_bytes, float_product, float_scratch_bytes
from .quantised import FORMATS, mapped

ROWS_AT_ONCE = 64  # of a long text: what they are multiplied from stays in the processor's cache
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class RowwiseLinear(nn.Module):
    """[..., in] -> [..., out], of the same dtype; multiplied and added in float32."""

    def __init__(self, outputs: int, bias: Tensor | None, multiple: tuple[int, int]):
        """`multiple`: of in and out that the kernel wants."""
        super().__init__()
        self.outputs, self.columns_multiple = outputs, multiple[0]
        self.bias = torch.zeros(outputs + -outputs % multiple[1])
        if bias is not None:
            self.bias[:outputs] = bias

    def forward(self, x: Tensor) -> Tensor:
        if missing := -x.shape[-1] % self.columns_multiple:
            x = nn.functional.pad(x, (0, missing))
        x = x.contiguous()
        columns, outputs = x.shape[-1], len(self.bias)
        count, row_bytes = x.numel() // columns, columns * x.itemsize
        y = x.new_empty(*x.shape[:-1], outputs)
        scratch = torch.empty(self.scratch_bytes(columns) * min(count, ROWS_AT_ONCE), dtype=torch.uint8)
        multiply, threads = self.kernel(DTYPES[x.dtype]), torch.get_num_threads()
        between = [scratch.data_ptr(), *self.addresses, self.bias.data_ptr()]
        for first in range(0, count, ROWS_AT_ONCE):
            ours, its = x.data_ptr() + first * row_bytes, y.data_ptr() + first * outputs * y.itemsize
            multiply([ours, *between, its, min(ROWS_AT_ONCE, count - first), outputs, columns], threads)
        return y if outputs == self.outputs else y[..., : self.outputs]


class FloatLinear(RowwiseLinear):
    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__(len(weight), bias, (LANES, 1))
        missing = -weight.shape[1] % LANES
        self.weight = nn.functional.pad(weight, (0, missing)) if missing else weight.contiguous()
        self.kernel = partial(float_product, DTYPES[weight.dtype])
        self.scratch_bytes = float_scratch_bytes

    @property
    def addresses(self) -> tuple[int, int]:
        return self.weight.data_ptr(), 0


class QuantisedLinear(RowwiseLinear):
    """`folder` is what quantised.kept gave for `weights`. Raises Unservable where that is damaged."""

    def __init__(self, weights: str, folder: Path, outputs: int, bias: Tensor | None):
        super().__init__(outputs, bias, (BLOCK, LANES))
        self.numbers, self.scales = mapped(folder)
        self.kernel = partial(block_product, FORMATS[weights].bits)
        self.scratch_bytes = block_scratch_bytes

    @property
    def addresses(self) -> tuple[int, int]:
        return self.numbers.data_ptr(), self.scales.data_ptr()
