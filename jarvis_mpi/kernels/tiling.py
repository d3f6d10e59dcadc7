"""Share rows among threads, lay them out in tiles, load and store numbers of any kind."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from .builder import FLOAT, HALF, INT16, INT32, INT64, LANES, Code, Loop, Value, beside, vector

TILE_ROWS = 4  # rows of x that are multiplied together, so that all of them use the weights in registers


PAIR = 2  # rows of a tile, where fewer are left


HEIGHTS = (TILE_ROWS, PAIR, 1)


LINE_BYTES = 64


BYTES = {"F32": 4, "F16": 2, "BF16": 2}


LOADED_AS = {"F32": FLOAT, "F16": HALF, "BF16": INT16}


FLOATS = vector(FLOAT)


def this_thread(code: Code) -> Value:
    return code.call("omp_get_thread_num", gives=INT32).to(INT64, "zext")


def share(code: Code, count: Value) -> tuple[Value, Value]:
    """Return the begin and end of this thread's part of `count` things."""
    threads = code.call("omp_get_num_threads", gives=INT32).to(INT64, "zext")
    mine = this_thread(code)
    return count * mine // threads, count * (mine + 1) // threads


def loop_of_the_last(code: Code, start: Value, end: Value) -> AbstractContextManager[Loop]:
    """Loop over what the threads did not share, on the last of them."""
    _, is_last = share(code, code.constant(INT64, 1))
    return code.loop(start, start + (end - start) * is_last, 1)


def tiles(code: Code, rows: Value, heights: Sequence[int]) -> Iterator[tuple[int, Value]]:
    """Write a loop over tiles for each height; yield the height and a tile's first row."""
    done = code.constant(INT64, 0)
    for height in heights:
        to = rows - rows % height
        with code.loop(done, to, height) as row:
            yield height, row.now
        done = to


def place_in_tile(row: Value, at: int, height: int, part: Value, parts: Value) -> Value:
    """Return the place of a part of a tile's row `at`: see `place`."""
    if height == TILE_ROWS:
        return row * parts + part * height + at
    return (row + at) * parts + part


def place(code: Code, row: Value, rows: Value, part: Value, parts: Value) -> Value:
    """Return where a part of a row of x lies in scratch memory: the parts of a high tile's rows alternate, so
    that it is read from one end to the other (rows that are a power of two apart would fall on the same lines
    of the cache)."""
    in_tile = code.call("llvm.smin.i64", rows // TILE_ROWS - row // TILE_ROWS, code.constant(INT64, 1))
    height = in_tile * (TILE_ROWS - 1) + 1
    return (row - row % height) * parts + part * height + row % height


def loaded(code: Code, dtype: str, *addresses: Value, lanes: int = LANES) -> Value:
    """Load `lanes` numbers from each address, as float32."""
    numbers = beside([code.load(address, vector(LOADED_AS[dtype], lanes)) for address in addresses])
    if dtype == "F32":
        return numbers
    if dtype == "F16":
        return numbers.to(numbers.shaped(FLOAT), "fpext")
    bits = numbers.to(numbers.shaped(INT32), "zext") << 16
    return bits.to(bits.shaped(FLOAT), "bitcast")


def store(code: Code, dtype: str, numbers: Value, address: Value) -> None:
    """Store float32, one number or a vector, as `dtype`, rounded to nearest, ties to even."""
    like = numbers.shaped
    if dtype == "F32":
        code.store(numbers, address)
    elif dtype == "F16":
        code.store(numbers.to(like(HALF), "fptrunc"), address)
    else:
        bits = numbers.to(like(INT32), "bitcast")
        code.store(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(like(INT16), "trunc"), address)
