"""Run a block's layers in one call, where they are of the usual form (decoder_layer.py).

In Python a layer takes some 40 calls, and each finds the processor's caches swept by the weights: together
they took a fifth of a large layer's time, and most of a small one's. Here a table holds the kernels of all
layers, and machine code goes through it. The form is checked: model/fusion.py compares each layer with the
family's own forward.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..kernels import elementwise
from ..kernels.attention import attention, scratch_bytes
from ..kernels.rms_norm import rms_norm
from .decoder_layer import AFTER_ATTENTION, AFTER_MLP, BEFORE_ATTENTION, BEFORE_MLP, Shape
from .linear import DTYPES, ROWS_AT_ONCE, BatchInvariantLinear
from .norm import BatchInvariantNorm

LINE = 17  # numbers: a kernel's address, and its arguments
PER_ROW = -1  # in the place of S; -n: of n S
# Arguments that change with each call, by their places in a line.
COSINES, SINES, NEW_KEYS, NEW_VALUES, NEW_HEADS = 4, 5, 6, 7, 11  # of the rotary kernel
KEYS, VALUES, FIRSTS, SCRATCH, POSITIONS, KEY_HEADS, VALUE_HEADS = 2, 3, 5, 6, 8, 13, 15  # of attention


class LayerSpec(NamedTuple):
    """A layer's shape, the options of its attention and the dtype of its rotary tables."""

    shape: Shape
    scale: float
    cap: float
    tables: torch.dtype  # of the rotary embedding


class Place(NamedTuple):
    """Where the table holds the arguments of a layer that change with each call, and what they are computed
    from."""

    rotary: int
    attention: int
    row_bytes: int  # of a head's position in the cache
    like: tuple[Tensor, Tensor]  # keys and values of no position


