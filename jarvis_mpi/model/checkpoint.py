"""Find the local folder of a model: safetensors, config and tokenizer.
Nothing is imported before it is needed. Pickled weights are never read.
"""

import hashlib
import json
import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from ..common.boundary import guarded, reason
from ..common.cache_folder import Say, another, cache_folder
from ..common.errors import Unservable
from ..common.settings import is_utf8
from .download import BUNDLED, converted, from_bundle, from_gguf, is_gguf
from .safetensors_files import json_object, weight_files
from .safetensors_header import FLOATS, header_of, tensors_in

MANIFEST = "delivered.json"  # the tensors in a folder that stage-model filled
TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens*",
    "chat_template*",
    "added_*",
    "tekken.json",  # Mistral's own
    "emoji.json",  # GPT-NeoX-Japanese's
)


def locate(
    model: str,
    say: Say = lambda line: None,
    timeout_s: float = 600.0,
    *,
    whole: bool = False,
    fetch: bool = True,
) -> Path:
    """Return the folder of `model`; fetch and convert what is missing.

    A part that stage-model sent will do, unless all of it is needed (`whole`). `say` gets a line for what
    takes long. Ranks on one host may all call this: one works, the others wait up to `timeout_s`. Raises
    Unservable where there is no such model or its files are damaged, or it is not here and not to be fetched.
    """
    try:
        folder = found(model, say, timeout_s, whole, fetch)
        refuse_other_bytes(folder)
        check(folder)
    except OSError as error:  # a folder without permission, or a name that no file can have
        raise Unservable(unreadable(model, error)) from None
    except RuntimeError as error:  # ~somebody, whom the system does not know
        raise Unservable(
            f"the model {model[:200]} cannot be read: {reason(error)}: write its folder's path out"
        ) from None
    return folder


def refuse_other_bytes(folder: Path) -> None:
    """Raises Unservable where the folder's name is not UTF-8: the library of tensors takes no such name."""
    whole = folder.absolute()
    for each in (whole, *whole.parents)[::-1]:
        if not is_utf8(each.name):
            raise Unservable(f"the folder {str(each)!a} has a name that is not UTF-8 text: rename it")


def unreadable(model: str, error: OSError) -> str:
    """Return the sentence for a folder that cannot be read: the model's, or the cache's."""
    from huggingface_hub.constants import HF_HUB_CACHE

    why = error.strerror or str(error)
    for cache, variable in ((cache_folder(), "JARVIS_CACHE"), (Path(HF_HUB_CACHE), "HF_HUB_CACHE")):
        if Path(str(error.filename)).is_relative_to(cache):
            return f"the cache folder {cache} cannot be looked into ({why}): {another(cache, variable)}"
    return f"the model {model[:200]} cannot be read: {why}"


def found(model: str, say: Say, timeout_s: float, whole: bool, fetch: bool) -> Path:
    path = Path(model).expanduser()
    if here := whole_here(model, with_tokenizer=fetch):
        folder = here
    elif not whole and delivered_folder(model).is_dir():
        folder = delivered_folder(model)
        if not (folder / MANIFEST).is_file():
            raise Unservable(
                f"{folder} was not delivered whole: python -m jarvis_mpi stage-model sends what is missing"
            )
    elif not fetch and (model in BUNDLED or is_hubs(model) or is_gguf(path)):
        raise Unservable(f"the model {model} is not there: python -m jarvis_mpi stage-model sends it")
    elif model in BUNDLED:
        folder = from_bundle(BUNDLED[model], say, timeout_s)
    elif is_gguf(path):
        folder = from_gguf(path, say, timeout_s)
    elif path.is_file():
        raise Unservable(
            f"{model} is a file: name the model's folder (--model {path.parent}), or a GGUF file"
        )
    elif is_hubs(model):
        folder = from_hub(model, say)
    else:
        raise Unservable(
            f"there is no model {model!r}: name a bundled one ({', '.join(BUNDLED)}), "
            "a folder of safetensors, a GGUF file or a hub id (owner/name)"
        )
    return folder


def whole_here(model: str, with_tokenizer: bool = False) -> Path | None:
    """Return the folder of a model that needs no fetching and no converting; None where there is none."""
    path = Path(model).expanduser()
    if model in BUNDLED:
        return converted(BUNDLED[model])
    if path.is_dir():
        return path
    return in_hubs_cache(model, with_tokenizer) if is_hubs(model) else None


def is_hubs(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "~", "/"))


def delivered_folder(model: str) -> Path:
    """Return where stage-model puts this host's part of `model`; hosts may share the user's cache folder."""
    return (
        cache_folder()
        / "delivered"
        / f"{hashlib.sha256(os.fsencode(model)).hexdigest()[:16]}-{platform.node()}"
    )


