"""Read and check the whole header of a GGUF file before a library reads it; join split files.

The format: magic, version, counts of tensors and of metadata; metadata as key, type, value; for each tensor
its name, shape, type and place; then, aligned, the tensors' bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Whatever a damaged or hostile file claims,
reading it costs no more than its real size.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ..common.errors import Unservable
from ..common.given_file import regular

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
MOST_KEYS, MOST_TENSORS, MOST_VALUES, LONGEST_TEXT = 1 << 16, 1 << 18, 1 << 23, 1 << 24
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class GgufTensor:
    name: str
    shape: tuple[int, ...]  # in the file's order: the fastest first
    kind: int
    offset: int  # from the beginning of the data
    size: int


@dataclass
class Gguf:
    path: Path
    version: int
    values: dict[str, Any] = field(default_factory=dict)  # scalars, texts, arrays
    raw: dict[str, bytes] = field(default_factory=dict)  # each of them with its key, as in the file
    tensors: list[GgufTensor] = field(default_factory=list)
    data_at: int = 0

    @property
    def alignment(self) -> int:
        return self.values.get("general.alignment", 32)

    def bytes_of(self, name: str) -> bytes:
        tensor = next(tensor for tensor in self.tensors if tensor.name == name)
        with self.path.open("rb") as file:
            file.seek(self.data_at + tensor.offset)
            return file.read(tensor.size)


class Reading:
    """A file that is read from its beginning. Raises Unservable where it ends too soon."""

    def __init__(self, path: Path, file: BinaryIO, size: int):
        self.path, self.file, self.left = path, file, size

    def bytes(self, length: int) -> bytes:
        self.left -= length
        data = self.file.read(length) if self.left >= 0 else b""
        if len(data) != length:
            raise damaged(self.path, "it ends in the middle of its header")
        return data

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.bytes(struct.calcsize(f"<{kind}")))[0]

    def count(self, most: int, what: str) -> int:
        found: int = self.number("Q")
        if found > most:
            raise damaged(self.path, f"it claims {found} {what}")
        return found

    def text(self) -> str:
        data = self.bytes(self.count(min(LONGEST_TEXT, self.left), "bytes of a text"))
        try:
            return data.decode()
        except ValueError:
            raise damaged(self.path, f"a text of its header is none ({data[:20]!r})") from None

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise damaged(self.path, f"a value of its header is of an unknown type ({kind})")
        each, count = self.number("I"), self.count(MOST_VALUES, "values in a list")
        if each in SCALARS:
            width = struct.calcsize(f"<{SCALARS[each]}")
            return list(struct.unpack(f"<{count}{SCALARS[each]}", self.bytes(count * width)))
        if each != TEXT:
            raise damaged(self.path, f"a list of its header is of an unknown type ({each})")
        return [self.text() for _ in range(count)]


def damaged(path: Path, why: str) -> Unservable:
    return Unservable(f"{path} is damaged: {why}; fetch it again")


def read(path: Path) -> Gguf:
    """Read the header of one file. Raises Unservable, naming what is wrong."""
    try:
        size = regular(path).stat().st_size
        with path.open("rb") as file:
            return read_all(path, Reading(path, file, size), size)
    except OSError as error:
        raise Unservable(f"{path} cannot be read: {error.strerror}") from None


def read_all(path: Path, reading: Reading, size: int) -> Gguf:
    if size < 24 or reading.bytes(4) != MAGIC:
        raise Unservable(f"{path} is no GGUF file, or only the beginning of one: fetch it again")
    version = reading.number("I")
    if version not in VERSIONS:
        big = version & 0xFFFF == 0
        why = "for processors of another kind (big endian)" if big else f"of version {version}, not 2 or 3"
        raise Unservable(f"{path} is a GGUF file {why}: fetch another")
    tensors, keys = reading.count(MOST_TENSORS, "tensors"), reading.count(MOST_KEYS, "keys")
    made = Gguf(path, version)
    for _ in range(keys):
        begin = reading.file.tell()
        key, kind = reading.text(), reading.number("I")
        if key in made.values:
            raise damaged(path, f"it has the key {key} twice")
        made.values[key] = reading.value(kind)
        end = reading.file.tell()
        reading.file.seek(begin)
        made.raw[key] = reading.file.read(end - begin)
    alignment = made.alignment
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise damaged(path, f"its tensors cannot be aligned to {alignment!r} bytes (general.alignment)")
    made.tensors = [tensor_of(path, reading) for _ in range(tensors)]
    made.data_at = up(reading.file.tell(), alignment)
    check_places(made, size)
    return made


def tensor_of(path: Path, reading: Reading) -> GgufTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name, dimensions = reading.text(), reading.number("I")
    if not 0 < dimensions <= 4:
        raise damaged(path, f"the tensor {name} has {dimensions} dimensions")
    shape = tuple(reading.number("Q") for _ in range(dimensions))
    kind, offset = reading.number("I"), reading.number("Q")
    try:
        values, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise Unservable(
            f"{path} holds {name} in a form that is not known here (ggml type {kind}): fetch the model in "
            "another"
        ) from None
    if not prod(shape) or shape[0] % values:
        raise damaged(path, f"the tensor {name} of {list(shape)} numbers has no whole blocks of {values}")
    return GgufTensor(name, shape, kind, offset, prod(shape) // values * block_bytes)


def check_places(made: Gguf, size: int) -> None:
    end, last, names = 0, "", set[str]()
    for tensor in sorted(made.tensors, key=lambda tensor: tensor.offset):
        if tensor.name in names:
            raise damaged(made.path, f"it has the tensor {tensor.name} twice")
        if tensor.offset % made.alignment or tensor.offset < end:
            raise damaged(made.path, f"the tensor {tensor.name} begins in the midst of {last or 'nothing'}")
        end, last = tensor.offset + tensor.size, tensor.name
        names.add(tensor.name)
    if made.data_at + end > size:
        raise damaged(made.path, f"it has {size} bytes, but its header asks for {made.data_at + end}")


def up(at: int, alignment: int) -> int:
    return -(-at // alignment) * alignment


# -- split files


def shards(path: Path) -> list[Path]:
    """Return all files of the model that `path` belongs to, in order.
    Raises Unservable where one is missing."""
    matched = SHARD.fullmatch(path.name)
    if not matched:
        return [path]
    name, _, total = matched.groups()
    others = {
        int(found[2]): other
        for other in path.parent.iterdir()
        if (found := SHARD.fullmatch(other.name)) and found[1] == name and found[3] == total
    }
    for number in range(1, int(total) + 1):
        if number not in others:
            raise Unservable(
                f"{path.parent / name}-{number:05}-of-{total}.gguf is missing: the model is split over "
                f"{int(total)} files, fetch all"
            )
    return [others[number] for number in range(1, int(total) + 1)]


def read_shards(path: Path) -> list[Gguf]:
    """Read the header of each file of a model, and check that they are parts of one whole.
    Raises Unservable."""
    files = [read(shard) for shard in shards(path)]
    count = files[0].values.get("split.count", 1)
    for number, file in enumerate(files):
        split = file.values.get("split.count", 1), file.values.get("split.no", 0)
        if split != (max(1, count), number) and split != (0, 0):
            raise Unservable(
                f"{file.path} says that it is part {split[1]} of {split[0]} (counted from 0): name the "
                "first of files that are"
                " called NAME-00001-of-0000N.gguf, as they came, or join them with llama-gguf-split --merge"
            )
    if count not in (0, len(files)):
        raise Unservable(f"{path} is one of {count} files, of which {len(files)} are here: fetch all")
    names = [tensor.name for file in files for tensor in file.tensors]
    wanted = files[0].values.get("split.tensors.count", len(names))
    if len(set(names)) != len(names) or (len(files) > 1 and wanted != len(names)):
        raise Unservable(
            f"{path} and its other parts hold {len(names)} tensors, not {wanted} different ones: they are "
            "of two models"
        )
    return files


def join(files: Sequence[Gguf], path: Path) -> None:
    """Join several files into one, with the metadata of the first."""
    first = files[0]
    raw = [data for key, data in first.raw.items() if not key.startswith("split.")]
    tensors = [(file, tensor) for file in files for tensor in file.tensors]
    with path.open("wb") as out:
        out.write(struct.pack("<4sIQQ", MAGIC, first.version, len(tensors), len(raw)))
        out.write(b"".join(raw))
        at = 0
        for _, tensor in tensors:
            name = tensor.name.encode()
            out.write(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor.shape)))
            out.write(struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.kind, at))
            at = up(at + tensor.size, first.alignment)
        for file, tensor in tensors:
            out.write(bytes(up(out.tell(), first.alignment) - out.tell()))
            copy(file, tensor, out)


def copy(file: Gguf, tensor: GgufTensor, out: BinaryIO, piece: int = 1 << 24) -> None:
    with file.path.open("rb") as source:
        source.seek(file.data_at + tensor.offset)
        for left in range(tensor.size, 0, -piece):
            out.write(source.read(min(piece, left)))
