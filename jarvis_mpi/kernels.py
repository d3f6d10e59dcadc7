"""y = x W^T + b for a few rows x and many weights: the weights are read once, at the memory's speed.

A single token's step reads all weights for one row, so that its time is that of reading them. What a row gives does not depend
on what other rows there are, bit for bit: the same sums in the same order, whether one row comes or hundreds.

- `float_product`: each sum has LANES parts, of the columns 0, 8, 16 ... to 7, 15, 23 ..., that are added at the end.
- `block_product`: BLOCK numbers are multiplied as integers, which is exact, then scaled and added in float32.

Both take the addresses of x [S, K], of scratch memory, of W, of its scales, of b [N] in float32 and of y [S, N], then S, N and K. Numbers of
x and y are of the kind `dtype`: F32, F16 or BF16, as safetensors calls them.
"""

import functools
from collections.abc import Iterator
from typing import Any

from .vectors import BYTE, FLOAT, HALF, INT16, INT32, INT64, LANES, VOID, Code, Compiled, Value, vector

BLOCK = 32  # numbers of a row that share a scale
TILE_ROWS = 4  # rows of x that are multiplied together, so that weights in registers serve all of them
STRIP = 24  # outputs
LINE_BYTES, AHEAD_BYTES = 64, 2048  # weights are asked for before they are needed
LARGEST = {
    8: 32767,
    4: 127,
}  # that a number of x is rounded to: 16 bits beside weights of 8, 8 bits beside weights of 4
BYTES = {"F32": 4, "F16": 2, "BF16": 2}
FLOATS = vector(FLOAT)


def float_scratch_bytes(columns: int) -> int:
    """For a row of x."""
    return 4 * columns


def block_scratch_bytes(columns: int) -> int:
    """For a row of x, at the most."""
    return 2 * columns + 8 * columns // BLOCK


