"""softmax(q k^T) v for each position by itself: what it gives is the same, bit for bit, whatever other positions are asked for.

Keys and values are read where the cache keeps them, in its dtype; everything is added in float32, a key after the other.
"""

from . import cpu
from .builder import FLOAT, INT64, LANES, Code, Value, vector
from .jit import kernel
from .tiling import BYTES, FLOATS, loaded, share, store, this_thread
from .transcendental import exp, tanh

KEYS_AT_ONCE = 4
VALUES_AT_ONCE = 8  # vectors of sums that are kept in registers
NEVER = -1e38  # score of a key that is none


def scratch_bytes(positions: int, threads: int) -> int:
    return 4 * threads * (positions + LANES)


@kernel
def attention(dtype: str, width: int, value_width: int, scale: float, cap: float) -> Code:
    """Arguments: the addresses of q [heads, S, width], of k [heads / group, K, width], of v [heads / group, K, value_width], of y
    [S, heads, value_width], of the first position that each row sees (int64, [S]), and of scratch memory; S, K, heads, group; how many bytes lie
    between heads and between positions of q, k and v. Rows are the last S of K positions. Widths are multiples of LANES.

    `cap`: scores are cap * tanh(score / cap) (Gemma 2, arXiv:2408.00118), or 0.
    """
    code = Code(16)
    q, k, v, y, firsts, scratch, rows, positions, heads, group, *steps = code.arguments
    q_head, q_row, k_head, k_row, v_head, v_row = steps
    size, nought = BYTES[dtype], code.constant(INT64, 0)
    scores = scratch + this_thread(code) * (positions + LANES) * 4

    begin, end = share(code, heads * rows)
    with code.loop(begin, end, 1) as each:
        head, row = each.now // rows, each.now % rows
        first = code.load(firsts + row * 8, INT64)
        count = positions - rows + row + 1 - first
        query = [
            loaded(code, dtype, q + head * q_head + row * q_row + at * size) for at in range(0, width, LANES)
        ]
        keys = k + head // group * k_head + first * k_row
        values = v + head // group * v_head + first * v_row

        def score(key: Value) -> Value:
            total = code.constant(FLOATS, 0.0)
            for at, part in enumerate(query):
                total = code.multiply_add(
                    part, loaded(code, dtype, keys + key * k_row + at * LANES * size), total
                )
            number = total.sum_of_lanes() * scale
            code.store(number, scores + key * 4)
            return number

        in_fours = count - count % KEYS_AT_ONCE
        most = code.constant(FLOAT, NEVER)
        for start, stop, step in ((nought, in_fours, KEYS_AT_ONCE), (in_fours, count, 1)):
            with code.loop(start, stop, step, most) as key:
                for number in [score(key.now + at) for at in range(step)]:
                    key.values[0] = code.call("llvm.maxnum.f32", key.values[0], number)
            most = key.results[0]
        best = most.in_all_lanes()
        if cap:
            best = tanh(code, best * (1 / cap)) * cap
            with code.loop(nought, count, LANES) as key:
                here = code.load(scores + key.now * 4, FLOATS)
                code.store(tanh(code, here * (1 / cap)) * cap, scores + key.now * 4)
        code.store(code.constant(FLOATS, NEVER), scores + count * 4)

        with code.loop(nought, count, LANES, code.constant(FLOATS, 0.0)) as key:
            power = exp(code, code.load(scores + key.now * 4, FLOATS) - best)
            code.store(power, scores + key.now * 4)
            key.values[0] += power
        share_of_one = code.constant(FLOAT, 1.0) / key.results[0].sum_of_lanes()

        sides = cpu.INSTRUCTIONS.sides
        lanes = LANES * sides if value_width % (LANES * sides) == 0 else LANES
        for left in range(0, value_width, VALUES_AT_ONCE * lanes):
            parts = range(left, min(left + VALUES_AT_ONCE * lanes, value_width), lanes)
            sums = [code.constant(vector(FLOAT, lanes), 0.0)] * len(parts)
            with code.loop(nought, count, 1, *sums) as key:
                weight = code.load(scores + key.now * 4, FLOAT).in_all_lanes(lanes)
                for at, part in enumerate(parts):
                    numbers = loaded(code, dtype, values + key.now * v_row + part * size, lanes=lanes)
                    key.values[at] = code.multiply_add(weight, numbers, key.values[at])
            for part, total in zip(parts, key.results, strict=True):
                place = (row * heads + head) * value_width + part
                store(code, dtype, total * share_of_one.in_all_lanes(lanes), y + place * size)
    return code
