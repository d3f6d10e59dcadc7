"""python -m jarvis_mpi convert-gguf FILE FOLDER:
dequantise a GGUF file, by transformers, into safetensors.

Numbers that are not quantised stay exactly what they are; quantised ones are rounded to bfloat16.

Every tensor of the file must become a part of the model, and every part of the model must come from the file:
transformers passes over tensors that it does not know, and makes random ones where it finds none. An error is
one sentence on standard error, with the status SENTENCE.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from ..common.boundary import guarded
from ..common.errors import Unservable
from . import gguf_config, gguf_tokenizer
from .download import SENTENCE
from .family import quiet
from .gguf_header import Gguf, GgufTensor, join, read, read_shards
from .gguf_rope import TABLES, Rope

# Values of general.type (gguf.constants.GGUFType); an old clip file has none.
NO_MODELS = {
    "adapter": "an adapter (LoRA), which is to be merged into its model first "
    "(llama.cpp's llama-export-lora)",
    "mmproj": "the part of a model that sees pictures or hears (mmproj), which is not served",
    "imatrix": "a table of importances (imatrix), made to quantise a model",
    "model": "the part of a model that sees pictures (clip), which is not served",
}
Type = gguf.GGMLQuantizationType
FLOATS: dict[int, Any] = {Type.F32: np.dtype("<f4"), Type.F16: np.dtype("<f2")}
CHUNK = 1 << 22  # numbers that are looked at together
WHOLE = "source.gguf"  # the file, or its shards joined, while it is converted


def spare_repetition() -> None:
    """Cache transformers' reader of the file, which it makes three times, and its table of names, made once a
    module: most of the time."""
    for name in ("GGUFReader", "get_tensor_name_map"):
        setattr(gguf, name, cache(getattr(gguf, name)))


def main(file: str, folder: str) -> int:
    """Convert `file` into `folder`; return the exit status."""
    try:
        make(file, folder)
    except Unservable as error:
        print(error, file=sys.stderr)
        return SENTENCE
    return 0


def make(file: str, folder: str) -> None:
    quiet()
    spare_repetition()
    files, made = read_shards(Path(file)), Path(folder)
    source = made / WHOLE
    absent = gguf_config.leave_out_absent(files[0])
    if len(files) == 1 and not absent:
        source.symlink_to(files[0].path.absolute())
    else:
        join(files, source)
    whole = read(source)
    whole.path = Path(file)  # the name in error messages
    with guarded(f"{file} cannot be read by transformers"):
        convert(whole, source, made)
    source.unlink()


def convert(file: Gguf, source: Path, folder: Path) -> None:
    check_model(file)
    gguf_config.check_tokens(file)
    rope, config = checked_config(file, source, folder)
    # Without GgufConfig the weights stay packed, and save_pretrained fails (transformers 5.23).
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=source.name, config=config, quantization_config=GgufConfig(dequantize=True),
        dtype=config.dtype if vectors_fit(file, source, config.dtype) else torch.float32,
        output_loading_info=True,
    )  # fmt: skip
    dense, info = loaded
    check_all_used(file, dense, info)
    rope.check(dense)
    for name, parameter in dense.named_parameters():
        if not parameter.isfinite().all():
            raise Unservable(
                f"{file.path} holds numbers that are no numbers (NaN or infinity) in {name}: fetch another"
            )
        if parameter.dim() > 1 or fits(parameter.data, config.dtype):
            parameter.data = parameter.data.to(config.dtype)
    dense.config.dtype = config.dtype
    ends = gguf_config.end_ids(file)
    dense.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    with guarded(f"{file.path} has no tokenizer that can be used"):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=source.name)
        gguf_tokenizer.correct(tokenizer, file)
        tokenizer.save_pretrained(folder)
    dense.save_pretrained(folder)


def check_model(file: Gguf) -> None:
    """Raises Unservable for a file that is no model, or has other layers than it declares, before anything of
    their size is made."""
    kind = file.values.get("general.type", "model")
    if kind != "model" or file.values.get("general.architecture") == "clip":
        raise Unservable(
            f"{file.path} is no model, but {NO_MODELS.get(kind, kind)}: give --model the file of the model "
            "itself"
        )
    if not file.tensors:
        raise Unservable(
            f"{file.path} holds a vocabulary and no weights: give --model the file of the model itself"
        )
    architecture = file.values.get("general.architecture")
    if not isinstance(architecture, str):
        raise Unservable(
            f"{file.path} does not say what kind of model it is (general.architecture): fetch another"
        )
    count = file.values.get(f"{architecture}.block_count")
    present = {
        int(name.split(".")[1])
        for name in names(file)
        if name.startswith("blk.") and name.split(".")[1].isdecimal()
    }
    if type(count) is not int or present != set(range(count)):
        raise Unservable(
            f"{file.path} says that it has {count} layers (block_count), "
            f"and holds {len(present)}: fetch it again"
        )


def names(file: Gguf) -> list[str]:
    return [tensor.name for tensor in file.tensors if tensor.name not in TABLES]


def narrowest_dtype(file: Gguf, source: Path) -> torch.dtype:
    """Return the narrowest dtype that holds the file's matrices; bfloat16 where most are quantised."""
    if is_quantised(file):
        return torch.bfloat16
    matrices = [tensor for tensor in file.tensors if len(tensor.shape) > 1]
    of_bfloat16 = any(tensor.kind == Type.BF16 for tensor in matrices)
    for dtype in (torch.bfloat16, *(() if of_bfloat16 else (torch.float16,))):
        if all(fits(part, dtype) for tensor in matrices for part in parts(file, source, tensor)):
            return dtype
    return torch.float32


