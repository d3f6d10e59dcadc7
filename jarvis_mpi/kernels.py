"""y = x W^T for a few rows x and many weights: read the weights once, at the memory's speed.

A single token's step reads all weights for one row, so that its time is that of reading them. What a row gives does not depend
on what other rows there are, bit for bit: the same sums in the same order, whether one row comes or hundreds.

- `float_product`: each sum has 8 lanes, of the columns 0, 8, 16 ... to 7, 15, 23 ..., that are added at the end.
- `block_product`: blocks of BLOCK numbers are multiplied as integers, which is exact, then scaled and added in float32.
"""

import functools
from collections.abc import Iterator

from .vectors import BYTE, FLOAT, HALF, INT16, INT32, INT64, LANES, Code, Compiled, Value, vector

BLOCK = 32  # numbers of a row that share a scale
TILE_ROWS = 4  # rows of x that are multiplied together, so that weights in registers serve all of them
LINE_BYTES, AHEAD_BYTES = 64, 2048  # weights are asked for before they are needed
LARGEST = 32767  # of a 16-bit integer
FLOATS = vector(FLOAT)


def share(code: Code, count: Value) -> tuple[Value, Value]:
    """This thread's part of so many."""
    whole = code.call("omp_get_num_threads", gives=INT32).to(INT64, "zext")
    mine = code.call("omp_get_thread_num", gives=INT32).to(INT64, "zext")
    return count * mine / whole, count * (mine + 1) / whole


def bfloat16_as_floats(numbers: Value) -> Value:
    return (numbers.to(vector(INT32), "zext") << 16).to(FLOATS, "bitcast")


def weights_as_floats(code: Code, stored: str, address: Value) -> Value:
    if stored == "F32":
        return code.load(address, FLOATS)
    if stored == "F16":
        return code.load(address, vector(HALF)).to(FLOATS, "fpext")
    return bfloat16_as_floats(code.load(address, vector(INT16)))


@functools.cache
def float_product(stored: str) -> Compiled:
    """Arguments: addresses of x [S, K] in float32, of W [N, K] as `stored` (F32, F16, BF16), of y [S, N] in float32; S, N, K. K is a
    multiple of LANES."""
    code = Code(6)
    x, weights, y, rows, outputs, columns = code.arguments
    weight_bytes = 4 if stored == "F32" else 2
    nought, one = code.constant(INT64, 0), code.constant(INT64, 1)

    def tile(output: Value, outputs_here: int, row: Value, rows_here: int) -> None:
        sums = [code.constant(FLOATS, 0.0)] * (outputs_here * rows_here)
        with code.loop(nought, columns, LANES, *sums) as along:
            w = [
                weights_as_floats(code, stored, weights + ((output + n) * columns + along.at) * weight_bytes)
                for n in range(outputs_here)
            ]
            for s in range(rows_here):
                numbers = code.load(x + ((row + s) * columns + along.at) * 4, FLOATS)
                for n in range(outputs_here):
                    at = s * outputs_here + n
                    along.values[at] = code.multiply_add(w[n], numbers, along.values[at])
        for at, lanes in enumerate(along.results):
            s, n = divmod(at, outputs_here)
            code.store(lanes.sum_of_lanes(), y + ((row + s) * outputs + output + n) * 4)

    def strip(output: Value, tiles: tuple[int, ...], single_tile: int) -> None:
        """All rows times a few outputs, which stay in the processor's cache meanwhile."""
        in_tiles = rows - rows % TILE_ROWS
        with code.loop(nought, in_tiles, TILE_ROWS) as row:
            for first, count in zip((sum(tiles[:at]) for at in range(len(tiles))), tiles, strict=True):
                tile(output + first, count, row.at, TILE_ROWS)
        with code.loop(in_tiles, rows, 1) as row:
            for first in range(0, sum(tiles), single_tile):
                tile(output + first, single_tile, row.at, 1)

    # 12 sums, 3 outputs' weights and a row's numbers fill AVX2's registers. A single row reads 8 outputs' weights side by side.
    begin, end = share(code, outputs / 8)
    with code.loop(begin, end, 1) as eight:
        strip(eight.at * 8, (3, 3, 2), 8)
    _, end = share(code, one)  # the last of the threads does what is left
    left = outputs % 8
    with code.loop(outputs - left, outputs - left + left * end, 1) as output:
        strip(output.at, (1,), 1)
    return code.compiled()


