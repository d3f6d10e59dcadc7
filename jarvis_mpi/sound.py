"""Numbers that are no numbers (NaN, infinity) in a model's files: which tensor has them. One in a layer makes all text wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .link import Unservable
from .models import headers
from .safetensors_header import pieces

# Of a floating point number, as an unsigned one: the bits that are all set in NaN and infinity, and no other.
NO_NUMBER = {
    "F64": (np.uint64, 0x7FF0000000000000), "F32": (np.uint32, 0x7F800000),
    "BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F8_E5M2": (np.uint8, 0x7C),
}  # fmt: skip


def unsound(path: Path, names: Callable[[str], object] = lambda name: True) -> Iterator[str]:
    """Tensors of a safetensors file, of those whose names are wanted, that hold NaN or infinity; read in small pieces."""
    last = ""
    with path.open("rb") as file:
        for name, kind, at, length in pieces(path):
            if name == last or kind not in NO_NUMBER or not names(name):
                continue
            number, mask = NO_NUMBER[kind]
            file.seek(at)
            bits = np.frombuffer(file.read(length), number) & number(mask)
            if (bits == mask).any():
                last = name
                yield name


def refuse_unsound(folder: Path, whose: str, names: Callable[[str], object]) -> None:
    """Called where a part of the model gave NaN. Raises Unservable where one of its tensors is to blame."""
    for path, _, _ in headers(folder):
        for name in unsound(path, names):
            raise Unservable(
                f"{whose} cannot be run: the tensor {name} in {path} holds numbers that are no numbers (NaN or infinity);"
                " fetch the model again, or ask who made it"
            )
