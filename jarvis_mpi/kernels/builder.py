"""Write functions in Python over vectors of 8 numbers, for LLVM to compile (jit.py).

LLVM turns them into AVX2 or NEON instructions; where a register holds 16 numbers (AVX512), two vectors lie
side by side in it. The order of additions is the one that is written, so that every processor with a fused
multiply-add (all of the last ten years) rounds alike.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

LANES = 8
BYTE, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF, FLOAT, VOID = ir.HalfType(), ir.FloatType(), ir.VoidType()


def vector(of: ir.Type, lanes: int = LANES) -> ir.Type:
    return ir.VectorType(of, lanes)


def operator(whole: str, real: str = "") -> "Callable[[Value, Value | float], Value]":
    """Make an operator of Value from the names of LLVM's builder: for integers, and for float32."""

    def apply(self: "Value", other: "Value | float") -> "Value":
        element = getattr(self.kind, "element", self.kind)
        name = real if element == FLOAT else whole
        return self.new(getattr(self.code.build, name)(self.raw, self.operand(other)))

    return apply


class Value:
    """A number, a vector or an address in a function that is being written.
    Python's numbers become constants of its kind."""

    def __init__(self, code: "Code", raw: Any):
        self.code, self.raw = code, raw

    @property
    def kind(self) -> ir.Type:
        return self.raw.type

    def new(self, raw: Any) -> "Value":
        return Value(self.code, raw)

    def operand(self, other: "Value | float") -> Any:
        if isinstance(other, Value):
            return other.raw
        lanes = [other] * self.kind.count if isinstance(self.kind, ir.VectorType) else other
        return ir.Constant(self.kind, lanes)

    __add__ = operator("add", "fadd")
    __sub__ = operator("sub", "fsub")
    __mul__ = operator("mul", "fmul")
    __truediv__ = operator("", "fdiv")
    __floordiv__ = operator("sdiv")
    __mod__ = operator("srem")
    __and__ = operator("and_")
    __lshift__ = operator("shl")
    __rshift__ = operator("lshr")

    def __neg__(self) -> "Value":
        return self.new(self.code.build.fneg(self.raw))

    def to(self, kind: ir.Type, how: str) -> "Value":
        """Convert to `kind`. `how` is LLVM's name: zext, sext, trunc, fpext, sitofp, fptosi, bitcast."""
        return self.new(getattr(self.code.build, how)(self.raw, kind))

    def shaped(self, kind: ir.Type) -> ir.Type:
        """Return the type of as many numbers of `kind` as this value has lanes."""
        return vector(kind, self.kind.count) if isinstance(self.kind, ir.VectorType) else kind

    def pick(self, lanes: range) -> "Value":
        chosen = ir.Constant(vector(INT32, len(lanes)), list(lanes))
        nothing = ir.Constant(self.kind, ir.Undefined)
        return self.new(self.code.build.shuffle_vector(self.raw, nothing, chosen))

    def parts(self, count: int) -> "list[Value]":
        """Split the lanes, in order, into `count` parts of equal size."""
        lanes = self.kind.count // count
        return [self.pick(range(first, first + lanes)) for first in range(0, self.kind.count, lanes)]

    def in_all_lanes(self, lanes: int = LANES) -> "Value":
        nothing, first = ir.Constant(vector(self.kind, lanes), ir.Undefined), ir.Constant(INT32, 0)
        alone = self.code.build.insert_element(nothing, self.raw, first)
        everywhere = ir.Constant(vector(INT32, lanes), [0] * lanes)
        return self.new(self.code.build.shuffle_vector(alone, nothing, everywhere))

    def sum_of_lanes(self) -> "Value":
        """Add all lanes: the halves to each other, then the halves of that."""
        total = self
        while total.kind.count > 1:
            one, other = total.parts(2)
            total = one + other
        return self.new(self.code.build.extract_element(total.raw, ir.Constant(INT32, 0)))


class Loop:
    def __init__(self, now: Value, values: list[Value]):
        self.now = now
        self.values = values  # of the round before; to be set to this round's
        self.results: list[Value] = []  # after the loop


