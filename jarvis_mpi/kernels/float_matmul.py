"""y = x W^T + b for a few rows x and many weights: the weights are read once, at the memory's speed.

A single token's step reads all weights for one row, so that its time is that of reading them. A row's result
does not depend on the other rows, bit for bit: the same sums are added in the same order for one row and for
hundreds.

- `float_product`: each sum has LANES parts, of the columns 0, 8, 16 ... to 7, 15, 23 ..., that are added at
  the end.
- `block_product`: a BLOCK of numbers is multiplied as integers, exactly, then scaled and added in float32.

Both take the addresses of x [S, K], of scratch memory, of W, of its scales, of b [N] in float32 and of y [S,
N], then S, N and K. Numbers of x and y are of the kind `dtype`: F32, F16 or BF16, as safetensors calls them.
"""

from . import cpu
from .builder import FLOAT, INT64, LANES, VOID, Code, Value, beside, vector
from .jit import kernel
from .tiling import (
    BYTES,
    FLOATS,
    HEIGHTS,
    LINE_BYTES,
    PAIR,
    TILE_ROWS,
    loaded,
    loop_of_the_last,
    place,
    place_in_tile,
    share,
    store,
    tiles,
)

STRIP = 24  # outputs


def float_scratch_bytes(columns: int) -> int:
    """Return the scratch memory for one row of x."""
    return 4 * columns


@kernel
def float_product(stored: str, prefetch: bool, dtype: str) -> Code:
    """Multiply by W [N, K] of the kind `stored`; K is a multiple of LANES. There are no scales.

    `prefetch`: prefetch the next tile of W.
    """
    code = Code(9)
    x, floats, weights, _, bias, y, rows, outputs, columns = code.arguments
    zero = code.constant(INT64, 0)

    begin, end = share(code, rows)
    with code.loop(begin, end, 1) as row, code.loop(zero, columns, LANES) as along:
        numbers = loaded(code, dtype, x + (row.now * columns + along.now) * BYTES[dtype])
        slot = place(code, row.now, rows, along.now // LANES, columns // LANES)
        code.store(numbers, floats + slot * (4 * LANES))
    code.call("GOMP_barrier", gives=VOID)

    def tile(output: Value, outputs_here: int, row: Value, rows_here: int) -> None:
        sides = cpu.INSTRUCTIONS.sides if outputs_here > 1 else 1  # outputs whose sums share a register
        sums = [code.constant(vector(FLOAT, LANES * sides), 0.0)] * (outputs_here // sides * rows_here)
        next_tile = weights + (output + outputs_here) * columns * BYTES[stored]
        step_bytes = LANES * outputs_here * BYTES[stored]
        with code.loop(zero, columns, LANES, *sums) as along:
            if prefetch and rows_here < TILE_ROWS:
                for at in range(0, step_bytes, LINE_BYTES):
                    code.prefetch(next_tile + along.now * (step_bytes // LANES) + at)
            here = [
                weights + ((output + n) * columns + along.now) * BYTES[stored] for n in range(outputs_here)
            ]
            w = [loaded(code, stored, *here[n : n + sides]) for n in range(0, outputs_here, sides)]
            parts = columns // LANES
            for s in range(rows_here):
                slot = place_in_tile(row, s, rows_here, along.now // LANES, parts)
                numbers = beside([code.load(floats + slot * (4 * LANES), FLOATS)] * sides)
                for n, some in enumerate(w):
                    at = s * len(w) + n
                    along.values[at] = code.multiply_add(some, numbers, along.values[at])
        each_sum = [lanes for some in along.results for lanes in some.parts(sides)]
        for at, lanes in enumerate(each_sum):
            s, n = divmod(at, outputs_here)
            total = lanes.sum_of_lanes() + code.load(bias + (output + n) * 4, FLOAT)
            store(code, dtype, total, y + ((row + s) * outputs + output + n) * BYTES[dtype])

    def strip(output: Value, count: int, together: dict[int, int]) -> None:
        """Multiply all rows by `count` outputs, whose weights stay in the processor's cache meanwhile.
        `together`: rows of a tile -> its outputs."""
        every = code.constant(INT64, count)
        for height, row in tiles(code, rows, HEIGHTS):
            with code.loop(zero, every, together[height]) as n:
                tile(output + n.now, together[height], row, height)

    # 12 sums, 3 outputs' weights and a row's numbers fill AVX2's registers; AVX512's are twice as many, and
    # twice as wide. A single row reads 6 or 8 outputs' weights side by side.
    wide = cpu.INSTRUCTIONS.sides > 1
    together = {TILE_ROWS: 8, PAIR: 8, 1: 6} if wide else {TILE_ROWS: 3, PAIR: 4, 1: 8}
    begin, end = share(code, outputs // STRIP)
    with code.loop(begin, end, 1) as each:
        strip(each.now * STRIP, STRIP, together)
    with loop_of_the_last(code, outputs - outputs % STRIP, outputs) as output:
        strip(output.now, 1, dict.fromkeys(HEIGHTS, 1))
    return code
