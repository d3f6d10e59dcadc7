"""Find the tensors of a model's files that hold NaN or infinity. One in a layer makes all text wrong.

Files are checked when a model is loaded for the first time, since the output need not show it: kernels that
round activations turn NaN into numbers again. Sound files are noted in the cache folder, by size and time.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from ..common.cache_folder import cache_folder, is_cached, keep
from ..common.errors import Unservable
from .checkpoint import headers
from .safetensors_header import FLOATS, pieces, tensors_in

NAN, ZEROS = "NaN or infinity", "nothing but zeros"
Wanted = Callable[[str], object]  # a tensor's name -> whether it is looked at
# The bits of a floating point number that are all set in NaN and infinity, and in no other.
NO_NUMBER = {
    "F64": (np.uint64, 0x7FF0000000000000), "F32": (np.uint32, 0x7F800000),
    "BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F8_E5M2": (np.uint8, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F),
}  # fmt: skip


def unsound(path: Path, wanted: Wanted = lambda name: True) -> Iterator[str]:
    """Yield the tensors of a safetensors file that hold NaN or infinity; it is read in small pieces."""
    return (name for name, fault in faults(path, wanted) if fault == NAN)


def faults(path: Path, wanted: Wanted = lambda name: True) -> Iterator[tuple[str, str]]:
    """Yield the tensors of a safetensors file that hold NaN or infinity (NAN), or nothing but zeros (ZEROS);
    it is read in small pieces."""
    last, found, zero = "", "", False
    with path.open("rb") as file:
        for name, kind, at, length in pieces(path):
            if kind not in NO_NUMBER or not wanted(name):
                continue
            if name != last:
                if zero:
                    yield last, ZEROS
                last, found, zero = name, "", length > 0
            elif found:
                continue
            file.seek(at)
            data = file.read(length)
            zero = zero and not np.frombuffer(data, np.uint8).any()
            if not zero and has_no_number(data, kind):
                found = NAN
                yield name, NAN
    if zero:
        yield last, ZEROS


def has_no_number(data: bytes, kind: str) -> bool:
    number, mask = NO_NUMBER[kind]
    if kind in FLOATS and data:  # at the memory's speed: a finite sum has finite terms
        floats = torch.frombuffer(bytearray(data), dtype=getattr(torch, FLOATS[kind]))
        if floats.sum(dtype=torch.float64 if kind == "F64" else torch.float32).isfinite():
            return False
    return bool(((np.frombuffer(data, number) & number(mask)) == mask).any())


def refuse_unsound(folder: Path, whose: str, wanted: Wanted) -> None:
    """Raises Unservable where a tensor of this part of the model holds NaN or infinity."""
    for path, header, data_at in headers(folder):
        file, names = path.stat(), sorted(filter(wanted, tensors_in(header)))
        identity = f"{path.resolve()} {file.st_size} {file.st_mtime_ns} {file.st_ctime_ns} {data_at} {names}"
        noted = cache_folder() / "sound" / hashlib.sha256(identity.encode()).hexdigest()[:16]
        if is_cached(noted):
            continue
        for name in unsound(path, wanted):
            raise Unservable(
                f"{whose} cannot be used: the tensor {name} in {path} holds numbers that are no numbers "
                "(NaN or infinity); fetch the model again, or ask who made it"
            )
        keep(noted, b"")
