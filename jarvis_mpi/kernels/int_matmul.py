"""y = x W^T + b with weights of 8 or 4 bits, multiplied as integers: see float_matmul.py for what all products share."""

from collections.abc import Iterator, Sequence
from typing import Any

from . import cpu
from .builder import BYTE, FLOAT, INT16, INT32, INT64, LANES, VOID, Code, Value, beside, vector
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
SCALES_AHEAD_BYTES = {8: 768, 4: 1024}  # AVX512 alone
LARGEST = {
    8: 32767,
    4: 127,
}  # that a number of x is rounded to: 16 bits beside weights of 8, 8 bits beside weights of 4


def block_scratch_bytes(columns: int) -> int:
    """For a row of x, at the most."""
    return 2 * columns + 8 * columns // min(BLOCK.values())


@kernel
def block_product(bits: int, ahead_bytes: int, dtype: str) -> Code:
    """W and its scales are laid out as nn/quantisation.py says: a lane for each output. N is a multiple of LANES, K of its BLOCK.

    `ahead_bytes`: how long before they are needed weights are asked for.

    x = scale * number, too, where each block has its scale. A sum of 64 products has no more than 29 bits; with weights of 4 bits, of 32, 17.
    """
    code = Code(9)
    x, numbers, weights, scales, bias, y, rows, outputs, columns = code.arguments
    nought = code.constant(INT64, 0)
    size = BLOCK[bits]
    blocks = columns // size
    x_bytes, together = (2, 2) if bits == 8 else (1, 4)  # columns that are multiplied in a lane at once
    x_kind = INT16 if bits == 8 else BYTE
    x_scales = numbers + rows * columns * x_bytes
    x_sums = x_scales + rows * blocks * 4
    group_bytes = size * LANES * bits // 8  # of a block of LANES outputs
    sides = cpu.INSTRUCTIONS.sides  # groups whose sums share a register
    scale_bytes = LANES * (2 if bits == 8 else 4)

    begin, end = share(code, rows)
    with code.loop(begin, end, 1) as row, code.loop(nought, blocks, 1) as block:
        here = (row.now * blocks + block.now) * size
        parts = [loaded(code, dtype, x + (here + at) * BYTES[dtype]) for at in range(0, size, LANES)]
        there = place(code, row.now, rows, block.now, blocks)
        scale, whole = rounded(code, parts, LARGEST[bits])
        for at, part in enumerate(whole):
            small = part.to(vector(x_kind), "trunc")
            code.store(small, numbers + (there * size + at * LANES) * x_bytes)
        code.store(scale, x_scales + there * 4)
        if bits == 4:
            total = code.call(
                f"llvm.vector.reduce.add.v{LANES}i32", sum(whole[1:], start=whole[0]), gives=INT32
            )
            code.store(scale * total.to(FLOAT, "sitofp"), x_sums + there * 4)
    code.call("GOMP_barrier", gives=VOID)

    def weights_at(addresses: list[Value], steps: int) -> Iterator[Value]:
        """Those of so many columns `together`, a block's one after the other, for each of LANES outputs of each group; `steps` beside each other."""
        step_bytes = LANES * together * steps
        for at in range(0, group_bytes, step_bytes):
            some = beside([code.load(address + at, vector(BYTE, step_bytes)) for address in addresses])
            if bits == 8:
                yield some.to(some.shaped(x_kind), "sext")
            else:
                yield some & 15
                yield some >> 4

    def tile(group: Value, groups_here: int, row: Value, rows_here: int) -> None:
        lanes = LANES * groups_here
        # A register that one group does not fill takes two steps: with 4 bits more trouble than it is worth.
        steps = sides // groups_here if bits == 8 else 1

        def in_all_lanes(address: Value) -> Value:
            return code.load(address, FLOAT).in_all_lanes(lanes)

        sums = [code.constant(vector(FLOAT, lanes), 0.0)] * rows_here
        with code.loop(nought, blocks, 1, *sums) as along:
            here = [(group + n) * blocks + along.now for n in range(groups_here)]
            there = [place_in_tile(row, s, rows_here, along.now, blocks) for s in range(rows_here)]
            if rows_here < TILE_ROWS:
                for each in here:
                    for at in range(0, group_bytes, LINE_BYTES):
                        code.prefetch(weights + each * group_bytes + (at + ahead_bytes))
                    if sides > 1:
                        code.prefetch(scales + each * scale_bytes + SCALES_AHEAD_BYTES[bits])
            products: list[Any] = [None] * rows_here
            for at, w in enumerate(weights_at([weights + each * group_bytes for each in here], steps)):
                for s in range(rows_here):
                    first = numbers + (there[s] * size + at * together * steps) * x_bytes
                    few = [code.load(first + n * (together * x_bytes), INT32) for n in range(steps)]
                    few_each = beside([each.in_all_lanes(lanes) for each in few]).to(w.kind, "bitcast")
                    products[s] = code.add_products(products[s], w, few_each)
            scale = loaded(code, "BF16", *(scales + each * scale_bytes for each in here))
            for s in range(rows_here):
                both = scale * in_all_lanes(x_scales + there[s] * 4)
                of_steps = [code.lane_sums(part, lanes) for part in products[s].parts(steps)]
                whole = sum(of_steps[1:], start=of_steps[0]).to(scale.kind, "sitofp")
                along.values[s] = code.multiply_add(whole, both, along.values[s])
            if bits == 4:
                least = loaded(code, "BF16", *(scales + each * scale_bytes + 2 * LANES for each in here))
                for s in range(rows_here):
                    x_sum = in_all_lanes(x_sums + there[s] * 4)
                    along.values[s] = code.multiply_add(least, x_sum, along.values[s])
        for s, total in enumerate(along.results):
            there_too = code.load(bias + group * (LANES * 4), vector(FLOAT, lanes))
            store(code, dtype, total + there_too, y + ((row + s) * outputs + group * LANES) * BYTES[dtype])

    def all_rows(group: Value, groups_here: int, heights: Sequence[int]) -> None:
        for height, row in tiles(code, rows, heights):
            tile(group, groups_here, row, height)

    groups = outputs // LANES
    if sides > 1:  # a few rows read the weights as they lie: one group after the other was faster by a fifth
        many = code.call("llvm.smin.i64", rows // TILE_ROWS, code.constant(INT64, 1))
        begin, end = share(code, groups)
        with code.loop(begin + (end - begin) * many, end, 1) as group:
            all_rows(group.now, 1, HEIGHTS[1:])
        with loop_of_the_last(code, groups - groups % sides * many, groups) as group:
            all_rows(group.now, 1, HEIGHTS)
        groups *= many  # none are left of a few rows
    begin, end = share(code, groups // sides)
    with code.loop(begin, end, 1) as each:
        all_rows(each.now * sides, sides, HEIGHTS)
    return code


def rounded(code: Code, parts: list[Value], limit: int) -> tuple[Value, list[Value]]:
    """A block of float32 -> its scale, its numbers as 32-bit integers, none larger than `limit`."""
    most = code.constant(FLOATS, 1e-30)  # so that a block of noughts has a scale too
    for part in parts:
        most = code.lanewise("maxnum", most, code.lanewise("fabs", part))
    largest = code.call(f"llvm.vector.reduce.fmax.v{LANES}f32", most, gives=FLOAT)
    steps = code.constant(FLOAT, limit)
    a_step = (steps / largest).in_all_lanes()
    near = [code.lanewise("rint", part * a_step) for part in parts]
    return largest / steps, [each.to(vector(INT32), "fptosi") for each in near]
