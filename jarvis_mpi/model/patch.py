"""Patches: a small linear map in the place of a block that no node is left to run.

    y = x + (x - m) A + b    x, y [S, D] before and after the hole; m, b [D]; A [D, D], or [D, R] times [R, D]

A text's first position, the attention sink of every later one, is unlike all others: there y = x + f, f [D].

One safetensors file holds the patches of all holes (fit-patches makes it). Its metadata names the model, and
each hole's cost with and without its patch. It is memory-mapped. A patch is read at its first use, or earlier
by the node whose hole it would fill.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.given_file import regular
from ..common.json_form import check, number, parsed
from ..common.layers import Block, Case, block_of, layers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FORMAT = "jarvis_mpi patches 1"
PARTS = ("down", "up", "bias", "mean", "first")
NUMBER, NONE = (int, float), type(None)


@dataclass(frozen=True)
class Patch:
    """The patch of one hole: a full-rank one has no `up`, and its `down` is A."""

    down: "Tensor"  # [D, D] or [D, R]
    up: "Tensor | None"  # [R, D]
    bias: "Tensor"  # b
    mean: "Tensor"  # m
    first: "Tensor"  # f

    def __call__(self, x: "Tensor", start: int = 0) -> "Tensor":  # [..., S, D] -> [..., S, D]
        """Apply the patch. `start`: the position of the first row."""
        moved = (x - self.mean) @ self.down
        y = x + (moved if self.up is None else moved @ self.up) + self.bias
        if start == 0:
            y[..., 0, :] = x[..., 0, :] + self.first
        return y


@dataclass(frozen=True)
class PatchInfo:
    """The metadata of a file of patches."""

    fingerprint: str  # of the model, see checkpoint.fingerprint
    digest: str  # of the patches
    # skipped: nats a token lost; patched: the same, None if there is no patch because skipping is better, or
    # the patches of two neighbours one after the other are; how: in words
    holes: dict[Block, dict[str, Any]]

    @property
    def patched(self) -> frozenset[Block]:
        return frozenset(hole for hole, cost in self.holes.items() if cost["patched"] is not None)

    @property
    def losses(self) -> tuple[dict[Case, float], dict[Block, float]]:
        """Return the nats a token lost by skipping each hole, and by patching it."""
        return (
            {frozenset(hole): cost["skipped"] for hole, cost in self.holes.items()},
            {hole: self.holes[hole]["patched"] for hole in self.patched},
        )


def write(path: Path, patches: dict[Block, Patch], info: PatchInfo) -> None:
    """Write a file of patches: matrices in bfloat16, vectors in float32."""
    import torch
    from safetensors.torch import save_file

    tensors = {
        f"{layers(hole)}.{name}": tensor.to(torch.bfloat16 if tensor.ndim > 1 else torch.float32).contiguous()
        for hole, patch in patches.items()
        for name, tensor in vars(patch).items()
        if tensor is not None
    }
    holes = {layers(hole): cost for hole, cost in info.holes.items()}
    metadata = {
        "format": FORMAT,
        "fingerprint": info.fingerprint,
        "digest": info.digest,
        "holes": json.dumps(holes),
    }
    part = path.with_name(f"{path.name}.part")
    save_file(tensors, part, metadata)
    part.replace(path)


def read(path: Path) -> PatchInfo:
    """Read the metadata of a file of patches and check the tensors' shapes. Raises Unservable."""
    from safetensors import safe_open

    with guarded(f"--patches {path} cannot be read"), safe_open(regular(path), "pt") as file:
        metadata = file.metadata() or {}
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != FORMAT:
        raise Unservable(f"--patches {path} holds no patches: make it by python -m jarvis_mpi fit-patches")
    with guarded(f"--patches {path} is damaged", "make it anew by python -m jarvis_mpi fit-patches"):
        check(metadata, {"fingerprint": str, "digest": str, "holes": str}, "its metadata")
        holes = parsed(
            metadata["holes"],
            {str: {"skipped": NUMBER, "patched": (*NUMBER, NONE), "how": str}},
            "its metadata",
        )
        info = PatchInfo(
            metadata["fingerprint"], metadata["digest"], {block_of(name): of for name, of in holes.items()}
        )
        for hole, of in info.holes.items():
            if not 0 <= hole.start < hole.stop or not number(of["skipped"]) or not number(of["patched"] or 0):
                raise ValueError(f"it cannot be that the hole {layers(hole)} costs {of}")
        check_shapes(info.patched, shapes)
    return info


def check_shapes(patched: Iterable[Block], shapes: Mapping[str, list[int]]) -> None:
    """Check that no patch is missing, and all have one width. Raises ValueError."""
    width = None
    for hole in sorted(patched, key=lambda hole: hole.start):
        down, up, *vectors = (shapes.get(f"{layers(hole)}.{name}") for name in PARTS)
        width = width or (vectors[-1] or [0])[0]
        low = down[1] if down and len(down) == 2 else width
        if vectors != [[width]] * len(vectors) or (down, up) not in (
            ([width, width], None),
            ([width, low], [low, width]),
        ):
            raise ValueError(f"the patch of {layers(hole)} has the shapes {down}, {up} and {vectors}")


class Patches:
    """The patches of a file, applied to activations as they travel: S rows in `dtype`, from position `start`
    on."""

    def __init__(self, path: Path, dtype: "torch.dtype"):
        self.path, self.dtype = path, dtype
        self.held: dict[Block, Patch] = {}

    def __call__(self, hole: Block, body: bytes | memoryview, start: int) -> bytes:
        import torch

        from .activations import from_bytes, to_bytes

        patch = self.hold(hole)
        with torch.inference_mode():
            return to_bytes(patch(from_bytes(body, len(patch.mean), self.dtype), start))

    def prepare(self, info: PatchInfo, blocks: Iterable[Block]) -> None:
        """Read the patches of the holes that may open behind `blocks`."""
        ends = {block.stop for block in blocks}
        for hole in info.patched:
            if hole.start in ends:
                self.hold(hole)

    def hold(self, hole: Block) -> Patch:
        """Return the patch of `hole`; it is read once."""
        if hole not in self.held:
            from safetensors import safe_open

            what = f"--patches {self.path}: the patch of {layers(hole)} cannot be read"
            with guarded(what), safe_open(regular(self.path), "pt") as file:
                tensors: dict[str, Any] = {
                    name: file.get_tensor(key).to(self.dtype) if key in file.keys() else None  # noqa: SIM118
                    for name in PARTS
                    for key in [f"{layers(hole)}.{name}"]
                }
                if not all(part.isfinite().all() for part in tensors.values() if part is not None):
                    raise ValueError("a number in it is none")
            self.held[hole] = Patch(**tensors)
        return self.held[hole]
