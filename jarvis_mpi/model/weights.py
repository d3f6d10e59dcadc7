"""Read from a model's folder only the tensors that a part of it needs, memory-mapped."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from ..common.errors import Unservable
from ..common.layers import Block
from ..nn import norm
from ..nn.linear import DTYPES, FloatLinear, QuantisedLinear
from ..nn.quantisation import FORMATS, quantised_folder, tensor_of
from .checkpoint import headers, layer_of
from .safetensors_header import tensors_in

AS_THEY_ARE = "auto"  # --weights, else one of FORMATS

# A tensor's name in the files -> its name in this part; None where this part lacks it.
Rename = Callable[[str], str | None]
Named = Callable[[str], str]  # its name in this part -> its name in the whole model, for a sentence

# Dtypes in files. Those that no kernel reads are converted when they are loaded, which takes memory.
STORED = {name: dtype for dtype, name in DTYPES.items()}
STORED |= {"F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}

OLD_TABLES = (r"\binv_freq$", r"attn\.masked_bias$")

SAMPLES, SAMPLE_BYTES = 64, 64  # of a tensor, to tell it from another of the same shape


BUILDING = threading.Lock()  # a worker may load what a standby needs beside its work


@contextmanager
def empty_parameters() -> Iterator[None]:
    """Build modules, in the body, with parameters without memory (on meta), but real buffers.

    Only this thread's: what is patched here holds in all threads, and another may map parameters meanwhile.
    Nor may that one rely on torch's usual dtype, which a model's building changes.
    """
    with BUILDING:
        register, mine = nn.Module.register_parameter, threading.get_ident()

        def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            if parameter is not None and threading.get_ident() == mine:
                parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
            register(module, name, parameter)

        nn.Module.register_parameter = on_meta  # type: ignore
        try:
            with no_init_weights():
                yield
        finally:
            nn.Module.register_parameter = register  # type: ignore


class Stored(NamedTuple):
    """A tensor in a model's files."""

    name: str
    path: Path
    tensor: dict  # its safetensors header
    data_at: int  # where the file's data begin

    @property
    def stored(self) -> torch.dtype:
        if self.tensor["dtype"] not in STORED:
            raise Unservable(
                f"{self.path} holds numbers of kind {self.tensor['dtype']}, "
                f"not {', '.join(STORED)}: convert them"
            )
        return STORED[self.tensor["dtype"]]

    def mapped(self) -> Tensor:
        """Map the tensor as the file holds it; the mapping ends with the tensor.

        Only its own bytes are mapped, for reading: safetensors maps the whole file as if to be written, which
        Linux refuses where the file is larger than the memory of a Pi.
        """
        begin, end = self.tensor["data_offsets"]
        if begin == end:
            return torch.empty(self.tensor["shape"], dtype=self.stored)
        numbers = np.memmap(self.path, np.uint8, "r", self.data_at + begin, (end - begin,))
        return tensor_of(numbers).view(self.stored).view(self.tensor["shape"])

    def sample(self) -> str:
        """Return a digest of bytes from all over the tensor: two models may have files of one size, and one
        time (tar, rsync, FAT)."""
        begin, end = self.tensor["data_offsets"]
        digest = sha256()
        with self.path.open("rb") as file:
            for at in range(begin, end, max(SAMPLE_BYTES, (end - begin) // SAMPLES)):
                file.seek(self.data_at + at)
                digest.update(file.read(min(SAMPLE_BYTES, end - at)))
        return digest.hexdigest()[:16]

    def quantised(self, weights: str, turned: bool) -> Path:
        """Return the folder of the tensor, quantised. `turned`: the file holds [in, out]."""
        file = self.path.stat()
        identity = (
            f"{self.path.resolve()} {file.st_size} {file.st_mtime_ns} {self.data_at} {self.tensor} "
            f"{self.sample()}"
        )
        if turned:
            return quantised_folder(
                weights, f"{identity} turned", self.tensor["shape"][::-1], lambda: self.mapped().T
            )
        return quantised_folder(weights, identity, self.tensor["shape"], self.mapped)


def find(model, folder: Path, rename: Rename) -> dict[str, Stored]:
    """Find each parameter of `model`, and each buffer that is saved with it, in the files of `folder`, by the
    names that transformers would load them under.

    Raises Unservable where a parameter would have to be assembled from tensors that are stored otherwise, or
    is stored twice.
    """
    wanted = model.state_dict().keys()
    prefix = model.base_model_prefix + "."
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    found: dict[str, Stored] = {}
    for path, header, data_at in headers(folder):
        for stored in sorted(tensors_in(header)):
            now, converted = rename_source_key(stored, renamings, converters)
            new = rename(now)
            bare = new.removeprefix(prefix) if new else ""
            names = {new, bare, bare.removeprefix(prefix), f"{prefix}{new}"} & wanted if new else set()
            if converted and names:
                raise Unservable(
                    f"{folder} holds {stored} in a form that transformers converts while it loads: this is "
                    "not done here"
                )
            for name in names:
                this = Stored(stored, path, header[stored], data_at)
                check_alike(folder, found.setdefault(name, this), this)
    return found


def check_alike(folder: Path, one: Stored, other: Stored) -> None:
    """Raises Unservable where the files have two tensors for one parameter, and they differ."""
    if one == other:
        return
    a, b = one.mapped(), other.mapped()
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
        in_files = one.path != other.path
        names = [f"{each.name}{f' in {each.path.name}' if in_files else ''}" for each in (one, other)]
        raise Unservable(
            f"{folder} has {' and '.join(names)}, which differ and are the same part of the model: "
            "delete one of them"
        )


def names_used(model, folder: Path, rename: Rename) -> set[str]:
    """Return the files' tensors that `model` uses: some files hold more, such as the masks of older releases
    (-inf)."""
    return {stored.name for stored in find(model, folder, rename).values()}


def unexpected_names(model, folder: Path, block: Block, used: Set[str]) -> list[str]:
    """Return the files' tensors of these layers that `model` has no place for, as a bias where the config
    says that there is none. `used`: those that it has.

    transformers warns of them and passes over them; tables that older releases stored it passes over in
    silence.
    """
    silent = [*(model._keys_to_ignore_on_load_unexpected or ()), *OLD_TABLES]
    return [
        name
        for _, header, _ in headers(folder)
        for name in sorted(tensors_in(header))
        if layer_of(name) in block and name not in used and not any(re.search(each, name) for each in silent)
    ]


def map_parameters(model, folder: Path, rename: Rename, named: Named = str) -> dict[str, Stored]:
    """Give `model` its parameters from `folder`, as they are, each with its own mapping. Return where each
    comes from.

    Raises Unservable where one is missing or of another shape.
    """
    wanted = model.state_dict()
    source = find(model, folder, rename)
    state = {name: stored.mapped() for name, stored in source.items()}
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise Unservable(
                f"{named(name)} has the shape {list(tensor.shape)} in {folder},"
                f" but its config asks for {list(wanted[name].shape)}"
            )
    model.load_state_dict(state, strict=False, assign=True)
    # As transformers ties them: a missing one to one that is stored, and not two that differ.
    model.tie_weights(missing_keys=wanted.keys() - state.keys(), recompute_mapping=False)
    parameters = model.named_parameters(remove_duplicate=False)
    check_none_missing(folder, [named(name) for name, parameter in parameters if parameter.is_meta])
    return source


def fill(
    model, folder: Path, rename: Rename, dtype: torch.dtype, weights: str = AS_THEY_ARE, named: Named = str
) -> set[str]:
    """Give `model` its parameters from `folder`: what is not used costs no memory, what is quantised gives
    its mapping back. Return the names of their tensors in the files.
    Raises Unservable as `map_parameters` does."""
    source = map_parameters(model, folder, rename, named)
    model.eval().requires_grad_(False)
    parameters = model.named_parameters(remove_duplicate=False)
    sources = {parameter: source[name] for name, parameter in parameters if name in source}
    for parameter in model.parameters() if weights not in FORMATS else ():
        if parameter.dtype.itemsize > dtype.itemsize or parameter.dtype not in DTYPES:
            parameter.data = parameter.data.to(dtype)
    for name, linear in linears(model).items():
        model.set_submodule(name, replaced(linear, sources[linear.weight], weights))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    for name, buffer in model.named_buffers():
        if name in source and buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm") and (ours := norm.replacement(module)):
            model.set_submodule(name, ours)
    return {stored.name for stored in source.values()}


def replaced(linear: nn.Linear | Conv1D, source: Stored, weights: str) -> nn.Module:
    weight = linear.weight.data.T if is_turned(linear) else linear.weight.data
    if weights in FORMATS:
        folder = source.quantised(weights, is_turned(linear))
        return QuantisedLinear(weights, folder, weight.shape, linear.bias)
    return FloatLinear(weight, linear.bias)


def linears(model) -> dict[str, nn.Linear | Conv1D]:
    """Return every nn.Linear of `model`, or GPT-2's Conv1D, by its name in the model."""
    return {name: module for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)}


def is_turned(linear: nn.Linear | Conv1D) -> bool:
    """Return whether its weight is [in, out]."""
    return type(linear) is Conv1D


def check_none_missing(folder: Path, missing: Sequence[str]) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Unservable(
            f"{folder} has no weights for {missing[0]}{more}: fetch it again, or ask who made it"
        )


def quantise_beforehand(model, folder: Path, rename: Rename, weights: str, named: Named) -> None:
    """Quantise the weights that `fill` will look for on disk: a copy that takes over must not quantise
    first."""
    source = find(model, folder, rename)
    found = {f"{name}.weight": linear for name, linear in linears(model).items()}
    check_none_missing(folder, [named(name) for name in found if name not in source])
    for name, linear in found.items():
        source[name].quantised(weights, is_turned(linear))
