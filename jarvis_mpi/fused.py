"""A block's layers in one call, where they are of the usual form (form.py).

In Python a layer is some 40 calls, each of which finds the processor's caches swept by the weights: together they took a fifth of a large layer's
time, and most of a small one's. Here the kernels of all layers stand in a table that machine code goes through. The form is not taken on trust:
lean.py compares each layer with what the family's own forward gives.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import fused_kernels
from .attention import attention, scratch_bytes
from .form import AFTER_ATTENTION, AFTER_MLP, BEFORE_ATTENTION, BEFORE_MLP, Shape, activation_of, shape_of
from .linear import DTYPES, ROWS_AT_ONCE, RowwiseLinear
from .norm import RowwiseNorm, rms_norm

LINE = 17  # numbers: a kernel's address, and its arguments
PER_ROW = -1  # in the place of S; -n: of n S
# Arguments that change with each call, by their places in a line.
COSINES, NEW, NEW_HEADS = slice(4, 6), slice(6, 8), slice(11, 12)  # of the rotary kernel
SEEN, FIRSTS, SCRATCH, POSITIONS, SEEN_HEADS = (
    slice(2, 4),
    slice(5, 6),
    6,
    slice(8, 9),
    slice(13, 16, 2),
)  # of attention


class Told(NamedTuple):
    """What a family tells a layer's attention, and this the function that it calls."""

    scale: float
    cap: float
    tables: torch.dtype  # of the rotary embedding