def vectors_fit(file: Gguf, source: Path, dtype: torch.dtype) -> bool:
    """Return whether norms and biases lose nothing in `dtype`; those beside quantised matrices may."""
    vectors = [tensor for tensor in file.tensors if len(tensor.shape) == 1 and tensor.name not in TABLES]
    return is_quantised(file) or all(
        fits(part, dtype) for tensor in vectors for part in parts(file, source, tensor)
    )


def is_quantised(file: Gguf) -> bool:
    """Return whether most of its bytes are."""
    size_bytes: Counter[int] = Counter()
    for tensor in file.tensors:
        size_bytes[tensor.kind] += tensor.size
    return size_bytes.most_common(1)[0][0] not in {*FLOATS, Type.BF16}


def parts(file: Gguf, source: Path, tensor: GgufTensor) -> Iterator[torch.Tensor]:
    """Yield the numbers of a tensor, if they are of 32 or 16 bits, some at a time."""
    if kind := FLOATS.get(tensor.kind):
        at, count = file.data_at + tensor.offset, tensor.size // kind.itemsize
        numbers = np.memmap(source, kind, "r", at, (count,))
        for first in range(0, count, CHUNK):
            yield torch.from_numpy(numbers[first : first + CHUNK].astype(np.float32))


def fits(numbers: torch.Tensor, dtype: torch.dtype) -> bool:
    """Return whether none of `numbers` is rounded in `dtype`."""
    return torch.equal(numbers.to(dtype).to(numbers.dtype), numbers)


def checked_config(file: Gguf, source: Path, folder: Path) -> tuple[Rope, Any]:
    """Return the config of the file's model.
    Raises Unservable where we do not serve it, or its tensors have other sizes than the file's."""
    config = AutoConfig.from_pretrained(folder, gguf_file=source.name)
    config, rope = gguf_config.corrected(config, file)
    config.dtype = narrowest_dtype(file, source)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    numbers = sum(parameter.numel() for parameter in empty.parameters())
    table = {tensor.name: tensor for tensor in file.tensors}
    found = sum(torch.Size(table[name].shape).numel() for name in names(file))
    unknown = sorted(set(names(file)) - known_names(empty, config))
    if unknown:
        raise Unservable(
            f"{file.path} has the tensor {unknown[0]}, which transformers' {config.model_type} has not: "
            "take the model's safetensors, or another GGUF file of it"
        )
    if numbers != found:
        raise Unservable(
            f"{file.path} holds {found} numbers, and its metadata ask for {numbers}: fetch it again"
        )
    return rope, config


def known_names(model, config) -> set[str]:
    """Return the file's names of the model's tensors, as transformers maps them."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    processor = TENSOR_PROCESSORS.get(config.model_type, TensorProcessor)(config=config.to_dict())
    return set(get_gguf_hf_weights_map(model, processor))


def check_all_used(file: Gguf, dense, info: dict) -> None:
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys", "error_msgs"):
        if found := sorted(map(str, info.get(what) or ())):
            raise Unservable(
                f"{file.path} is not the whole model: {found[0]} ({what.replace('_', ' ')}, "
                f"{len(found)} in all); fetch it again"
            )