class Fused:
    """Layers of the usual form as a table of kernels and their arguments.
    A call takes ROWS_AT_ONCE rows at the most."""

    def __init__(self, layers: Sequence[nn.Module], specs: Sequence[LayerSpec], dtype: torch.dtype):
        self.dtype, self.kind = dtype, DTYPES[dtype]
        # Held, because the table has addresses of their memory.
        self.modules = [module for layer in layers for module in layer.modules()]
        sizes = [self.room_bytes(layer, spec.shape) for layer, spec in zip(layers, specs, strict=True)]
        # Memory for each intermediate result; the layers share it.
        self.rooms = {
            name: torch.zeros(max(size[name] for size in sizes), dtype=torch.uint8) for name in sizes[0]
        }
        self.row_bytes = specs[0].shape.hidden * dtype.itemsize
        self.hidden = self.rooms["hidden"].numpy().data
        self.scratch = torch.empty(0, dtype=torch.uint8)  # of attention
        self.zero = torch.zeros(1, dtype=torch.int64)
        self.lines: list[list[int]] = []
        self.places = [self.write(*each) for each in zip(layers, specs, strict=True)]
        self.table = np.array([line + [0] * (LINE - len(line)) for line in self.lines], np.int64)
        self.address = self.table.ctypes.data
        self.numbers = self.table.data.cast("B").cast("q")
        self.per_row = np.nonzero(self.table < 0)
        self.each_row = -self.table[self.per_row]
        self.count = 0
        self.sequence = elementwise.sequence()
        self.page: list[Any] = []  # held, because `tables` has addresses of it
        self.tables: list[tuple[int, int, int]] = []  # of each layer: cosines, sines, and a row's bytes

    def room_bytes(self, layer: nn.Module, shape: Shape) -> dict[str, int]:
        query_width, key_width = shape.heads * shape.width, shape.key_heads * shape.width
        widths = {
            "hidden": shape.hidden, "x": shape.hidden, "q": query_width, "k": key_width, "v": key_width,
            "seen": query_width, "gate": shape.gate, "up": shape.gate,
        }  # fmt: skip
        scratch = max(
            module.scratch_bytes for module in layer.modules() if isinstance(module, BatchInvariantLinear)
        )
        row_bytes = {name: width * self.dtype.itemsize for name, width in widths.items()} | {
            "scratch": scratch
        }
        return {name: ROWS_AT_ONCE * size for name, size in row_bytes.items()}

    def write(self, layer: Any, spec: LayerSpec) -> Place:
        """Append a layer's lines to the table."""
        norms = {
            name: module for name, module in layer.named_children() if isinstance(module, BatchInvariantNorm)
        }
        self_attn, mlp, shape = layer.self_attn, layer.mlp, spec.shape
        hidden, width, head_bytes = shape.hidden, shape.width, shape.width * self.dtype.itemsize
        add = elementwise.add(self.kind), "x", "hidden", "hidden", PER_ROW * hidden
        after, before = AFTER_ATTENTION, BEFORE_MLP
        if not norms.keys() & {BEFORE_MLP, AFTER_MLP}:  # Llama's norm of that name comes before the MLP
            after, before = "", AFTER_ATTENTION

        x = self.norm(norms.get(BEFORE_ATTENTION), "hidden", "x", hidden)
        self.linear(self_attn.q_proj, x, "q")
        self.linear(self_attn.k_proj, x, "k")
        self.linear(self_attn.v_proj, x, "v")
        self.norm(getattr(self_attn, "q_norm", None), "q", "q", shape.heads * width)
        self.norm(getattr(self_attn, "k_norm", None), "k", "k", shape.key_heads * width)
        place = Place(
            len(self.lines) * LINE,
            (len(self.lines) + 1) * LINE,
            head_bytes,
            (torch.empty(1, shape.key_heads, 0, width, dtype=self.dtype),) * 2,
        )
        rotary = elementwise.rotary(self.kind, DTYPES[spec.tables], width)
        self.line(rotary, "q", "k", "v", 0, 0, 0, 0, PER_ROW, shape.heads, shape.key_heads, 0)
        kernel = attention(self.kind, width, width, spec.scale, spec.cap)
        self.line(kernel, "q", 0, 0, "seen", 0, 0, PER_ROW, 0, shape.heads, shape.heads // shape.key_heads,
                  head_bytes, shape.heads * head_bytes, 0, head_bytes, 0, head_bytes)  # fmt: skip
        self.linear(self_attn.o_proj, "seen", "x")
        self.norm(norms.get(after), "x", "x", hidden)
        self.line(*add)

        x = self.norm(norms.get(before), "hidden", "x", hidden)
        self.linear(mlp.gate_proj, x, "gate")
        self.linear(mlp.up_proj, x, "up")
        gate = elementwise.gate(self.kind, shape.activation)
        self.line(gate, "gate", "up", "up", PER_ROW * shape.gate)
        self.linear(mlp.down_proj, "up", "x")
        self.norm(norms.get(AFTER_MLP), "x", "x", hidden)
        self.line(*add)
        return place

    def line(self, kernel: Any, *arguments: str | int) -> None:
        """Append a line; a name stands for the address of the room of that name."""
        numbers = [self.room(each) if isinstance(each, str) else each for each in arguments]
        self.lines.append([kernel.address, *numbers])

    def room(self, name: str) -> int:
        return self.rooms[name].data_ptr()

    def norm(self, module: BatchInvariantNorm | None, source: str, target: str, width: int) -> str:
        """Append a norm, if there is one; return the name of the room with the result."""
        if module is None:
            return source
        columns = len(module.gains)
        kernel = rms_norm(self.kind, module.epsilon)
        self.line(kernel, source, module.gains.data_ptr(), target, PER_ROW * (width // columns), columns)
        return target

    def linear(self, module: BatchInvariantLinear, source: str, target: str) -> None:
        arguments = module.arguments(self.room(source), self.room("scratch"), self.room(target), PER_ROW)
        self.line(module.kernel(self.kind), *arguments)

    def rows_of(self, name: str, count: int) -> Tensor:
        """Return an intermediate result of the last layer, [count, width]."""
        return self.rooms[name].view(self.dtype).view(ROWS_AT_ONCE, -1)[:count]

    def turn_page(self, page: Sequence[dict[str, Any]]) -> None:
        """Set each layer's arguments for the coming positions: its cosines and sines [1, R, width] are
        used."""
        self.page = [arguments["position_embeddings"] for arguments in page]
        self.tables = [(*(table.data_ptr() for table in pair), pair[0][0, 0].nbytes) for pair in self.page]

    def run(self, body: bytes | memoryview, row: int, caches: Sequence[Any]) -> bytes:
        """Run S rows, the first of which is the page's `row` -> S rows.
        `caches`: a GrowingLayer for each layer.

        A single row makes few calls of torch and numpy: their code is no longer in the processor's caches
        either.
        """
        size, numbers = len(body), self.numbers
        count, rest = divmod(size, self.row_bytes)
        assert not rest, f"{size} bytes, {self.row_bytes} a row"
        assert 0 < count <= ROWS_AT_ONCE, count
        if count != self.count:
            self.table[self.per_row] = self.each_row * count
            self.count = count
        self.hidden[:size] = body
        firsts: dict[int, Tensor] = {}  # window -> what each row sees first
        most = 0
        for place, (cosines, sines, table_bytes), cached in zip(
            self.places, self.tables, caches, strict=True
        ):
            first, window = cached.reserve(count, place.like), getattr(cached, "sliding_window", 0)
            before = cached.end - count
            if window not in firsts:
                firsts[window] = self.zero if count == 1 else firsts_of(before - first, count, window)
            new, seen = before * place.row_bytes, first * place.row_bytes
            keys, values = cached.buffers[0].data_ptr(), cached.buffers[1].data_ptr()
            at = place.rotary
            numbers[at + COSINES] = cosines + row * table_bytes
            numbers[at + SINES] = sines + row * table_bytes
            numbers[at + NEW_KEYS], numbers[at + NEW_VALUES] = keys + new, values + new
            numbers[at + NEW_HEADS] = cached.head_bytes
            at = place.attention
            numbers[at + KEYS], numbers[at + VALUES] = keys + seen, values + seen
            numbers[at + FIRSTS], numbers[at + POSITIONS] = firsts[window].data_ptr(), cached.end - first
            numbers[at + KEY_HEADS] = numbers[at + VALUE_HEADS] = cached.head_bytes
            most = max(most, cached.end - first)
        threads = torch.get_num_threads()
        if scratch_bytes(most, threads) > len(self.scratch):
            scratch = torch.empty(2 * scratch_bytes(most, threads), dtype=torch.uint8)
            for place in self.places:
                numbers[place.attention + SCRATCH] = scratch.data_ptr()
            self.scratch = scratch
        self.sequence((self.address, len(self.table), self.table.strides[0]), threads)
        return bytes(self.hidden[:size])


def firsts_of(cached: int, count: int, window: int) -> Tensor:
    """Return the first position that each of `count` new rows sees, behind `cached` rows."""
    if not window:
        return torch.zeros(count, dtype=torch.int64)
    return (torch.arange(count) + cached - (window - 1)).clamp_(0)
