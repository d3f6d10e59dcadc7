"""nn.Linear for inference: weights stay as they are on disk, mapped, and no row feels the others."""

from pathlib import Path

import torch
from torch import Tensor, nn

from .kernels import BLOCK, LANES, block_product, float_product, rounding
from .quantised import FORMATS, mapped

ROWS_AT_ONCE = 64  # of a long text: what they are multiplied from stays in the processor's cache
STORED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class RowwiseLinear(nn.Module):
    """[..., in] -> [..., out], of the same dtype; multiplied and added in float32."""

    def __init__(self, outputs: int, multiple: int, bias: Tensor | None):
        super().__init__()
        self.outputs, self.multiple = outputs, multiple
        self.bias = None if bias is None else bias.float()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).float()
        missing = -rows.shape[1] % self.multiple
        rows = nn.functional.pad(rows, (0, missing)) if missing else rows.contiguous()
        if len(rows) <= ROWS_AT_ONCE:
            y = self.product(rows)
        else:
            y = torch.cat([self.product(part) for part in rows.split(ROWS_AT_ONCE)])
        if self.bias is not None:
            y += self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.outputs)

    def product(self, rows: Tensor) -> Tensor:
        """[S, in, to the next `multiple`] -> [S, out], both in float32."""
        raise NotImplementedError


class FloatLinear(RowwiseLinear):
    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__(len(weight), LANES, bias)
        missing = -weight.shape[1] % LANES
        self.weight = nn.functional.pad(weight, (0, missing)) if missing else weight.contiguous()
        self.multiply = float_product(STORED[weight.dtype])

    def product(self, rows: Tensor) -> Tensor:
        y = rows.new_empty(len(rows), self.outputs)
        addresses = [tensor.data_ptr() for tensor in (rows, self.weight, y)]
        self.multiply([*addresses, len(rows), self.outputs, rows.shape[1]], torch.get_num_threads())
        return y


class QuantisedLinear(RowwiseLinear):
    """`folder` is what quantised.kept gave for `weights`. Raises Unservable where that is damaged."""

    def __init__(self, weights: str, folder: Path, outputs: int, bias: Tensor | None):
        super().__init__(outputs, BLOCK, bias)
        self.numbers, self.scales = mapped(folder)
        self.multiply, self.round = block_product(FORMATS[weights].bits), rounding()

    def product(self, rows: Tensor) -> Tensor:
        count, columns = rows.shape
        blocks = columns // BLOCK
        outputs = len(self.numbers) * LANES
        numbers = rows.new_empty(count, columns, dtype=torch.int16)
        scales, sums = rows.new_empty(2, count, blocks)
        y = rows.new_empty(count, outputs)
        threads = torch.get_num_threads()
        rounded = [tensor.data_ptr() for tensor in (numbers, scales, sums)]
        self.round([rows.data_ptr(), *rounded, count * blocks], threads)
        weights = [tensor.data_ptr() for tensor in (self.numbers, self.scales, y)]
        self.multiply([*rounded, *weights, count, outputs, columns], threads)
        return y[:, : self.outputs]
