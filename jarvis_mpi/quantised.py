"""Linear layers with 8- or 4-bit weights: fewer bytes to read for each token.

y = x W^T by onnxruntime's MatMulNBits (its MLAS has kernels for AVX2, AVX-512, Arm's dot products). Each block of a row's weights
shares a scale and a zero point, rounded to nearest from least to largest; a row's activations are rounded to 8 bits in the kernel,
each block of them with a scale of its own.
Quantised weights are kept on disk, the same for every machine: a further start, a copy and other ranks of the host map them,
and only the order that the kernels want is in memory.
"""

import functools
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .fetch import cache_folder, only_one
from .link import Unservable
from .rowwise import WIDTH, Alike, AlikeLinear


class Format(NamedTuple):
    bits: int  # of a weight, and of a zero point
    block: int  # weights that share a scale and a zero point

    @property
    def bytes_a_weight(self) -> float:
        """In memory: numbers, zero points, and for each block a scale and a sum in float32."""
        return self.bits / 8 * (1 + 1 / self.block) + 2 * 4 / self.block


FORMATS = {"int8": Format(8, 64), "int4": Format(4, 32)}  # --weights
OUTPUT_LAYER = {"int4": "int8"}  # a quarter of what 4 bits lose, they would lose there
PART_WEIGHTS = 4_000_000  # quantised at a time, to spare memory
MODEL, NUMBERS = "linear.onnx", "numbers"  # files of a layer's folder; the second is mapped
CONSTANTS = ("weights", "scales", "zero_points")
PAGE_BYTES = 4096
WAIT_S = 600.0  # for another rank of this host that quantises the same layer
LAYOUT = 1  # of the folder: another where what is in it changes


class QuantisedLinear(AlikeLinear):
    """`folder` is what `kept` gave for `weights`. Raises Unservable where that is damaged."""

    def __init__(self, weights: str, folder: Path, bias: Tensor | None):
        super().__init__()
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        shared_threads()
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        options.enable_cpu_mem_arena = False  # or each layer keeps memory for its largest answer
        try:
            self.session = onnxruntime.InferenceSession(folder / MODEL, options, ["CPUExecutionProvider"])
        except (state.Fail, state.InvalidArgument, state.InvalidProtobuf, state.NoSuchFile) as error:
            raise Unservable(
                f"the quantised weights in {folder} are damaged: delete it ({str(error).splitlines()[0]})"
            ) from None
        self.weights = weights
        self.bias = None if bias is None else bias.float()

    def product(self, rows: Tensor) -> Tensor:
        y = torch.from_numpy(self.session.run(None, {"x": rows.contiguous().numpy()})[0])
        return y if self.bias is None else y.add_(self.bias)

    def alike(self) -> Alike:
        return alike(self.weights)