def delivered(folder: Path) -> set[str] | None:
    """Return the names of the tensors that were delivered; None: all of them."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    tensors = json_object(manifest).get("tensors")
    if not isinstance(tensors, list) or not all(isinstance(name, str) for name in tensors):
        raise Unservable(f"{manifest} does not say which tensors are there: delete it, and stage-model again")
    return set(tensors)


def check_layers(folder: Path, layers: Iterable[int]) -> None:
    """Raises Unservable if one of the layers was not delivered."""
    names = delivered(folder)
    if names is None:
        return
    present = {layer_of(name) for name in names}
    if lacking := sorted(set(layers) - present):
        raise Unservable(
            f"{folder} was delivered without layer {', '.join(map(str, lacking))}:"
            " python -m jarvis_mpi stage-model with this run's --split and --copies"
        )


def layer_of(tensor: str) -> int | None:
    """Return the decoder layer that a tensor belongs to: the first number in its name, in every family."""
    found = re.search(r"\.(\d+)\.", f".{tensor}")
    return int(found[1]) if found else None


def check(folder: Path) -> None:
    """Raises Unservable unless `folder` has a config and whole safetensors files.
    A missing tensor shows when a part is filled."""
    config, adapter = folder / "config.json", folder / "adapter_config.json"
    if not config.is_file():
        why = (
            ": it is an adapter; merge it into its model first" if adapter.is_file() else other_forms(folder)
        )
        raise Unservable(f"{folder} is no model: it has no config.json{why}")
    if adapter.is_file():
        raise Unservable(
            f"{folder} holds an adapter beside a model ({adapter.name}): merge it into the model "
            f"(merge_and_unload of peft), or move {adapter.name} away to ask the model without it"
        )
    json_object(config)
    if (folder / "hf_quant_config.json").is_file():
        raise Unservable(
            f"{folder} holds quantised weights (hf_quant_config.json): save the model dequantised first"
        )
    for _ in headers(folder):
        pass


def other_forms(folder: Path) -> str:
    """Return advice for a folder without a config."""
    if found := sorted(path.name for path in folder.glob("[!.]*.[gG][gG][uU][fF]")):
        named = ", ".join(found[:5]) + (" ..." if len(found) > 5 else "")
        return f", but {named}: give --model the file"
    if found := sorted(path.parent.name for path in folder.glob("*/config.json")):
        return f"; the folders in it that have one: {', '.join(found[:5])}"
    return ""


def headers(folder: Path) -> Iterator[tuple[Path, dict, int]]:
    """Yield each weights file, its tensors' entries and where its data begin.
    Raises Unservable if one is damaged."""
    for path in weight_files(folder):
        yield path, *header_of(path)


def stored_dtype(folder: Path) -> str:
    """Return torch's name of the dtype of most bytes of floating point numbers; float32 if there are none."""
    found: Counter[str] = Counter()
    for _, header, _ in headers(folder):
        for name in tensors_in(header):
            begin, end = header[name]["data_offsets"]
            found[FLOATS.get(header[name]["dtype"], "")] += end - begin
    del found[""]
    return max(found, key=found.__getitem__, default="float32")


def fingerprint(folder: Path) -> str:
    """Return a digest of the config, of every tensor's name and shape, and of 64 bytes from each tensor's
    middle.

    Reading all of a model from an SD card takes minutes; this distinguishes two models, or two states of
    training of one, in a fraction of a second.
    """
    config = json_object(folder / "config.json")
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for path, header, data in headers(folder):
        digest.update(json.dumps(header, sort_keys=True).encode())
        with path.open("rb") as file:
            for name in sorted(tensors_in(header)):
                begin, end = header[name]["data_offsets"]
                file.seek(data + (begin + end) // 2)
                digest.update(file.read(min(64, end - (begin + end) // 2)))
    return digest.hexdigest()[:16]


def bytes_by_layer(folder: Path) -> dict[int, int]:
    """Return the bytes of each decoder layer's tensors in the files."""
    found: dict[int, int] = {}
    for _, header, _ in headers(folder):
        for name in tensors_in(header):
            if (layer := layer_of(name)) is not None:
                begin, end = header[name]["data_offsets"]
                found[layer] = found.get(layer, 0) + end - begin
    return found


def layer_bytes(folder: Path, depth: int) -> float:
    """Return the bytes of a layer, at the most: all bytes of the files, embeddings included, divided by the
    layers."""
    return sum(path.stat().st_size for path in weight_files(folder)) / depth


WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
)


def in_hubs_cache(model: str, with_tokenizer: bool = False) -> Path | None:
    """Return the model's folder in the Hugging Face cache; None also where only a part is there, as after a
    broken download."""
    with guarded("huggingface_hub cannot be used", "mend its variables (HF_...), or name a folder"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(model, allow_patterns=list(WANTED), local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    return folder if has_weights(folder) and (not with_tokenizer or has_tokenizer(folder)) else None


def has_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except Unservable:
        return False


def has_tokenizer(folder: Path) -> bool:
    """Whether there is any file of one: a notebook may have fetched the model alone."""
    return any(fnmatch(path.name, each) for path in folder.iterdir() for each in TOKENIZER_FILES)


def from_hub(model: str, say: Say) -> Path:
    say(f"fetching {model} from the hub")
    with guarded(f"{model} is neither a folder here nor in the hub's cache nor to be fetched"):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(model, allow_patterns=list(WANTED)))