class Fused:
    """Layers of the usual form, as a table of kernels and their arguments. ROWS_AT_ONCE rows at the most."""

    def __init__(self, layers: Iterable[nn.Module], told: Sequence[Told], dtype: torch.dtype):
        self.dtype, self.kind = dtype, DTYPES[dtype]
        self.modules = [
            module for layer in layers for module in layer.modules()
        ]  # whose memory the table tells of
        shapes = [shape for layer in layers if (shape := shape_of(layer))]
        sizes = [self.room_bytes(layer, shape) for layer, shape in zip(layers, shapes, strict=True)]
        # Memory for each result on the way, which the layers share.
        self.rooms = {
            name: torch.zeros(max(size[name] for size in sizes), dtype=torch.uint8) for name in sizes[0]
        }
        self.hidden = self.rooms["hidden"].view(dtype).view(ROWS_AT_ONCE, -1)
        self.scratch = torch.empty(0, dtype=torch.uint8)  # of attention
        self.like = [(torch.empty(1, shape.key_heads, 0, shape.width, dtype=dtype),) * 2 for shape in shapes]
        self.lines: list[list[int]] = []
        self.rotary: list[int] = []  # lines of its kernel, a layer's each
        self.attention: list[int] = []
        for layer, shape, its in zip(layers, shapes, told, strict=True):
            self.write(layer, shape, its)
        self.table = np.array([line + [0] * (LINE - len(line)) for line in self.lines], np.int64)
        self.per_row = np.nonzero(self.table < 0)
        self.each_row = -self.table[self.per_row]

    def room_bytes(self, layer: nn.Module, shape: Shape) -> dict[str, int]:
        asked, kept = shape.heads * shape.width, shape.key_heads * shape.width
        widths = {"hidden": shape.hidden, "x": shape.hidden, "q": asked, "k": kept, "v": kept, "seen": asked, "gate": shape.gate, "up": shape.gate}  # fmt: skip
        scratch = max(module.scratch_bytes for module in layer.modules() if isinstance(module, RowwiseLinear))
        row_bytes = {name: width * self.dtype.itemsize for name, width in widths.items()} | {
            "scratch": scratch
        }
        return {name: ROWS_AT_ONCE * size for name, size in row_bytes.items()}

    def write(self, layer: Any, shape: Shape, told: Told) -> None:
        """A layer's lines."""
        norms = {name: module for name, module in layer.named_children() if isinstance(module, RowwiseNorm)}
        its, mlp, hidden, width = layer.self_attn, layer.mlp, shape.hidden, shape.width
        after, before = AFTER_ATTENTION, BEFORE_MLP
        if not norms.keys() & {BEFORE_MLP, AFTER_MLP}:  # Llama's, of that name, comes before the MLP
            after, before = "", AFTER_ATTENTION

        x = self.norm(norms.get(BEFORE_ATTENTION), "hidden", "x", hidden)
        self.linear(its.q_proj, x, "q")
        self.linear(its.k_proj, x, "k")
        self.linear(its.v_proj, x, "v")
        self.norm(getattr(its, "q_norm", None), "q", "q", shape.heads * width)
        self.norm(getattr(its, "k_norm", None), "k", "k", shape.key_heads * width)
        self.rotary.append(len(self.lines))
        rotary = fused_kernels.rotary(self.kind, DTYPES[told.tables], width)
        self.line(rotary, "q", "k", "v", 0, 0, 0, 0, PER_ROW, shape.heads, shape.key_heads, 0)
        self.attention.append(len(self.lines))
        kernel = attention(self.kind, width, width, told.scale, told.cap)
        size = width * self.dtype.itemsize
        self.line(kernel, "q", 0, 0, "seen", 0, 0, PER_ROW, 0, shape.heads, shape.heads // shape.key_heads, size, shape.heads * size, 0, size, 0, size)  # fmt: skip
        self.linear(its.o_proj, "seen", "x")
        self.norm(norms.get(after), "x", "x", hidden)
        self.line(fused_kernels.add(self.kind), "x", "hidden", "hidden", PER_ROW * hidden)

        x = self.norm(norms.get(before), "hidden", "x", hidden)
        self.linear(mlp.gate_proj, x, "gate")
        self.linear(mlp.up_proj, x, "up")
        self.line(
            fused_kernels.gate(self.kind, activation_of(layer)), "gate", "up", "up", PER_ROW * shape.gate
        )
        self.linear(mlp.down_proj, "up", "x")
        self.norm(norms.get(AFTER_MLP), "x", "x", hidden)
        self.line(fused_kernels.add(self.kind), "x", "hidden", "hidden", PER_ROW * hidden)

    def line(self, kernel: Any, *arguments: str | int) -> None:
        """Rooms by their names."""
        numbers = [self.room(each) if isinstance(each, str) else each for each in arguments]
        self.lines.append([kernel.address, *numbers])

    def room(self, name: str) -> int:
        return self.rooms[name].data_ptr()

    def norm(self, module: RowwiseNorm | None, source: str, target: str, width: int) -> str:
        """-> where the result is."""
        if module is None:
            return source
        columns = len(module.gains)
        kernel = rms_norm(self.kind, module.epsilon)
        self.line(kernel, source, module.gains.data_ptr(), target, PER_ROW * (width // columns), columns)
        return target

    def linear(self, module: RowwiseLinear, source: str, target: str) -> None:
        arguments = module.arguments(self.room(source), self.room("scratch"), self.room(target), PER_ROW)
        self.line(module.kernel(self.kind), *arguments)

    def turn_page(self, page: Sequence[dict[str, Any]]) -> None:
        """Each layer's arguments for the positions from now on: of these, its cosines and sines [1, R, width]."""
        self.page = [arguments["position_embeddings"] for arguments in page]
        self.tables = np.array([[table.data_ptr() for table in pair] for pair in self.page])
        self.row_bytes = np.array([[pair[0][0, 0].nbytes] for pair in self.page])

    def run(self, h: Tensor, row: int, start: int, caches: Sequence[Any]) -> Tensor:
        """[1, S, D], at positions from `start` on, the first of which is the page's `row` -> [1, S, D], which the next call overwrites.

        `caches`: a cache.GrowingLayer for each layer.
        """
        count, threads = h.shape[1], torch.get_num_threads()
        self.hidden[:count] = h[0]
        firsts: dict[int, Tensor] = {}  # window -> what each row sees first
        places = []
        for like, cached in zip(self.like, caches, strict=True):
            window = getattr(cached, "sliding_window", 0)
            if window not in firsts:
                firsts[window] = first_seen(start, count, window)
            first = cached.reserve(count, like)
            keys, values = (buffer.data_ptr() for buffer in cached.buffers)
            head_bytes, row_bytes = (cached.buffers[0].stride(axis) * h.itemsize for axis in (1, 2))
            new, seen = (cached.end - count) * row_bytes, first * row_bytes
            positions = cached.end - first
            places.append(
                (
                    keys + new,
                    values + new,
                    keys + seen,
                    values + seen,
                    head_bytes,
                    positions,
                    firsts[window].data_ptr(),
                )
            )
        new, seen, head_bytes, positions, its_firsts = np.split(np.array(places), [2, 4, 5, 6], axis=1)
        needed = scratch_bytes(int(positions.max()), threads)
        if len(self.scratch) < needed:
            self.scratch = torch.empty(2 * needed, dtype=torch.uint8)
        table, rotary, attention = self.table, self.rotary, self.attention
        table[self.per_row] = self.each_row * count
        table[rotary, COSINES] = self.tables + row * self.row_bytes
        table[rotary, NEW], table[rotary, NEW_HEADS] = new, head_bytes
        table[attention, SEEN], table[attention, SEEN_HEADS] = seen, head_bytes
        table[attention, FIRSTS], table[attention, POSITIONS] = its_firsts, positions
        table[attention, SCRATCH] = self.scratch.data_ptr()
        fused_kernels.sequence()((table.ctypes.data, len(table), table.strides[0]), threads)
        return self.hidden[None, :count]


def first_seen(start: int, count: int, window: int) -> Tensor:
    """Of rows from `start` on: the first that each sees of those that the cache keeps."""
    if not window:
        return torch.zeros(count, dtype=torch.int64)
    kept = min(start, window - 1)
    return (torch.arange(count) + kept - (window - 1)).clamp_(0)
