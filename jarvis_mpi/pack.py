"""bfloat16 weights in oneDNN's own order: a matrix times one row then runs at the speed of the memory.

`F.linear` in bfloat16 reads weights at about half of what one core can (measured on x86 with AVX-512:
1.5 times slower for the layers, 2.5 times for the output layer). The reordered copy replaces the mapped
one, so a stage costs its weights once. Where oneDNN has no bfloat16 kernels nothing is changed.
"""

import contextlib
import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

PART_BYTES = 16_000_000  # of a matrix packed at a time: only that much is in memory twice
LEAST_ROWS = 2048  # of a part: many rows of a prompt times fewer is slow (by 40 % for 488 rows of 16384)

ROWS = 64  # that oneDNN orders for: as fast for one row as an order made for one, half as much again for many

Reread = Callable[[], Tensor]  # the same weight from a mapping of its own, which goes when the tensor goes


def can_pack(dtype: torch.dtype) -> bool:
    return (
        dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


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


class PackedLinear(nn.Module):
    """nn.Linear for inference: [..., in] -> [..., out], in bfloat16."""

    def __init__(self, weight: Reread, shape: Sequence[int], bias: Tensor | None):
        super().__init__()
        self.parts = []
        rows = rows_a_part(shape[1])
        for first in range(0, shape[0], rows):
            part = slice(first, first + rows)
            packed = torch.ops.mkldnn._reorder_linear_weight(weight()[part], ROWS)
            self.parts.append((packed, None if bias is None else bias[part]))

    def forward(self, x: Tensor) -> Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        done = [linear(x, packed, bias, "none", [], "") for packed, bias in self.parts]
        return done[0] if len(done) == 1 else torch.cat(done, -1)
