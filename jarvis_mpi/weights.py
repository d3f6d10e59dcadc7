"""Read from a model's folder only the tensors that a part of it needs, memory-mapped."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers.initialization import no_init_weights

from .int8 import Int8Linear, Rows
from .link import Unservable
from .models import headers
from .pack import Make, PackedLinear, can_pack, pack

AS_THEY_ARE, INT8 = "auto", "int8"  # --weights

# A tensor's name in the files -> in this part, or None: not in this part.
Rename = Callable[[str], str | None]

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # as safetensors calls them


@contextmanager
def empty_parameters() -> Iterator[None]:
    """Modules built in here have parameters without memory (on meta), but real buffers."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore
    try:
        with no_init_weights():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore


def packed_kind(weights: str, dtype: torch.dtype) -> Make | None:
    """What makes the layers that stand in for nn.Linear; None: nothing is gained."""
    if weights == INT8:
        return partial(Int8Linear, Rows())
    return PackedLinear if can_pack(dtype) else None


def fill(model, folder: Path, rename: Rename, dtype: torch.dtype, weights: str = AS_THEY_ARE) -> None:
    """Give `model` its parameters from `folder`, each with a mapping of its own: what is not used costs no
    memory, what is packed gives its mapping back. Raises Unservable where one is missing or of another shape.
    """
    wanted = dict(model.named_parameters())
    prefix = model.base_model_prefix + "."
    source = {}
    for path, header, data_at in headers(folder):
        for stored in header.keys() - {"__metadata__"}:
            if new := rename(stored):
                for name in {new, new.removeprefix(prefix), prefix + new} & wanted.keys():
                    source[name] = partial(read, path, header[stored], data_at, dtype)
    state = {name: reread() for name, reread in source.items()}
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise Unservable(
                f"{name} has the shape {list(tensor.shape)} in {folder},"
                f" but its config asks for {list(wanted[name].shape)}"
            )
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Unservable(f"{folder} has no weights for {missing[0]}{more}")
    model.eval().requires_grad_(False)
    if make := packed_kind(weights, dtype):
        rereads = {parameter: source[name] for name, parameter in model.named_parameters() if name in source}
        pack(model, rereads.__getitem__, make)


def read(path: Path, tensor: dict, data_at: int, dtype: torch.dtype) -> torch.Tensor:
    """One tensor, mapped where the file holds it in `dtype`.

    Only its own bytes are mapped, for reading: safetensors maps the whole file as if to be written, which
    Linux refuses where the file is larger than the memory of a Pi.
    """
    stored = DTYPES.get(tensor["dtype"])
    if stored is None:
        raise Unservable(f"{path} holds numbers of kind {tensor['dtype']}, not {', '.join(DTYPES)}")
    begin, end = tensor["data_offsets"]
    if begin == end:
        return torch.empty(tensor["shape"], dtype=dtype)
    numbers = np.memmap(path, np.uint8, "r", data_at + begin, (end - begin,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be written: nobody does
        return torch.frombuffer(numbers, dtype=stored).view(tensor["shape"]).to(dtype)
