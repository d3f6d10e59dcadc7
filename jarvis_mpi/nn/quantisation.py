"""8- and 4-bit weights: fewer bytes to read for each token.

A block of weights of a row shares a scale, with 4 bits also a least value: w = scale * number, or scale *
number + least. Scales and least values are bfloat16. The kernel rounds activations, with a scale for each
block: to 16 bits, which is less than the rounding of bfloat16 activations, or beside weights of 4 bits to 8,
which is little beside the rounding of those weights.

Quantised weights are files, the same for every machine: a later start, a copy and other ranks of the host map
them, and nothing else is in memory. LANES rows lie together, as the kernel reads them: numbers [out / LANES,
blocks, bytes of a block], where pairs of columns (8 bits) or fours (4 bits: two in a byte, a block's second,
fourth ... four in the higher half) alternate between the rows; scales [out / LANES, blocks, LANES, and as
many least values after them].
"""

import contextlib
import hashlib
import mmap
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..common import sealed_folder
from ..common.boundary import guarded
from ..common.cache_folder import cache_folder, only_one
from ..common.errors import Unservable
from ..kernels.float_matmul import LANES
from ..kernels.int_matmul import BLOCK


class Format(NamedTuple):
    bits: int  # of a weight
    block_bytes: int  # of its scale and its least value

    @property
    def block(self) -> int:
        """Weights that share a scale."""
        return BLOCK[self.bits]

    @property
    def bytes_a_weight(self) -> float:
        return self.bits / 8 + self.block_bytes / self.block


FORMATS = {"int8": Format(8, 2), "int4": Format(4, 4)}  # --weights
OUTPUT_LAYER = {"int4": "int8"}  # with 4 bits this layer alone would cost a quarter of the whole loss
PART_WEIGHTS = 4_000_000  # quantised at a time, to spare memory
FILES = ("numbers.npy", "scales.npy")  # of a layer's folder
WAIT_S = 600.0  # for another rank of this host that quantises the same layer
LAYOUT = 5  # the version of the folder's content


def mapped(folder: Path, weights: str, shape: Sequence[int]) -> list[Tensor]:
    """Map the numbers (bytes) and the scales (16 bits each) of a weight [out, in] from a folder made by
    `quantised_folder`.

    Raises Unservable where they are damaged, or of another shape: the kernel would read past their end.
    """
    with guarded(f"the quantised weights in {folder} are damaged", "delete it"):
        sealed_folder.sizes_right(folder)
        arrays = [np.load(folder / name, mmap_mode="r") for name in FILES]
        for array, (expected_shape, dtype) in zip(arrays, layout(FORMATS[weights], shape), strict=True):
            if array.shape != expected_shape or array.dtype != dtype or not array.flags.c_contiguous:
                raise ValueError(
                    f"it holds {list(array.shape)} of {array.dtype}, "
                    f"not {list(expected_shape)} of {np.dtype(dtype)}"
                )
    return [tensor_of(array) for array in arrays]


def layout(kind: Format, shape: Sequence[int]) -> list[tuple[tuple[int, ...], type]]:
    """Return the shapes and types of a quantised weight's numbers and scales."""
    rows, columns = shape
    groups, blocks = -(-rows // LANES), -(-columns // kind.block)
    numbers, scales = LANES * kind.block * kind.bits // 8, LANES * kind.block_bytes // 2
    return [((groups, blocks, numbers), np.uint8), ((groups, blocks, scales), np.uint16)]


def tensor_of(mapped: np.memmap) -> Tensor:
    with contextlib.suppress(OSError, AttributeError):  # a kernel, a system without them
        # Large pages, where the system has them for files, are read 6 to 9 % faster.
        mapped.base.madvise(mmap.MADV_HUGEPAGE)  # type: ignore
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is read-only, and nothing writes it
        return torch.from_numpy(mapped)


def quantised_folder(weights: str, identity: str, shape: Sequence[int], weight: Callable[[], Tensor]) -> Path:
    """Return the folder of a weight [out, in], quantised; make it, whole or not at all, where it does not
    exist.

    `identity` is unique among the weights quantised on this host. Raises Unservable where the folder cannot
    be written.
    """
    digest = hashlib.sha256(f"{LAYOUT} {FORMATS[weights]} {identity}".encode()).hexdigest()[:16]
    folder = cache_folder() / "quantised" / digest
    try:
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with only_one(folder, WAIT_S):
            if not folder.is_dir():
                scratch = folder.with_suffix(".part")
                shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
                try:
                    scratch.mkdir()
                    write(scratch, FORMATS[weights], shape, weight)
                    sealed_folder.seal(scratch, FILES, weights=weights, identity=identity)
                    scratch.rename(folder)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise Unservable(
            f"quantised weights cannot be kept in {folder.parent} ({error.strerror}): make room there, "
            "name another folder in JARVIS_CACHE, or run without --weights"
        ) from None
    return folder


def write(folder: Path, kind: Format, shape: Sequence[int], weight: Callable[[], Tensor]) -> None:
    rows, columns = shape
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("wb")) for name in FILES]
        for file, (whole, number) in zip(files, layout(kind, shape), strict=True):
            header = np.lib.format.header_data_from_array_1_0(np.empty((0, *whole[1:]), number))
            np.lib.format.write_array_header_1_0(file, header | {"shape": whole})
        at_a_time = max(1, PART_WEIGHTS // columns // LANES) * LANES
        for first in range(0, rows, at_a_time):  # each with a short-lived mapping
            for file, part in zip(files, quantise(weight()[first : first + at_a_time], kind), strict=True):
                file.write(part.tobytes())
        for file in files:  # a Pi may lose its power at any time; then the folder would look whole
            file.flush()
            os.fsync(file.fileno())


def quantise(weight: Tensor, kind: Format) -> tuple[np.ndarray, np.ndarray]:
    """Quantise [R, in] -> numbers [R / LANES, blocks, bytes], scales [R / LANES, blocks, LANES or twice
    that]."""
    missing = (0, -weight.shape[1] % kind.block, 0, -len(weight) % LANES)
    w = nn.functional.pad(weight.float(), missing).unflatten(1, (-1, kind.block)).unflatten(0, (-1, LANES))
    if kind.bits == 8:
        scales = near(w.abs().amax(-1) / 127)
        values = [scales]
        numbers = (w / scales[..., None]).round_().clamp_(-128, 127).to(torch.int8)
        # [R / LANES, blocks, pairs, LANES, 2]
        numbers = numbers.unflatten(-1, (-1, 2)).permute(0, 2, 3, 1, 4)
    else:
        least = w.amin(-1).bfloat16().float()
        scales = near((w.amax(-1) - least) / 15)
        numbers = ((w - least[..., None]) / scales[..., None]).round_().clamp_(0, 15).to(torch.uint8)
        low, high = numbers.unflatten(-1, (-1, 2, 4)).permute(4, 0, 2, 3, 1, 5)
        numbers = low | high << 4  # [R / LANES, blocks, pairs of fours, LANES, 4]
        values = [scales, least]
    together = torch.cat([each.transpose(1, 2) for each in values], -1)
    return numbers.contiguous().numpy(), together.bfloat16().view(torch.int16).numpy()


def near(scales: Tensor) -> Tensor:
    """Round scales to bfloat16, none of them to zero."""
    return scales.clamp(min=1e-30).bfloat16().float()
