"""nn.Linear for inference: weights are mapped as they are on disk, and a row's result depends on no other
row."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..kernels import autotune
from ..kernels.float_matmul import LANES, float_product, float_scratch_bytes
from ..kernels.int_matmul import block_product, block_scratch_bytes
from ..kernels.jit import Compiled
from .quantisation import FORMATS, mapped

ROWS_AT_ONCE = 64  # of a long text: x stays in the processor's cache
# Rows at least this long some processors prefetch by themselves, and our prefetch slows them down; shorter
# rows are faster with it.
HARDWARE_PREFETCH_BYTES = 4096
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class BatchInvariantLinear(nn.Module):
    """[..., in] -> [..., out], of the same dtype; multiplied and added in float32."""

    kernel: Callable[[str], Compiled]  # for rows of a dtype
    addresses: tuple[int, int]  # of the weights and their scales
    scratch_bytes: int  # for each row

    def __init__(self, columns: int, outputs: int, padded: tuple[int, int], bias: Tensor | None):
        """`padded`: columns and outputs, rounded up to what the kernel takes."""
        super().__init__()
        self.missing, self.outputs = padded[0] - columns, outputs
        self.columns, self.padded_outputs = padded
        self.bias = torch.zeros(padded[1], dtype=torch.float32)
        if bias is not None:
            self.bias[:outputs] = bias

    def forward(self, x: Tensor) -> Tensor:
        if self.missing:
            x = nn.functional.pad(x, (0, self.missing))
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.padded_outputs)
        rows = x.numel() // self.columns
        if rows <= ROWS_AT_ONCE:
            self.multiply(x, y, rows)
        else:
            parts = [tensor.view(rows, -1).split(ROWS_AT_ONCE) for tensor in (x, y)]
            for some, theirs in zip(*parts, strict=True):
                self.multiply(some, theirs, len(some))
        return y if self.padded_outputs == self.outputs else y[..., : self.outputs]

    @property
    def exact(self) -> bool:
        """Return whether the kernel takes x and y without padding."""
        return not self.missing and self.padded_outputs == self.outputs

    def multiply(self, x: Tensor, y: Tensor, rows: int) -> None:
        scratch = torch.empty(rows * self.scratch_bytes, dtype=torch.uint8)
        arguments = self.arguments(x.data_ptr(), scratch.data_ptr(), y.data_ptr(), rows)
        self.kernel(DTYPES[x.dtype])(arguments, torch.get_num_threads())

    def arguments(self, x: int, scratch: int, y: int, rows: int) -> tuple[int, ...]:
        """Return the kernel's arguments for these addresses."""
        return (x, scratch, *self.addresses, self.bias.data_ptr(), y, rows, self.padded_outputs, self.columns)


class FloatLinear(BatchInvariantLinear):
    def __init__(self, weight: Tensor, bias: Tensor | None):
        outputs, columns = weight.shape
        missing = -columns % LANES
        super().__init__(columns, outputs, (columns + missing, outputs), bias)
        self.weight = nn.functional.pad(weight, (0, missing)) if missing else weight.contiguous()
        self.addresses = self.weight.data_ptr(), 0
        prefetch = self.columns * weight.itemsize < HARDWARE_PREFETCH_BYTES or autotune.prefetch_rows()
        self.kernel = partial(float_product, DTYPES[weight.dtype], prefetch)
        self.scratch_bytes = float_scratch_bytes(self.columns)


class QuantisedLinear(BatchInvariantLinear):
    """A linear layer with the weights in `folder`, made by quantised_folder.
    Raises Unservable where they are damaged."""

    def __init__(self, weights: str, folder: Path, shape: Sequence[int], bias: Tensor | None):
        outputs, columns = shape
        kind = FORMATS[weights]
        padded = columns + -columns % kind.block, outputs + -outputs % LANES
        super().__init__(columns, outputs, padded, bias)
        self.numbers, self.scales = mapped(folder, weights, shape)
        self.addresses = self.numbers.data_ptr(), self.scales.data_ptr()
        self.kernel = partial(block_product, kind.bits, autotune.ahead_bytes(kind.bits))
        self.scratch_bytes = block_scratch_bytes(self.columns)
