"""Choose how weights are prefetched: the best choice differs by half between processors of the same
instructions, and none of them tells.

The choice is measured once a host, when a rank first starts there, and stays in the cache folder. It changes
no bit of a kernel's result.
"""

import contextlib
import functools
import hashlib
import statistics
import time
from collections.abc import Callable

import torch

from ..common.cache_folder import cache_folder, keep, only_one
from ..common.errors import Unservable
from . import cpu, jit
from .float_matmul import LANES, float_product, float_scratch_bytes
from .int_matmul import block_product, block_scratch_bytes
from .jit import Compiled

WEIGHTS_BYTES, COLUMNS = 64 * 2**20, 2048  # more than caches hold
ROUNDS = 5
BETTER = 1.1  # times faster than the usual one: less may be chance
WAIT_S = 60.0  # for another rank of this host that is measuring
WIDE = cpu.INSTRUCTIONS.sides > 1
AHEAD_BYTES = (12288, 2048) if WIDE else (2048, 12288)  # the usual one first


@functools.cache
def prefetch_rows() -> bool:
    """Return whether float_product is faster when it prefetches long rows."""
    choices = (1, 0) if WIDE else (0, 1)
    return bool(fastest("prefetch", choices, lambda choice: float_product("BF16", bool(choice), "BF16"), 2.0))


@functools.cache
def ahead_bytes(bits: int) -> int:
    """Return how many bytes ahead block_product prefetches fastest."""
    return fastest(f"ahead-{bits}", AHEAD_BYTES, lambda ahead: block_product(bits, ahead, "BF16"), bits / 8)


def fastest(
    name: str, choices: tuple[int, int], kernel: Callable[[int], Compiled], bytes_a_weight: float
) -> int:
    """Return the faster of two choices, from the cache folder or measured now."""
    digest = hashlib.sha256(f"{jit.identity()} {name} {choices}".encode()).hexdigest()[:16]
    path = cache_folder() / "kernels" / f"{name}-{digest}"
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_one(path, WAIT_S))
        except OSError:
            pass  # no room for the file: measured each time
        except Unservable:  # another rank is still measuring
            return choices[0]
        with contextlib.suppress(OSError, ValueError):
            if (cached := int(path.read_text())) in choices:
                return cached
        outputs = int(WEIGHTS_BYTES / COLUMNS / bytes_a_weight) // LANES * LANES
        usual_s, other_s = seconds([kernel(choice) for choice in choices], outputs)
        chosen = choices[usual_s > BETTER * other_s]
        keep(path, str(chosen).encode())
        return chosen


def seconds(kernels: list[Compiled], outputs: int) -> list[float]:
    """Return each kernel's median seconds for one row and `outputs` outputs, on one thread."""
    weights, scales = (
        torch.full((size,), 60, dtype=torch.uint8) for size in (WEIGHTS_BYTES, WEIGHTS_BYTES // 4)
    )
    x, y = (torch.ones(size, dtype=torch.bfloat16) for size in (COLUMNS, outputs))
    bias = torch.zeros(outputs, dtype=torch.float32)
    scratch_bytes = max(float_scratch_bytes(COLUMNS), block_scratch_bytes(COLUMNS))
    scratch = torch.empty(scratch_bytes, dtype=torch.uint8)
    rooms = [each.data_ptr() for each in (x, scratch, weights, scales, bias, y)]
    times: list[list[float]] = [[] for _ in kernels]
    for _ in range(ROUNDS):
        for kernel, measured in zip(kernels, times, strict=True):
            begun = time.perf_counter()
            kernel((*rooms, 1, outputs, COLUMNS), 1)
            measured.append(time.perf_counter() - begun)
    return [statistics.median(measured) for measured in times]
