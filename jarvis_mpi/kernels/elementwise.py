"""The elementwise steps of a decoder layer, and the kernel that runs all of its kernels in one call."""

import math
from collections.abc import Callable

from . import cpu
from .builder import INT64, LANES, VOID, Code, Value, vector
from .jit import kernel
from .tiling import BYTES, LOADED_AS, loaded, loop_of_the_last, share, store
from .transcendental import exp


@kernel
def sequence() -> Code:
    """Run compiled functions one after the other, each by all threads.
    Arguments: the address of a table, the number of its lines and their length in bytes; a line holds a
    function's address, then its arguments."""
    code = Code(3)
    table, lines, line_bytes = code.arguments
    with code.loop(code.constant(INT64, 0), lines, 1) as line:
        here = table + line.now * line_bytes
        code.call_at(code.load(here, INT64), here + 8)
        code.call("GOMP_barrier", gives=VOID)
    return code


@kernel
def rotary(dtype: str, tables: str, width: int) -> Code:
    """Rotate q in place and k on its way to the cache (RoFormer, arXiv:2104.09864); copy v to the cache.

    Arguments: the addresses of q [S, heads, width], of k and v [S, key heads, width], of the cosines and
    sines [S, width], of the kind `tables`, of the first position's key and value in the cache; S, heads, key
    heads; the bytes between heads in the cache. Half a head is a multiple of 4.
    """
    code = Code(11)
    q, k, v, cosines, sines, keys, values, rows, heads, key_heads, head_bytes = code.arguments
    size, half = BYTES[dtype], width // 2
    lanes = math.gcd(half, LANES)
    row_bytes = width * size

    def turned(source: Value, row: Value, target: Value) -> None:
        for at in range(0, half, lanes):

            def both(kind: str, begin: Value, at: int = at) -> list[Value]:
                return [loaded(code, kind, begin + n * BYTES[kind], lanes=lanes) for n in (at, at + half)]

            x, y = both(dtype, source)
            cosine, sine = (both(tables, table + row * (width * BYTES[tables])) for table in (cosines, sines))
            store(code, dtype, code.multiply_add(x, cosine[0], -(y * sine[0])), target + at * size)
            store(code, dtype, code.multiply_add(y, cosine[1], x * sine[1]), target + (at + half) * size)

    begin, end = share(code, rows * heads)
    with code.loop(begin, end, 1) as each:
        here = q + each.now * row_bytes
        turned(here, each.now // heads, here)
    begin, end = share(code, rows * key_heads)
    with code.loop(begin, end, 1) as each:
        row, head = each.now // key_heads, each.now % key_heads
        offset = head * head_bytes + row * row_bytes
        turned(k + each.now * row_bytes, row, keys + offset)
        for at in range(0, row_bytes, lanes * size):
            part = code.load(v + each.now * row_bytes + at, vector(LOADED_AS[dtype], lanes))
            code.store(part, values + offset + at)
    return code


# Activation functions x / (1 + e^-k), each given by k as a function of x.
ACTIVATIONS = {
    "silu": lambda x: x,
    "gelu_tanh": lambda x: (x * x * 0.044715 + 1.0) * x * math.sqrt(8 / math.pi),
}


@kernel
def gate(dtype: str, activation: str) -> Code:
    """Write y = activation(x) z.
    Arguments: the addresses of x, of z and of y, which may be z; the count of numbers, a multiple of
    LANES."""
    return of_each(dtype, lambda code, x, z: x / (exp(code, -ACTIVATIONS[activation](x)) + 1.0) * z)


@kernel
def add(dtype: str) -> Code:
    """Write y = x + z. Arguments: the addresses of x, of z and of y, which may be z; the count of numbers, a
    multiple of LANES."""
    return of_each(dtype, lambda code, x, z: x + z)


def of_each(dtype: str, function: Callable[[Code, Value, Value], Value]) -> Code:
    """Write y = function(x, z), number by number."""
    code = Code(4)
    xs, zs, ys, count = code.arguments

    def some(first: Value, lanes: int) -> None:
        at = first * (LANES * BYTES[dtype])
        x, z = (loaded(code, dtype, numbers + at, lanes=lanes) for numbers in (xs, zs))
        store(code, dtype, function(code, x, z), ys + at)

    sides, eights = cpu.INSTRUCTIONS.sides, count // LANES
    begin, end = share(code, eights // sides)
    with code.loop(begin, end, 1) as each:
        some(each.now * sides, LANES * sides)
    with loop_of_the_last(code, eights - eights % sides, eights) as each:
        some(each.now, LANES)
    return code