class Code:
    """A function of addresses and integers (`arguments`) that returns nothing."""

    def __init__(self, arguments: int):
        self.module = ir.Module("jarvis_mpi")
        kind = ir.FunctionType(ir.VoidType(), [INT64.as_pointer()])
        function = ir.Function(self.module, kind, "entry")
        self.build = ir.IRBuilder(function.append_basic_block())
        table = Value(self, self.build.ptrtoint(function.args[0], INT64))
        self.arguments = [self.load(table + 8 * at, INT64) for at in range(arguments)]

    def constant(self, kind: ir.Type, number: float) -> Value:
        numbers = [number] * kind.count if isinstance(kind, ir.VectorType) else number
        return Value(self, ir.Constant(kind, numbers))

    def load(self, address: Value, kind: ir.Type) -> Value:
        pointer = self.build.inttoptr(address.raw, kind.as_pointer())
        return Value(self, self.build.load(pointer, align=1))

    def store(self, value: Value, address: Value) -> None:
        pointer = self.build.inttoptr(address.raw, value.kind.as_pointer())
        self.build.store(value.raw, pointer, align=1)

    def call(self, name: str, *values: Value, gives: ir.Type | None = None) -> Value:
        """Call a function of LLVM or of the C libraries."""
        kinds = [value.kind for value in values]
        known = self.module.globals.get(name)
        called = known or ir.Function(self.module, ir.FunctionType(gives or kinds[0], kinds), name)
        return Value(self, self.build.call(called, [value.raw for value in values]))

    def call_at(self, address: Value, table: Value) -> None:
        """Call the `Compiled` function at an address, with its arguments in a table."""
        addresses = INT64.as_pointer()
        function = self.build.inttoptr(address.raw, ir.FunctionType(VOID, [addresses]).as_pointer())
        self.build.call(function, [self.build.inttoptr(table.raw, addresses)])

    def prefetch(self, address: Value) -> None:
        """Prefetch memory that will be read soon, once. An address outside of all memory is allowed."""
        pointer = Value(self, self.build.inttoptr(address.raw, BYTE.as_pointer()))
        hints = [self.constant(INT32, hint) for hint in (0, 3, 1)]  # to read, into the nearest cache, data
        self.call("llvm.prefetch.p0", pointer, *hints, gives=VOID)

    def lanewise(self, name: str, *vectors: Value) -> Value:
        """Call LLVM's function of that name on vectors of float32."""
        return self.call(f"llvm.{name}.v{vectors[0].kind.count}f32", *vectors)

    def multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        """Return a b + c, rounded once."""
        return self.lanewise("fma", a, b, c)

    @contextmanager
    def loop(self, start: Value, end: Value, step: int, *carried: Value) -> Iterator[Loop]:
        """Write `for now in range(start, end, step)`, with values that each round takes from the one
        before."""
        build = self.build
        before, body, after = build.block, build.append_basic_block(), build.append_basic_block()
        build.cbranch(build.icmp_signed("<", start.raw, end.raw), body, after)
        build.position_at_end(body)
        heads = [build.phi(value.kind) for value in (start, *carried)]
        state = Loop(Value(self, heads[0]), [Value(self, head) for head in heads[1:]])
        yield state
        following = [state.now + step, *state.values]
        for head, first, later in zip(heads, (start, *carried), following, strict=True):
            head.add_incoming(first.raw, before)
            head.add_incoming(later.raw, build.block)
        build.cbranch(build.icmp_signed("<", following[0].raw, end.raw), body, after)
        last = build.block
        build.position_at_end(after)
        for first, later in zip(carried, state.values, strict=True):
            result = build.phi(first.kind)
            result.add_incoming(first.raw, before)
            result.add_incoming(later.raw, last)
            state.results.append(Value(self, result))

    def text(self) -> str:
        """End the function and return it as LLVM's text."""
        self.build.ret_void()
        return str(self.module)


def beside(parts: Sequence[Value]) -> Value:
    """Concatenate vectors of one kind into one vector. Their count is a power of two."""
    while len(parts) > 1:
        build, lanes = parts[0].code.build, parts[0].kind.count
        all_lanes = ir.Constant(vector(INT32, 2 * lanes), list(range(2 * lanes)))
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [one.new(build.shuffle_vector(one.raw, other.raw, all_lanes)) for one, other in pairs]
    return parts[0]
