"""y = x W^T + b for a few rows x and many weights: the weights are read once, at the memory's speed.

A single token's step reads all weights for one row, so that its time is that of reading them. What a row gives does not depend
on what other rows there are, bit for bit: the same sums in the same order, whether one row comes or hundreds.

- `float_product`: each sum has LANES parts, of the columns 0, 8, 16 ... to 7, 15, 23 ..., that are added at the end.
- `block_product`: a BLOCK of numbers is multiplied as integers, which is exact, then scaled and added in float32.

Both take the addresses of x [S, K], of scratch memory, of W, of its scales, of b [N] in float32 and of y [S, N], then S, N and K. Numbers of
x and y are of the kind `dtype`: F32, F16 or BF16, as safetensors calls them.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from . import vectors
from .compiled import kernel
from .vectors import (
    BYTE,
    FLOAT,
    HALF,
    INT16,
    INT32,
    INT64,
    LANES,
    VOID,
    Code,
    Loop,
    Value,
    beside,
    vector,
)

BLOCK = {8: 64, 4: 32}  # bits of weights -> numbers of a row that share a scale
TILE_ROWS = 4  # rows of x that are multiplied together, so that weights in registers serve all of them
PAIR = 2  # so many, where fewer are left
HEIGHTS = (TILE_ROWS, PAIR, 1)
STRIP = 24  # outputs
LINE_BYTES = 64
SCALES_AHEAD_BYTES = {8: 768, 4: 1024}  # AVX512 alone
LARGEST = {
    8: 32767,
    4: 127,
}  # that a number of x is rounded to: 16 bits beside weights of 8, 8 bits beside weights of 4
BYTES = {"F32": 4, "F16": 2, "BF16": 2}
LOADED_AS = {"F32": FLOAT, "F16": HALF, "BF16": INT16}
FLOATS = vector(FLOAT)


def float_scratch_bytes(columns: int) -> int:
    """For a row of x."""
    return 4 * columns


def block_scratch_bytes(columns: int) -> int:
    """For a row of x, at the most."""
    return 2 * columns + 8 * columns // min(BLOCK.values())


@kernel
def float_product(stored: str, told: bool, dtype: str) -> Code:
    """W [N, K] as `stored`; K is a multiple of LANES. There are no scales.

    `told`: the processor is told what will be read of W.
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
        sides = vectors.INSTRUCTIONS.sides if outputs_here > 1 else 1  # outputs whose sums share a register
        sums = [code.constant(vector(FLOAT, LANES * sides), 0.0)] * (outputs_here // sides * rows_here)
        next_tile = weights + (output + outputs_here) * columns * BYTES[stored]
        step_bytes = LANES * outputs_here * BYTES[stored]
        with code.loop(nought, columns, LANES, *sums) as along:
            if told and rows_here < TILE_ROWS:
                for at in range(0, step_bytes, LINE_BYTES):
                    code.prefetch(next_tile + along.now * (step_bytes // LANES) + at)
            here = [
                weights + ((output + n) * columns + along.now) * BYTES[stored] for n in range(outputs_here)
            ]
            w = [loaded(code, stored, *here[n : n + sides]) for n in range(0, outputs_here, sides)]
            parts = columns // LANES
            for s in range(rows_here):
                there = place_in_tile(row, s, rows_here, along.now // LANES, parts)
                numbers = beside([code.load(floats + there * (4 * LANES), FLOATS)] * sides)
                for n, some in enumerate(w):
                    at = s * len(w) + n
                    along.values[at] = code.multiply_add(some, numbers, along.values[at])
        each_sum = [lanes for some in along.results for lanes in some.parts(sides)]
        for at, lanes in enumerate(each_sum):
            s, n = divmod(at, outputs_here)
            total = lanes.sum_of_lanes() + code.load(bias + (output + n) * 4, FLOAT)
            store(code, dtype, total, y + ((row + s) * outputs + output + n) * BYTES[dtype])

    def strip(output: Value, count: int, together: dict[int, int]) -> None:
        """All rows times so many outputs, whose weights stay in the processor's cache meanwhile. `together`: how many rows -> outputs."""
        every = code.constant(INT64, count)
        for height, row in tiles(code, rows, HEIGHTS):
            with code.loop(nought, every, together[height]) as n:
                tile(output + n.now, together[height], row, height)

    # 12 sums, 3 outputs' weights and a row's numbers fill AVX2's registers; AVX512's are twice as many, and twice as wide. A single row
    # reads 6 or 8 outputs' weights side by side.
    wide = vectors.INSTRUCTIONS.sides > 1
    together = {TILE_ROWS: 8, PAIR: 8, 1: 6} if wide else {TILE_ROWS: 3, PAIR: 4, 1: 8}
    begin, end = share(code, outputs // STRIP)
    with code.loop(begin, end, 1) as each:
        strip(each.now * STRIP, STRIP, together)
    with loop_of_the_last(code, outputs - outputs % STRIP, outputs) as output:
        strip(output.now, 1, dict.fromkeys(HEIGHTS, 1))
    return code


@kernel
def block_product(bits: int, ahead_bytes: int, dtype: str) -> Code:
    """W and its scales are laid out as quantised.py says: a lane for each output. N is a multiple of LANES, K of its BLOCK.

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
    sides = vectors.INSTRUCTIONS.sides  # groups whose sums share a register
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


def this_thread(code: Code) -> Value:
    return code.call("omp_get_thread_num", gives=INT32).to(INT64, "zext")


def share(code: Code, count: Value) -> tuple[Value, Value]:
    """This thread's part of so many."""
    threads = code.call("omp_get_num_threads", gives=INT32).to(INT64, "zext")
    mine = this_thread(code)
    return count * mine // threads, count * (mine + 1) // threads


def loop_of_the_last(code: Code, start: Value, end: Value) -> AbstractContextManager[Loop]:
    """What is left, when the threads have shared the rest, is done by the last of them."""
    _, is_last = share(code, code.constant(INT64, 1))
    return code.loop(start, start + (end - start) * is_last, 1)


def tiles(code: Code, rows: Value, heights: Sequence[int]) -> Iterator[tuple[int, Value]]:
    """For the body of a loop over tiles, of each height: that height, and a tile's first row."""
    done = code.constant(INT64, 0)
    for height in heights:
        to = rows - rows % height
        with code.loop(done, to, height) as row:
            yield height, row.now
        done = to


def place_in_tile(row: Value, at: int, height: int, part: Value, parts: Value) -> Value:
    """Of a part of a tile's row `at`: see `place`."""
    if height == TILE_ROWS:
        return row * parts + part * height + at
    return (row + at) * parts + part


def place(code: Code, row: Value, rows: Value, part: Value, parts: Value) -> Value:
    """Where a part of a row of x lies in scratch memory: those of a tile's rows, of a high one, take turns, so that it is read from one end to the
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


def loaded(code: Code, dtype: str, *addresses: Value, lanes: int = LANES) -> Value:
    """So many numbers from each address, as float32."""
    numbers = beside([code.load(address, vector(LOADED_AS[dtype], lanes)) for address in addresses])
    if dtype == "F32":
        return numbers
    if dtype == "F16":
        return numbers.to(numbers.shaped(FLOAT), "fpext")
    bits = numbers.to(numbers.shaped(INT32), "zext") << 16
    return bits.to(bits.shaped(FLOAT), "bitcast")


def store(code: Code, dtype: str, numbers: Value, address: Value) -> None:
    """float32, one or a vector, as `dtype`, rounded to nearest, ties to even."""
    like = numbers.shaped
    if dtype == "F32":
        code.store(numbers, address)
    elif dtype == "F16":
        code.store(numbers.to(like(HALF), "fptrunc"), address)
    else:
        bits = numbers.to(like(INT32), "bitcast")
        code.store(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(like(INT16), "trunc"), address)