@functools.cache
def float_product(stored: str, short: bool, dtype: str) -> Compiled:
    """W [N, K] as `stored`; K is a multiple of LANES. There are no scales.

    `short`: W's rows are so short that the processor does not foresee what is read of them (by itself it does, where it has seen a
    few of their lines), and is told.
    """
    code = Code(9)
    x, floats, weights, _, bias, y, rows, outputs, columns = code.arguments
    nought = code.constant(INT64, 0)

    begin, end = share(code, rows)
    with code.loop(begin, end, 1) as row, code.loop(nought, columns, LANES) as along:
        numbers = loaded(code, dtype, x + (row.now * columns + along.now) * BYTES[dtype])
        there = place(code, row.now, rows, along.now // LANES, columns // LANES)
        code.store(numbers, floats + there * (4 * LANES))
    code.call("GOMP_barrier", gives=VOID)

    def tile(output: Value, outputs_here: int, row: Value, rows_here: int) -> None:
        sums = [code.constant(FLOATS, 0.0)] * (outputs_here * rows_here)
        next_tile = weights + (output + outputs_here) * columns * BYTES[stored]
        step_bytes = LANES * outputs_here * BYTES[stored]
        with code.loop(nought, columns, LANES, *sums) as along:
            if short and rows_here == 1:
                for at in range(0, step_bytes, LINE_BYTES):
                    code.prefetch(next_tile + along.now * (step_bytes // LANES) + at)
            w = [
                loaded(code, stored, weights + ((output + n) * columns + along.now) * BYTES[stored])
                for n in range(outputs_here)
            ]
            for s in range(rows_here):
                numbers = code.load(floats + (row * columns + along.now * rows_here + s * LANES) * 4, FLOATS)
                for n in range(outputs_here):
                    at = s * outputs_here + n
                    along.values[at] = code.multiply_add(w[n], numbers, along.values[at])
        for at, lanes in enumerate(along.results):
            s, n = divmod(at, outputs_here)
            total = lanes.sum_of_lanes() + code.load(bias + (output + n) * 4, FLOAT)
            store(code, dtype, total, y + ((row + s) * outputs + output + n) * BYTES[dtype])

    in_tiles = rows - rows % TILE_ROWS

    def strip(output: Value, count: int, outputs_together: int, outputs_of_one: int) -> None:
        """All rows times so many outputs, whose weights stay in the processor's cache meanwhile."""
        every = code.constant(INT64, count)
        with code.loop(nought, in_tiles, TILE_ROWS) as row, code.loop(nought, every, outputs_together) as n:
            tile(output + n.now, outputs_together, row.now, TILE_ROWS)
        with code.loop(in_tiles, rows, 1) as row, code.loop(nought, every, outputs_of_one) as n:
            tile(output + n.now, outputs_of_one, row.now, 1)

    # 12 sums, 3 outputs' weights and a row's numbers fill AVX2's registers. A single row reads 8 outputs' weights side by side.
    begin, end = share(code, outputs // STRIP)
    with code.loop(begin, end, 1) as each:
        strip(each.now * STRIP, STRIP, 3, 8)
    _, end = share(code, code.constant(INT64, 1))  # the last of the threads does what is left
    left = outputs % STRIP
    with code.loop(outputs - left, outputs - left + left * end, 1) as output:
        strip(output.now, 1, 1, 1)
    return code.compiled()


@functools.cache
def block_product(bits: int, dtype: str) -> Compiled:
    """W and its scales are laid out as quantised.py says: a lane for each output. N is a multiple of LANES, K of BLOCK.

    x = scale * number, too, where each block has its scale. A sum of 32 products has no more than 28 bits, with weights of 4 bits 16.
    """
    code = Code(9)
    x, numbers, weights, scales, bias, y, rows, outputs, columns = code.arguments
    nought = code.constant(INT64, 0)
    blocks = columns // BLOCK
    x_bytes, together = (2, 2) if bits == 8 else (1, 4)  # columns that are multiplied in a lane at once
    x_kind = vector(INT16 if bits == 8 else BYTE, LANES * together)
    x_scales = numbers + rows * columns * x_bytes
    x_sums = x_scales + rows * blocks * 4
    group_bytes = BLOCK * LANES * bits // 8  # of a block of LANES outputs
    scale_bytes = LANES * (2 if bits == 8 else 4)

    begin, end = share(code, rows)
    with code.loop(begin, end, 1) as row, code.loop(nought, blocks, 1) as block:
        here = (row.now * blocks + block.now) * BLOCK
        parts = [loaded(code, dtype, x + (here + at) * BYTES[dtype]) for at in range(0, BLOCK, LANES)]
        there = place(code, row.now, rows, block.now, blocks)
        scale, whole = rounded(code, parts, LARGEST[bits])
        for at, part in enumerate(whole):
            small = part.to(vector(x_kind.element), "trunc")
            code.store(small, numbers + (there * BLOCK + at * LANES) * x_bytes)
        code.store(scale, x_scales + there * 4)
        total = code.call(f"llvm.vector.reduce.add.v{LANES}i32", sum(whole[1:], start=whole[0]), gives=INT32)
        code.store(scale * total.to(FLOAT, "sitofp"), x_sums + there * 4)
    code.call("GOMP_barrier", gives=VOID)

    def weights_at(address: Value) -> Iterator[Value]:
        """Those of so many columns `together`, a block's one after the other, for each of LANES outputs."""
        for at in range(0, group_bytes, LANES * together):
            some = code.load(address + at, vector(BYTE, LANES * together))
            if bits == 8:
                yield some.to(x_kind, "sext")
            else:
                yield some & 15
                yield some >> 4

    def in_all_lanes(address: Value) -> Value:
        return code.load(address, FLOAT).in_all_lanes()

    def tile(group: Value, row: Value, rows_here: int) -> None:
        sums = [code.constant(FLOATS, 0.0)] * rows_here
        with code.loop(nought, blocks, 1, *sums) as along:
            here = group * blocks + along.now
            there = [row * blocks + along.now * rows_here + s for s in range(rows_here)]
            if rows_here == 1:
                for at in range(0, group_bytes, LINE_BYTES):
                    code.prefetch(weights + here * group_bytes + (at + AHEAD_BYTES))
            products: list[Any] = [None] * rows_here
            for at, w in enumerate(weights_at(weights + here * group_bytes)):
                for s in range(rows_here):
                    few = code.load(numbers + (there[s] * BLOCK + at * together) * x_bytes, INT32)
                    products[s] = code.add_products(products[s], w, few.in_all_lanes().to(x_kind, "bitcast"))
            scale = loaded(code, "BF16", scales + here * scale_bytes)
            for s in range(rows_here):
                both = scale * in_all_lanes(x_scales + there[s] * 4)
                whole = code.lane_sums(products[s])
                along.values[s] = code.multiply_add(whole.to(FLOATS, "sitofp"), both, along.values[s])
            if bits == 4:
                least = loaded(code, "BF16", scales + here * scale_bytes + 2 * LANES)
                for s in range(rows_here):
                    x_sum = in_all_lanes(x_sums + there[s] * 4)
                    along.values[s] = code.multiply_add(least, x_sum, along.values[s])
        for s, lanes in enumerate(along.results):
            total = lanes + code.load(bias + group * (LANES * 4), FLOATS)
            store(code, dtype, total, y + ((row + s) * outputs + group * LANES) * BYTES[dtype])

    begin, end = share(code, outputs // LANES)
    with code.loop(begin, end, 1) as group:
        in_tiles = rows - rows % TILE_ROWS
        with code.loop(nought, in_tiles, TILE_ROWS) as row:
            tile(group.now, row.now, TILE_ROWS)
        with code.loop(in_tiles, rows, 1) as row:
            tile(group.now, row.now, 1)
    return code.compiled()


def this_thread(code: Code) -> Value:
    return code.call("omp_get_thread_num", gives=INT32).to(INT64, "zext")


def share(code: Code, count: Value) -> tuple[Value, Value]:
    """This thread's part of so many."""
    threads = code.call("omp_get_num_threads", gives=INT32).to(INT64, "zext")
    mine = this_thread(code)
    return count * mine // threads, count * (mine + 1) // threads


def place(code: Code, row: Value, rows: Value, part: Value, parts: Value) -> Value:
    """Where a part of a row of x lies in scratch memory: those of a tile's rows take turns, so that a tile is read from one end to the
    other (rows that are a power of two apart would fall on the same lines of the cache)."""
    in_tile = code.call("llvm.smin.i64", rows // TILE_ROWS - row // TILE_ROWS, code.constant(INT64, 1))
    height = in_tile * (TILE_ROWS - 1) + 1
    return (row - row % height) * parts + part * height + row % height


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


def loaded(code: Code, dtype: str, address: Value) -> Value:
    """LANES numbers, as float32."""
    if dtype == "F32":
        return code.load(address, FLOATS)
    if dtype == "F16":
        return code.load(address, vector(HALF)).to(FLOATS, "fpext")
    return (code.load(address, vector(INT16)).to(vector(INT32), "zext") << 16).to(FLOATS, "bitcast")


def store(code: Code, dtype: str, numbers: Value, address: Value) -> None:
    """float32, one or LANES, as `dtype`, rounded to nearest, ties to even."""
    like = numbers.shaped
    if dtype == "F32":
        code.store(numbers, address)
    elif dtype == "F16":
        code.store(numbers.to(like(HALF), "fptrunc"), address)
    else:
        bits = numbers.to(like(INT32), "bitcast")
        code.store(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(like(INT16), "trunc"), address)
