"""tanh and exp of vectors."""

from .builder import INT32, Code, Value
from .tiling import FLOATS


def tanh(code: Code, x: Value) -> Value:
    """Return (1 - e^-2x) / (1 + e^-2x), for |x| with the sign of x."""
    power = exp(code, code.lanewise("fabs", x) * -2.0)
    one = code.constant(FLOATS, 1.0)
    return code.lanewise("copysign", (one - power) / (one + power), x)


def exp(code: Code, x: Value) -> Value:
    """Return e^x, for x from -87 to 87, to 1e-7: 2^n e^r, with Cephes' polynomial (expf) for r within half of
    ln 2."""

    def constant(number: float) -> Value:
        return code.constant(x.kind, number)

    x = code.lanewise("maxnum", x, constant(-87.0))
    x = code.lanewise("minnum", x, constant(87.0))
    n = code.lanewise("rint", x * 1.44269504088896341)
    r = code.multiply_add(n, constant(-0.693359375), x)
    r = code.multiply_add(n, constant(2.12194440e-4), r)
    y = constant(1.9875691500e-4)
    for factor in (
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
        1.0,
        1.0,
    ):
        y = code.multiply_add(y, r, constant(factor))
    return y * ((n.to(x.shaped(INT32), "fptosi") + 127) << 23).to(x.kind, "bitcast")
