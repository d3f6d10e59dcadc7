"""Sums of products of small integers, with each processor's own instructions."""

from . import cpu
from .builder import BYTE, INT16, INT32, Value, beside, vector


def add_products(total: Value | None, a: Value, b: Value) -> Value:
    """Add the products of 16-bit integers, or of 8-bit ones, those of a from 0 to 15: exact for a block of
    them on every processor. `lane_sums` turns the result into a sum for each lane.

    x86 adds neighbours as it multiplies (vpmaddwd, vpmaddubsw), Arm adds each to its own sum (smlal); or both
    as `dots`.
    """
    small, instructions = a.kind.element == BYTE, cpu.INSTRUCTIONS
    if instructions.dots and (small or instructions.x86):
        return dots(total, a, b)
    if small and instructions.x86:
        new = a.code.call("llvm.x86.avx2.pmadd.ub.sw", a, b, gives=vector(INT16, a.kind.count // 2))
    else:
        wide = a.shaped(INT16 if small else INT32)
        new = a.to(wide, "zext" if small else "sext") * b.to(wide, "sext")
        if instructions.x86:
            new = neighbours(new)
    return new if total is None else total + new


def dots(total: Value | None, a: Value, b: Value) -> Value:
    code, small = a.code, a.kind.element == BYTE
    sums = vector(INT32, a.kind.count * (1 if small else 2) // 4)
    total = code.constant(sums, 0) if total is None else total
    if cpu.INSTRUCTIONS.x86:
        name = "vpdpbusd" if small else "vpdpwssd"
        return code.call(f"llvm.x86.avx512.{name}.{32 * sums.count}", total, a, b)
    four = sums.count // 4  # NEON's registers hold 16 bytes
    parts = zip(total.parts(four), a.parts(four), b.parts(four), strict=True)
    return beside([code.call("llvm.aarch64.neon.sdot.v4i32.v16i8", *each) for each in parts])


def lane_sums(total: Value, lanes: int) -> Value:
    """Return <lanes x int32>: add neighbours until `lanes` sums are left."""
    while total.kind.count > lanes:
        if total.kind.element == INT16 and total.kind.count == 2 * lanes:
            total = total.to(total.shaped(INT32), "sext")
        total = neighbours(total)
    return total


def neighbours(numbers: Value) -> Value:
    count = numbers.kind.count
    return numbers.pick(range(0, count, 2)) + numbers.pick(range(1, count, 2))