def check_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Raises Unservable on an Arm without dot products (Pi 4), for which MatMulNBits has no 8-bit kernels."""
    if platform.machine() == "aarch64" and "asimddp" not in cpuinfo.read_text().split():
        raise Unservable(
            "this processor has no dot products (asimddp in /proc/cpuinfo), so that quantised weights would be slower"
            " than others: run without --weights"
        )


@functools.cache
def alike(weights: str) -> Alike:
    sample = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    folder = kept(weights, "a sample, to try kernels with", sample.shape, lambda: sample)
    return Alike(QuantisedLinear(weights, folder, None).product)


@functools.cache
def shared_threads() -> None:
    """All layers of this process share its compute threads: this can be asked for once."""
    import onnxruntime

    onnxruntime.set_global_thread_pool_sizes(torch.get_num_threads(), 1)


def kept(weights: str, identity: str, shape: Sequence[int], mapped: Callable[[], Tensor]) -> Path:
    """The folder of a weight [out, in] quantised; made, whole or not at all, where it is not there yet.

    `identity` tells the weight from all others that were ever quantised on this host. Raises Unservable where the folder
    cannot be written, or the processor has no kernels for it.
    """
    check_processor()
    digest = hashlib.sha256(f"{LAYOUT} {FORMATS[weights]} {identity}".encode()).hexdigest()[:16]
    folder = cache_folder() / "quantised" / digest
    try:
        if (folder / MODEL).is_file():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with only_one(folder, WAIT_S):
            if not (folder / MODEL).is_file():
                scratch = folder.with_suffix(".part")
                shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
                try:
                    scratch.mkdir()
                    write(scratch, FORMATS[weights], shape, mapped)
                    scratch.rename(folder)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise Unservable(
            f"quantised weights cannot be kept in {folder.parent} ({error.strerror}): make room there, name another"
            " folder in JARVIS_CACHE, or run without --weights"
        ) from None
    return folder


def write(folder: Path, kind: Format, shape: Sequence[int], mapped: Callable[[], Tensor]) -> None:
    """The operator and, in a file of its own so that it can be mapped, what it multiplies with."""
    import onnx
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

    rows, columns = shape
    constants: list[onnx.TensorProto] = []
    starts: list[int] = []
    with (folder / NUMBERS).open("wb") as file:
        at_a_time = max(1, PART_WEIGHTS // columns)
        for first in range(0, rows, at_a_time):  # each with a mapping that goes again
            parts = quantise(mapped()[first : first + at_a_time], kind)
            if not constants:
                sizes = [part[0].nbytes * rows for part in parts]
                starts = [sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes[:at]) for at in range(3)]
                constants = [
                    constant(name, [rows, *part.shape[1:]], part.dtype, start, size)
                    for name, part, start, size in zip(CONSTANTS, parts, starts, sizes, strict=True)
                ]
            for start, part in zip(starts, parts, strict=True):
                file.seek(start + first * part[0].nbytes)
                file.write(part.tobytes())
        to_disk(file)
    node = make_node(
        "MatMulNBits", ["x", *CONSTANTS], ["y"], domain="com.microsoft",
        K=columns, N=rows, bits=kind.bits, block_size=kind.block, accuracy_level=4,
    )  # fmt: skip
    x, y = (
        make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", width])
        for name, width in (("x", columns), ("y", rows))
    )
    opsets = [make_opsetid("", 17), make_opsetid("com.microsoft", 1)]
    graph = make_graph([node], "linear", [x], [y], constants)
    with (folder / MODEL).open("wb") as file:
        file.write(make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
        to_disk(file)


def to_disk(file: BinaryIO) -> None:
    """A Pi may lose its power at any time; then the folder would look whole."""
    file.flush()
    os.fsync(file.fileno())


def constant(name: str, shape: Sequence[int], kind: np.dtype, offset: int, length: int):
    import onnx

    where = {"location": NUMBERS, "offset": offset, "length": length}
    return onnx.TensorProto(
        name=name,
        dims=shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(kind),
        data_location=onnx.TensorProto.EXTERNAL,
        external_data=[
            onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in where.items()
        ],
    )


def quantise(weight: Tensor, kind: Format) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[R, in] -> numbers [R, blocks, block * bits / 8], scales [R, blocks], zero points [R, blocks * bits / 8]; 4-bit
    ones two a byte, the first in its lower half."""
    most, padding = 2**kind.bits - 1, -weight.shape[1] % kind.block
    blocks = nn.functional.pad(weight.float(), (0, padding)).unflatten(1, (-1, kind.block))
    least = blocks.amin(-1).clamp_(max=0)
    scales = (blocks.amax(-1).clamp_(min=0) - least).div_(most).clamp_(min=1e-12)
    zeros = (-least / scales).round_()
    numbers = (blocks / scales[..., None]).round_().add_(zeros[..., None]).clamp_(0, most).byte()
    zeros = zeros.byte()
    if kind.bits == 4:
        numbers = numbers[..., 0::2] | numbers[..., 1::2] << 4
        zeros = nn.functional.pad(zeros, (0, zeros.shape[1] % 2))
        zeros = zeros[:, 0::2] | zeros[:, 1::2] << 4
    return numbers.numpy(), scales.numpy(), zeros.numpy()