@functools.cache
def block_product(bits: int) -> Compiled:
    """Arguments: addresses of what `rounding` made of x [S, K]: numbers, scales, sums; of W [N, K]: numbers, scales; of y [S, N] in
    float32; S, N, K. N is a multiple of LANES, K of BLOCK. W is laid out as quantised.py says: a lane for each output.

    A sum of 32 products of 16 and 8 bits has no more than 28 bits.
    """
    code = Code(9)
    x, x_scales, x_sums, weights, scales, y, rows, outputs, columns = code.arguments
    blocks = columns / BLOCK
    nought = code.constant(INT64, 0)
    group_bytes, scale_bytes = (
        BLOCK * LANES * bits // 8,
        LANES * (2 if bits == 8 else 4),
    )  # of a block of LANES outputs

    def pairs_of_weights(address: Value) -> Iterator[Value]:
        """BLOCK / 2 times two columns' weights for each of LANES outputs."""
        if bits == 8:
            for at in range(0, group_bytes, 2 * LANES):
                yield code.load(address + at, vector(BYTE, 2 * LANES)).to(vector(INT16, 2 * LANES), "sext")
        else:
            for at in range(0, group_bytes, 4 * LANES):
                four = code.load(address + at, vector(INT16, 2 * LANES))
                yield four & 15
                yield (four >> 4) & 15
                yield (four >> 8) & 15
                yield four >> 12

    def in_all_lanes(address: Value) -> Value:
        return code.load(address, FLOAT).in_all_lanes()

    def tile(group: Value, row: Value, rows_here: int) -> None:
        sums = [code.constant(FLOATS, 0.0)] * rows_here
        with code.loop(nought, blocks, 1, *sums) as along:
            here = group * blocks + along.at
            there = [(row + s) * blocks + along.at for s in range(rows_here)]
            if rows_here == 1:
                for at in range(0, group_bytes, LINE_BYTES):
                    code.prefetch(weights + here * group_bytes + (at + AHEAD_BYTES))
            products = [code.constant(vector(INT32), 0)] * rows_here
            for at, w in enumerate(pairs_of_weights(weights + here * group_bytes)):
                for s in range(rows_here):
                    pair = code.load(x + there[s] * (2 * BLOCK) + 4 * at, INT32).in_all_lanes()
                    products[s] += code.pair_sums(w, pair.to(vector(INT16, 2 * LANES), "bitcast"))
            scale = bfloat16_as_floats(code.load(scales + here * scale_bytes, vector(INT16)))
            for s in range(rows_here):
                both = scale * in_all_lanes(x_scales + there[s] * 4)
                along.values[s] = code.multiply_add(products[s].to(FLOATS, "sitofp"), both, along.values[s])
            if bits == 4:
                least = bfloat16_as_floats(code.load(scales + here * scale_bytes + 2 * LANES, vector(INT16)))
                for s in range(rows_here):
                    x_sum = in_all_lanes(x_sums + there[s] * 4)
                    along.values[s] = code.multiply_add(least, x_sum, along.values[s])
        for s, lanes in enumerate(along.results):
            code.store(lanes, y + ((row + s) * outputs + group * LANES) * 4)

    begin, end = share(code, outputs / LANES)
    with code.loop(begin, end, 1) as group:
        in_tiles = rows - rows % TILE_ROWS
        with code.loop(nought, in_tiles, TILE_ROWS) as row:
            tile(group.at, row.at, TILE_ROWS)
        with code.loop(in_tiles, rows, 1) as row:
            tile(group.at, row.at, 1)
    return code.compiled()


@functools.cache
def rounding() -> Compiled:
    """Blocks of float32 as 16-bit integers, a scale for each: x = scale * number. Arguments: addresses of x [B * BLOCK], of the
    numbers (int16), of the scales and of scale * sum of the numbers (float32, [B]); B."""
    code = Code(5)
    x, numbers, scales, sums, blocks = code.arguments
    begin, end = share(code, blocks)
    with code.loop(begin, end, 1) as block:
        parts = [code.load(x + block.at * (4 * BLOCK) + 4 * at, FLOATS) for at in range(0, BLOCK, LANES)]
        most = code.constant(FLOATS, 1e-30)  # so that a block of noughts has a scale too
        for part in parts:
            most = code.call(f"llvm.maxnum.v{LANES}f32", most, code.call(f"llvm.fabs.v{LANES}f32", part))
        largest = code.call(f"llvm.vector.reduce.fmax.v{LANES}f32", most, gives=FLOAT)
        steps = code.constant(FLOAT, LARGEST)
        total = code.constant(vector(INT32), 0)
        for at, part in enumerate(parts):
            near = code.call(f"llvm.rint.v{LANES}f32", part * (steps / largest).in_all_lanes())
            whole = near.to(vector(INT32), "fptosi")
            total += whole
            code.store(whole.to(vector(INT16), "trunc"), numbers + (block.at * BLOCK + at * LANES) * 2)
        scale = largest / steps
        whole = code.call(f"llvm.vector.reduce.add.v{LANES}i32", total, gives=INT32)
        code.store(scale, scales + block.at * 4)
        code.store(scale * whole.to(FLOAT, "sitofp"), sums + block.at * 4)
    return code.compiled()
