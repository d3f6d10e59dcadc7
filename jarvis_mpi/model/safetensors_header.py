"""Read the header of a safetensors file, and check all of it before anything of the file is mapped.

The checks are those of the safetensors library (which would map the whole file, more than a Pi has): every
tensor's dtype and shape are known, its bytes are as many as those say, and all of them, end to end, fill the
file.
"""

import json
import struct
from collections.abc import Iterator, Set
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from ..common.errors import Unservable
from ..common.given_file import regular

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}  # as torch calls them
LONGEST_HEADER = 100_000_000  # bytes: the library's own bound
NOT_A_TENSOR = "__metadata__"


def header_of(path: Path) -> tuple[dict[str, dict], int]:
    """Return the file's header, and where the data begin. Raises Unservable, naming what is wrong."""
    try:
        file = regular(path).stat()
        return read(path, file.st_size, file.st_mtime_ns)
    except OSError as error:
        raise Unservable(f"{path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=256)
def read(path: Path, size: int, _changed_at: int) -> tuple[dict[str, dict], int]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        text = file.read(length) if 0 < length <= min(size - 8, LONGEST_HEADER) else b""
    try:
        header = json.loads(text.decode(), object_pairs_hook=without_doubles) if text[:1] == b"{" else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise Unservable(f"{path} is not a whole safetensors file: fetch it again")
    notes = header.get(NOT_A_TENSOR)
    if notes is not None and not (
        isinstance(notes, dict) and all(isinstance(note, str) for note in notes.values())
    ):
        raise Unservable(f"{path} is damaged: its {NOT_A_TENSOR} are no texts; fetch it again")
    for name in tensors_in(header):
        if fault := wrong(header[name]):
            raise Unservable(f"{path} is damaged: its header gives {name} {fault}; fetch it again")
        if scale := scale_of(header, name):
            raise Unservable(
                f"{path} holds quantised weights ({name} in 8 bits, "
                f"with {scale}): save the model dequantised first"
            )
    end = 8 + length + end_of_data(path, header)
    if end != size:
        raise Unservable(f"{path} has {size} bytes, but its header says {end}: it is damaged, fetch it again")
    return header, 8 + length


def tensors_in(header: dict[str, dict]) -> Set[str]:
    return header.keys() - {NOT_A_TENSOR}


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def scale_of(header: dict, name: str) -> str:
    """Return the tensor of scales beside a tensor of 8 bits; '' where there is none."""
    if not header[name]["dtype"].startswith("F8_"):
        return ""
    names = (f"{name}_scale", f"{name}_scale_inv", f"{name.removesuffix('.weight')}.scale_weight")
    return next((each for each in names if each in header), "")


def wrong(tensor: Any) -> str:
    """Return what is wrong in a tensor's entry, '' if nothing."""
    if not isinstance(tensor, dict):
        return "no entry of its own"
    kind, shape, offsets = tensor.get("dtype"), tensor.get("shape"), tensor.get("data_offsets")
    if not isinstance(kind, str) or kind not in BITS:
        return f"numbers of an unknown kind ({kind!r})"
    if not are_counts(shape):
        return f"no shape ({shape!r})"
    if not are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"no place ({offsets!r})"
    if prod(shape) * BITS[kind] != 8 * (offsets[1] - offsets[0]):
        return f"{offsets[1] - offsets[0]} bytes, which are no {shape} of {kind}"
    return ""


def are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**63 for each in value)


def end_of_data(path: Path, header: dict[str, dict]) -> int:
    """Return where the last tensor ends.
    Raises Unservable where two overlap, or bytes between them belong to none."""
    end = 0
    for name in sorted(tensors_in(header), key=lambda name: (header[name]["data_offsets"], name)):
        begin, tensor_end = header[name]["data_offsets"]
        if begin != end:
            raise Unservable(
                f"{path} is damaged: {name} begins at byte {begin} of the data, "
                f"the one before it ends at {end}; fetch it again"
            )
        end = tensor_end
    return end


def pieces(path: Path, most_bytes: int = 1 << 24) -> Iterator[tuple[str, str, int, int]]:
    """Yield the file's tensors in the order of their bytes, in pieces: name, kind, first byte in the file,
    bytes."""
    header, data = header_of(path)
    for name in sorted(tensors_in(header), key=lambda name: (header[name]["data_offsets"], name)):
        begin, end = header[name]["data_offsets"]
        for at in range(begin, end, most_bytes):
            yield name, header[name]["dtype"], data + at, min(most_bytes, end - at)
