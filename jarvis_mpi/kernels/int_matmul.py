"""y = x W^T + b with weights of 8 or 4 bits, multiplied as integers; float_matmul.py says what all products
share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import cpu
from .builder import BYTE, FLOAT, INT16, INT32, INT64, LANES, VOID, Code, Value, beside, ir, vector
from .integer_products import add_products, lane_sums
from .jit import kernel
from .tiling import (
    BYTES,
    FLOATS,
    HEIGHTS,
    LINE_BYTES,
    TILE_ROWS,
    loaded,
    loop_of_the_last,
    place,
    place_in_tile,
    share,
    store,
    tiles,
)

BLOCK = {8: 64, 4: 32}  # bits of weights -> numbers of a row that share a scale


@dataclass(frozen=True)
class BlockLayout:
    """How x is stored beside weights of 8 or of 4 bits."""

    largest: int  # that a number of x is rounded to: 16 bits beside weights of 8, 8 bits beside weights of 4
    x_kind: ir.Type
    x_bytes: int
    columns_at_once: int  # that are multiplied in a lane
    scale_bytes: int  # of a block of LANES outputs: scales, and with 4 bits minima
    scales_ahead_bytes: int  # how far ahead scales are prefetched; AVX512 alone


LAYOUTS = {
    8: BlockLayout(32767, INT16, 2, 2, 2 * LANES, 768),
    4: BlockLayout(127, BYTE, 1, 4, 4 * LANES, 1024),
}


def block_scratch_bytes(columns: int) -> int:
    """Return the scratch memory for one row of x, at the most."""
    return 2 * columns + 8 * columns // min(BLOCK.values())


class Product:
    """A product that is being written: its arguments, and the places of the quantised x in scratch memory."""

    def __init__(self, code: Code, bits: int, ahead_bytes: int, dtype: str):
        self.code, self.bits, self.ahead_bytes, self.dtype = code, bits, ahead_bytes, dtype
        self.layout, self.block = LAYOUTS[bits], BLOCK[bits]
        (self.x, self.numbers, self.weights, self.scales, self.bias, self.y,
         self.rows, self.outputs, columns) = code.arguments  # fmt: skip
        self.zero = code.constant(INT64, 0)
        self.blocks = columns // self.block
        self.x_scales = self.numbers + self.rows * columns * self.layout.x_bytes
        self.x_sums = self.x_scales + self.rows * self.blocks * 4
        self.group_bytes = self.block * LANES * bits // 8  # of a block of LANES outputs


@kernel
def block_product(bits: int, ahead_bytes: int, dtype: str) -> Code:
    """Multiply by quantised weights, laid out as nn/quantisation.py says: a lane for each output.
    N is a multiple of LANES, K of its BLOCK.

    `ahead_bytes`: how far ahead weights are prefetched.

    x is quantised too: x = scale * number, with a scale for each block. A sum of 64 products has no more than
    29 bits; with weights of 4 bits, of 32, 17.
    """
    product = Product(Code(9), bits, ahead_bytes, dtype)
    quantise_rows(product)
    product.code.call("GOMP_barrier", gives=VOID)
    schedule(product)
    return product.code


def quantise_rows(product: Product) -> None:
    """Write x, block by block, as integers and a scale; beside weights of 4 bits, which have a minimum, also
    its sum."""
    code, layout, size, blocks = product.code, product.layout, product.block, product.blocks
    begin, end = share(code, product.rows)
    with code.loop(begin, end, 1) as row, code.loop(product.zero, blocks, 1) as block:
        here = (row.now * blocks + block.now) * size
        parts = [
            loaded(code, product.dtype, product.x + (here + at) * BYTES[product.dtype])
            for at in range(0, size, LANES)
        ]
        slot = place(code, row.now, product.rows, block.now, blocks)
        scale, whole = rounded(code, parts, layout.largest)
        for at, part in enumerate(whole):
            small = part.to(vector(layout.x_kind), "trunc")
            code.store(small, product.numbers + (slot * size + at * LANES) * layout.x_bytes)
        code.store(scale, product.x_scales + slot * 4)
        if product.bits == 4:
            total = code.call(
                f"llvm.vector.reduce.add.v{LANES}i32", sum(whole[1:], start=whole[0]), gives=INT32
            )
            code.store(scale * total.to(FLOAT, "sitofp"), product.x_sums + slot * 4)


def rounded(code: Code, parts: list[Value], limit: int) -> tuple[Value, list[Value]]:
    """Return the scale of a block of float32 and its numbers as 32-bit integers, none larger than `limit`."""
    most = code.constant(FLOATS, 1e-30)  # so that a block of zeros has a scale too
    for part in parts:
        most = code.lanewise("maxnum", most, code.lanewise("fabs", part))
    largest = code.call(f"llvm.vector.reduce.fmax.v{LANES}f32", most, gives=FLOAT)
    steps = code.constant(FLOAT, limit)
    a_step = (steps / largest).in_all_lanes()
    near = [code.lanewise("rint", part * a_step) for part in parts]
    return largest / steps, [each.to(vector(INT32), "fptosi") for each in near]


@dataclass(frozen=True)
class WeightStream:
    """The weights of a block, of one or more groups of LANES outputs, in the order in which they lie in
    memory."""

    product: Product
    blocks: Sequence[Value]  # of each group: the block's number
    steps_at_once: int  # side by side in a register

    def prefetch(self) -> None:
        """Prefetch later weights and their scales."""
        product, code = self.product, self.product.code
        for block in self.blocks:
            for at in range(0, product.group_bytes, LINE_BYTES):
                code.prefetch(product.weights + block * product.group_bytes + (at + product.ahead_bytes))
            if cpu.INSTRUCTIONS.sides > 1:
                code.prefetch(self.scales_of(block) + product.layout.scales_ahead_bytes)

    def steps(self) -> Iterator[Value]:
        """Yield the weights of `columns_at_once` columns after the other, for each output; `steps_at_once`
        side by side."""
        product, code = self.product, self.product.code
        addresses = [product.weights + block * product.group_bytes for block in self.blocks]
        step_bytes = LANES * product.layout.columns_at_once * self.steps_at_once
        for at in range(0, product.group_bytes, step_bytes):
            some = beside([code.load(address + at, vector(BYTE, step_bytes)) for address in addresses])
            if product.bits == 8:
                yield some.to(some.shaped(product.layout.x_kind), "sext")
            else:
                yield some & 15
                yield some >> 4

    def scales(self) -> Value:
        return loaded(self.product.code, "BF16", *map(self.scales_of, self.blocks))

    def minima(self) -> Value:
        return loaded(self.product.code, "BF16", *(self.scales_of(each) + 2 * LANES for each in self.blocks))

    def scales_of(self, block: Value) -> Value:
        return self.product.scales + block * self.product.layout.scale_bytes


def tile(product: Product, group: Value, groups_here: int, row: Value, rows_here: int) -> None:
    """Write y for some groups of LANES outputs and some rows of x."""
    code, lanes = product.code, LANES * groups_here
    # A register that one group does not fill takes two steps; with 4 bits that gains nothing.
    steps = cpu.INSTRUCTIONS.sides // groups_here if product.bits == 8 else 1

    def in_all_lanes(address: Value) -> Value:
        return code.load(address, FLOAT).in_all_lanes(lanes)

    sums = [code.constant(vector(FLOAT, lanes), 0.0)] * rows_here
    with code.loop(product.zero, product.blocks, 1, *sums) as along:
        here = [(group + n) * product.blocks + along.now for n in range(groups_here)]
        slots = [place_in_tile(row, s, rows_here, along.now, product.blocks) for s in range(rows_here)]
        stream = WeightStream(product, here, steps)
        if rows_here < TILE_ROWS:
            stream.prefetch()
        products = block_sums(stream, slots)
        scales = stream.scales()
        for s in range(rows_here):
            both = scales * in_all_lanes(product.x_scales + slots[s] * 4)
            of_steps = [lane_sums(part, lanes) for part in products[s].parts(steps)]
            whole = sum(of_steps[1:], start=of_steps[0]).to(scales.kind, "sitofp")
            along.values[s] = code.multiply_add(whole, both, along.values[s])
        if product.bits == 4:
            minima = stream.minima()
            for s in range(rows_here):
                x_sum = in_all_lanes(product.x_sums + slots[s] * 4)
                along.values[s] = code.multiply_add(minima, x_sum, along.values[s])
    for s, total in enumerate(along.results):
        outputs = total + code.load(product.bias + group * (LANES * 4), vector(FLOAT, lanes))
        place = (row + s) * product.outputs + group * LANES
        store(code, product.dtype, outputs, product.y + place * BYTES[product.dtype])


def block_sums(stream: WeightStream, x_blocks: Sequence[Value]) -> list[Value]:
    """Return for each row the products of its block and the weights, added up in part (`add_products`)."""
    product, layout = stream.product, stream.product.layout
    code, steps = product.code, stream.steps_at_once
    lanes = LANES * len(stream.blocks)
    totals: dict[int, Value] = {}
    for at, w in enumerate(stream.steps()):
        for s, block in enumerate(x_blocks):
            first = (
                product.numbers
                + (block * product.block + at * layout.columns_at_once * steps) * layout.x_bytes
            )
            few = [
                code.load(first + n * (layout.columns_at_once * layout.x_bytes), INT32) for n in range(steps)
            ]
            x = beside([each.in_all_lanes(lanes) for each in few]).to(w.kind, "bitcast")
            totals[s] = add_products(totals.get(s), w, x)
    return list(totals.values())


def schedule(product: Product) -> None:
    """Write the loops that give each thread its tiles, in order."""
    code, sides = product.code, cpu.INSTRUCTIONS.sides  # groups whose sums share a register

    def all_rows(group: Value, groups_here: int, heights: Sequence[int]) -> None:
        for height, row in tiles(code, product.rows, heights):
            tile(product, group, groups_here, row, height)

    groups = product.outputs // LANES
    if sides > 1:  # a few rows read the weights as they lie: one group after the other was faster by a fifth
        many = code.call("llvm.smin.i64", product.rows // TILE_ROWS, code.constant(INT64, 1))
        begin, end = share(code, groups)
        with code.loop(begin + (end - begin) * many, end, 1) as group:
            all_rows(group.now, 1, HEIGHTS[1:])
        with loop_of_the_last(code, groups - groups % sides * many, groups) as group:
            all_rows(group.now, 1, HEIGHTS)
        groups *= many  # none are left where rows are few
    begin, end = share(code, groups // sides)
    with code.loop(begin, end, 1) as each:
        all_rows(each.now * sides, sides, HEIGHTS)
