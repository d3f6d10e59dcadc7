"""RMSNorm (arXiv:1910.07467) in one call: in Python it takes nine, as long as reading a small layer's weights
does."""

from .builder import FLOAT, INT64, LANES, Code
from .jit import kernel
from .tiling import BYTES, FLOATS, loaded, share, store


@kernel
def rms_norm(dtype: str, epsilon: float) -> Code:
    """Write y = x / rms(x) * gains.
    Arguments: the addresses of x [S, K], of the gains [K] in float32 and of y [S, K]; S, K, a multiple of
    LANES."""
    code = Code(5)
    x, gains, y, rows, columns = code.arguments
    size, zero = BYTES[dtype], code.constant(INT64, 0)
    begin, end = share(code, rows)
    with code.loop(begin, end, 1) as row:
        here = row.now * columns
        with code.loop(zero, columns, LANES, code.constant(FLOATS, 0.0)) as along:
            numbers = loaded(code, dtype, x + (here + along.now) * size)
            along.values[0] = code.multiply_add(numbers, numbers, along.values[0])
        mean = along.results[0].sum_of_lanes() / columns.to(FLOAT, "sitofp")
        root = code.call("llvm.sqrt.f32", mean + epsilon)
        factor = (code.constant(FLOAT, 1.0) / root).in_all_lanes()
        with code.loop(zero, columns, LANES) as along:
            numbers = loaded(code, dtype, x + (here + along.now) * size) * factor
            store(
                code, dtype, numbers * code.load(gains + along.now * 4, FLOATS), y + (here + along.now) * size
            )
    return code
