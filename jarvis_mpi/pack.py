"""16-bit weights in the order of faster kernels than `F.linear`'s: a matrix times a row, or a few, then runs at the speed of the memory.

In bfloat16 `F.linear` reads weights at about half of what one core can where the processor multiplies bfloat16 (x86 with AVX-512:
1.5 times slower for the layers, 2.5 times for the output layer): oneDNN's own order helps there. Where the processor does not, it
takes ten times as long for many rows, and float32 has twice the bytes: there, and in float32 runs of models whose files hold 16
bits, fbgemm multiplies float32 rows with weights in half precision. Those hold bfloat16's 8 bits of mantissa, and lose at most 3e-8 of weights
below 6e-5, which is less than the rounding of a float32 sum of them all.

The reordered copy replaces the mapped one, so a stage costs its weights once. Which kernels are used follows from the processor,
not from a measurement: a block and its copy on two machines of a kind say the same. Where torch has neither (Arm) nothing is changed.
"""

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .rowwise import WIDTH, Alike, AlikeLinear

PART_BYTES = 16_000_000  # of a matrix packed at a time: only that much is in memory twice
LEAST_ROWS = 2048  # of a part: many rows of a prompt times fewer is slow (by 40 % for 488 rows of 16384)

ROWS = 64  # that oneDNN orders for: as fast for one row as an order made for one, half as much again for many
LARGEST_HALF = torch.finfo(torch.float16).max

# Rows of a weight, from a mapping of their own, which goes when the tensor goes.
Reread = Callable[[slice], Tensor]


def packed_kind(dtype: torch.dtype, stored: torch.dtype) -> "type[Packed] | None":
    """What stands in for nn.Linear in a run of `dtype` with weights `stored` so, on this processor; None: nothing does."""
    onednn = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.bfloat16 and onednn:
        return OneDnnLinear
    is_16_bits = torch.bfloat16 in (dtype, stored) or stored == torch.float16
    return HalfLinear if is_16_bits and "fbgemm" in torch.backends.quantized.supported_engines else None


def pack(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace every nn.Linear of `model` by what `make` makes of it.

    Widest first: while the largest parts are in memory twice, little else is there yet.
    """
    linears = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for parent, name, child in sorted(linears, key=lambda linear: -linear[2].in_features):
        setattr(parent, name, make(child))
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        # What packing needed meanwhile goes back to the system: the allocator keeps as much again as the weights are.
        ctypes.CDLL(None).malloc_trim(0)


def rows_a_part(columns: int) -> int:
    return max(LEAST_ROWS, PART_BYTES // (2 * columns))


class Packed(nn.Module):
    """nn.Linear for inference: [..., in] -> [..., out], of the same dtype."""

    def __init__(self, weight: Reread, shape: Sequence[int], bias: Tensor | None):
        super().__init__()
        rows = rows_a_part(shape[1])
        slices = [slice(first, first + rows) for first in range(0, shape[0], rows)]
        self.parts = list(self.packed(weight, shape, bias, slices))

    def packed(self, weight: Reread, shape, bias: Tensor | None, slices: Sequence[slice]) -> Iterator[Any]:
        raise NotImplementedError


class OneDnnLinear(Packed):
    def packed(self, weight, shape, bias, slices):
        for part in slices:
            order = torch.ops.mkldnn._reorder_linear_weight(weight(part), ROWS)
            yield order, None if bias is None else bias[part]

    def forward(self, x: Tensor) -> Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        done = [linear(x, packed, bias, "none", [], "") for packed, bias in self.parts]
        return done[0] if len(done) == 1 else torch.cat(done, -1)


class HalfLinear(AlikeLinear, Packed):
    """Raises OverflowError where half precision cannot hold a weight."""

    def packed(self, weight, shape, bias, slices):
        # One buffer for all: new ones would leave holes between the packed parts, as much again for an output layer.
        floats = torch.empty(min(slices[0].stop, shape[0]), shape[1])
        for part in slices:
            source = weight(part)
            rows = floats[: len(source)].copy_(source)
            if rows.abs().max() > LARGEST_HALF:
                raise OverflowError
            yield torch.ops.quantized.linear_prepack_fp16(rows, None if bias is None else bias[part].float())

    def product(self, rows: Tensor) -> Tensor:
        done = [torch.ops.quantized.linear_dynamic_fp16(rows, part) for part in self.parts]
        return done[0] if len(done) == 1 else torch.cat(done, -1)

    def alike(self) -> Alike:
        return half_alike()


@functools.cache
def half_alike() -> Alike:
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    return Alike(HalfLinear(lambda part: weight[part], weight.shape, None).product)
