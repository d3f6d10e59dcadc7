"""softmax(q k^T) v for each position by itself: the result is the same, bit for bit, whatever other positions
are computed.

Keys and values are read in place from the cache, in its dtype. Sums are in float32, one key after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

from . import cpu
from .builder import FLOAT, INT64, LANES, Code, Value, vector
from .jit import kernel
from .tiling import BYTES, FLOATS, loaded, share, store, this_thread
from .transcendental import exp, tanh

KEYS_AT_ONCE = 4
VALUES_AT_ONCE = 8  # vectors of sums held in registers
NEVER = -1e38  # score of the padding behind the last key


def scratch_bytes(positions: int, threads: int) -> int:
    return 4 * threads * (positions + LANES)


@dataclass(frozen=True)
class Vectors:
    """A head's keys or values, by position."""

    code: Code
    dtype: str
    address: Value
    step_bytes: Value

    def load(self, position: Value, column: int, lanes: int = LANES) -> Value:
        address = self.address + position * self.step_bytes + column * BYTES[self.dtype]
        return loaded(self.code, self.dtype, address, lanes=lanes)


@dataclass(frozen=True)
class Scores:
    """A row's scores in scratch memory, one for each of `count` keys, in float32."""

    code: Code
    address: Value
    count: Value

    def of(self, key: Value) -> Value:
        """Return the address of a key's score."""
        return self.address + key * 4


@kernel
def attention(dtype: str, width: int, value_width: int, scale: float, cap: float) -> Code:
    """Write y = softmax(q k^T * scale) v.

    Arguments: the addresses of q [heads, S, width], of k [heads / group, K, width], of v [heads / group, K,
    value_width], of y [S, heads, value_width], of the first position that each row sees (int64, [S]), and of
    scratch memory; S, K, heads, group; the bytes between heads and between positions of q, k and v. Rows are
    the last S of K positions. Widths are multiples of LANES.

    `cap`: scores are cap * tanh(score / cap) (Gemma 2, arXiv:2408.00118), or 0.
    """
    code = Code(16)
    q, k, v, y, firsts, scratch, rows, positions, heads, group, *steps = code.arguments
    q_head, q_row, k_head, k_row, v_head, v_row = steps
    size = BYTES[dtype]
    memory = scratch + this_thread(code) * (positions + LANES) * 4

    begin, end = share(code, heads * rows)
    with code.loop(begin, end, 1) as each:
        head, row = each.now // rows, each.now % rows
        first = code.load(firsts + row * 8, INT64)
        count = positions - rows + row + 1 - first
        query = [
            loaded(code, dtype, q + head * q_head + row * q_row + at * size) for at in range(0, width, LANES)
        ]
        keys = Vectors(code, dtype, k + head // group * k_head + first * k_row, k_row)
        values = Vectors(code, dtype, v + head // group * v_head + first * v_row, v_row)
        row_scores = Scores(code, memory, count)
        largest = scores(row_scores, query, keys, scale)
        share_of_one = softmax(row_scores, largest, cap)

        def place(column: int) -> Value:
            return (row * heads + head) * value_width + column

        weighted_values(row_scores, share_of_one, values, value_width, y, place)
    return code


def scores(into: Scores, query: list[Value], keys: Vectors, scale: float) -> Value:
    """Write the query's score with each key; return the largest."""
    code, count = into.code, into.count

    def score(key: Value) -> Value:
        total = code.constant(FLOATS, 0.0)
        for at, part in enumerate(query):
            total = code.multiply_add(part, keys.load(key, at * LANES), total)
        number = total.sum_of_lanes() * scale
        code.store(number, into.of(key))
        return number

    in_fours = count - count % KEYS_AT_ONCE
    most = code.constant(FLOAT, NEVER)
    for start, stop, step in ((code.constant(INT64, 0), in_fours, KEYS_AT_ONCE), (in_fours, count, 1)):
        with code.loop(start, stop, step, most) as key:
            for number in [score(key.now + at) for at in range(step)]:
                key.values[0] = code.call("llvm.maxnum.f32", key.values[0], number)
        most = key.results[0]
    return most


def softmax(row: Scores, largest: Value, cap: float) -> Value:
    """Replace each score with e^(score - largest); return the factor that makes them add up to 1."""
    code, zero = row.code, row.code.constant(INT64, 0)
    best = largest.in_all_lanes()
    if cap:
        best = tanh(code, best * (1 / cap)) * cap
        with code.loop(zero, row.count, LANES) as key:
            here = code.load(row.of(key.now), FLOATS)
            code.store(tanh(code, here * (1 / cap)) * cap, row.of(key.now))
    code.store(code.constant(FLOATS, NEVER), row.of(row.count))

    with code.loop(zero, row.count, LANES, code.constant(FLOATS, 0.0)) as key:
        power = exp(code, code.load(row.of(key.now), FLOATS) - best)
        code.store(power, row.of(key.now))
        key.values[0] += power
    return code.constant(FLOAT, 1.0) / key.results[0].sum_of_lanes()


def weighted_values(
    row: Scores, share_of_one: Value, values: Vectors, width: int, y: Value, place: Callable[[int], Value]
) -> None:
    """Write the sum of all values, each times its score. `place`: column -> index in y."""
    code, dtype, sides = row.code, values.dtype, cpu.INSTRUCTIONS.sides
    lanes = LANES * sides if width % (LANES * sides) == 0 else LANES
    for left in range(0, width, VALUES_AT_ONCE * lanes):
        columns = range(left, min(left + VALUES_AT_ONCE * lanes, width), lanes)
        sums = [code.constant(vector(FLOAT, lanes), 0.0)] * len(columns)
        with code.loop(code.constant(INT64, 0), row.count, 1, *sums) as key:
            weight = code.load(row.of(key.now), FLOAT).in_all_lanes(lanes)
            for at, column in enumerate(columns):
                numbers = values.load(key.now, column, lanes)
                key.values[at] = code.multiply_add(weight, numbers, key.values[at])
        for column, total in zip(columns, key.results, strict=True):
            number = place(column)
            scaled = total * share_of_one.in_all_lanes(lanes)
            store(code, dtype, scaled, y + number * BYTES[dtype])
