"""A model's name -> a local folder of safetensors, config and tokenizer. Nothing is imported before it is needed.
Pickled weights are never read.
"""

import hashlib
import json
import platform
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from .fetch import BUNDLED, Say, cache_folder, converted, from_bundle, from_gguf
from .link import Unservable

MANIFEST = "delivered.json"  # of a folder that stage-model filled: which tensors are there
TOKENIZER_FILES = (
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens*",
    "chat_template*",
    "added_*",
)


def locate(
    model: str,
    say: Say = lambda line: None,
    timeout_s: float = 600.0,
    *,
    whole: bool = False,
    fetch: bool = True,
) -> Path:
    """The folder of `model`; fetches and converts what is not there yet.

    A part of it that stage-model sent will do, unless all of it must be there (`whole`). `say` is told in a line what
    takes long. Ranks on one host may all call this: one works, the others wait up to `timeout_s`. Raises Unservable
    where there is no such model or its files are damaged, or it is not here and not to be fetched.
    """
    path = Path(model).expanduser()
    if here := whole_here(model):
        folder = here
    elif not whole and delivered_folder(model).is_dir():
        folder = delivered_folder(model)
        if not (folder / MANIFEST).is_file():
            raise Unservable(
                f"{folder} was not delivered whole: python -m jarvis_mpi stage-model sends what is missing"
            )
    elif not fetch and (model in BUNDLED or is_hubs(model) or path.suffix == ".gguf"):
        raise Unservable(f"the model {model} is not there: python -m jarvis_mpi stage-model sends it")
    elif model in BUNDLED:
        folder = from_bundle(BUNDLED[model], say, timeout_s)
    elif path.suffix == ".gguf":
        folder = from_gguf(path, say, timeout_s)
    elif is_hubs(model):
        folder = from_hub(model, say)
    else:
        raise Unservable(
            f"there is no model {model!r}: name a bundled one ({', '.join(BUNDLED)}), a folder of safetensors,"
            " a GGUF file or a hub id (owner/name)"
        )
    check(folder)
    return folder


def whole_here(model: str) -> Path | None:
    """The folder of a model that needs no fetching and no converting."""
    path = Path(model).expanduser()
    if model in BUNDLED:
        return converted(BUNDLED[model])
    if path.is_dir():
        return path
    return in_hubs_cache(model) if is_hubs(model) else None


def is_hubs(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "~", "/"))


def delivered_folder(model: str) -> Path:
    """Where stage-model puts the part of `model` that is to be here; hosts may share the user's cache folder."""
    return (
        cache_folder() / "delivered" / f"{hashlib.sha256(model.encode()).hexdigest()[:16]}-{platform.node()}"
    )


def delivered(folder: Path) -> set[str] | None:
    """The names of the tensors that are there; None: all are."""
    manifest = folder / MANIFEST
    return set(json.loads(manifest.read_text())["tensors"]) if manifest.is_file() else None


def check_layers(folder: Path, layers: Iterable[int]) -> None:
    """Raises Unservable if one of them was not delivered."""
    names = delivered(folder)
    if names is None:
        return
    there = {layer_of(name) for name in names}
    if lacking := sorted(set(layers) - there):
        raise Unservable(
            f"{folder} was delivered without layer {', '.join(map(str, lacking))}:"
            " python -m jarvis_mpi stage-model with this run's --split and --copies"
        )


def layer_of(tensor: str) -> int | None:
    """The decoder layer that a tensor of this name belongs to: the first number in it, in every family."""
    found = re.search(r"\.(\d+)\.", f".{tensor}")
    return int(found[1]) if found else None


def check(folder: Path) -> None:
    """Raises Unservable unless `folder` has a config and whole safetensors files."""
    config = folder / "config.json"
    if not config.is_file():
        raise Unservable(f"{folder} is no model: it has no config.json")
    try:
        json.loads(config.read_text())
    except ValueError:
        raise Unservable(f"{config} is no JSON: fetch it again") from None
    for _ in headers(folder):
        pass


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, as its index names them. Raises Unservable if one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            raise Unservable(f"{index} is no index of safetensors files: fetch it again") from None
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        pickled = any(folder.glob("*.bin"))
        raise Unservable(
            f"{folder} has no safetensors file"
            + (
                ": its .bin files are pickles, which are never read; convert them to safetensors"
                if pickled
                else ""
            )
        )
    for name in names:
        if not (folder / name).is_file():
            raise Unservable(f"{folder / name} is missing, but model.safetensors.index.json names it")
    return [folder / name for name in names]


def headers(folder: Path) -> Iterator[tuple[Path, dict, int]]:
    """Each weights file, its safetensors header and where its data begin. Raises Unservable if one is damaged."""
    for path in weight_files(folder):
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            try:
                header = json.loads(file.read(length)) if 0 < length < min(size, 1 << 27) else None
            except ValueError:
                header = None
        if not isinstance(header, dict):
            raise Unservable(f"{path} is not a whole safetensors file: fetch it again")
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        if end != size:
            raise Unservable(
                f"{path} has {size} bytes, but its header says {end}: it is damaged, fetch it again"
            )
        yield path, header, 8 + length


def fingerprint(folder: Path) -> str:
    """A digest of the config, of every tensor's name and shape, and of 64 bytes from each tensor's middle.

    Reading all of a model from an SD card takes minutes; this tells two models, or two states of
    training of one, apart in a fraction of a second.
    """
    config = json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for path, header, data in headers(folder):
        digest.update(json.dumps(header, sort_keys=True).encode())
        with path.open("rb") as file:
            for name in sorted(header.keys() - {"__metadata__"}):
                begin, end = header[name]["data_offsets"]
                file.seek(data + (begin + end) // 2)
                digest.update(file.read(min(64, end - (begin + end) // 2)))
    return digest.hexdigest()[:16]


def bytes_by_layer(folder: Path) -> dict[int, int]:
    """What the tensors of each decoder layer take in the files."""
    found: dict[int, int] = {}
    for _, header, _ in headers(folder):
        for name in header.keys() - {"__metadata__"}:
            if (layer := layer_of(name)) is not None:
                begin, end = header[name]["data_offsets"]
                found[layer] = found.get(layer, 0) + end - begin
    return found


def layer_bytes(folder: Path, depth: int) -> float:
    """What a layer takes, at the most: the files' bytes shared by all layers, embeddings included."""
    return sum(path.stat().st_size for path in weight_files(folder)) / depth


WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
)


def in_hubs_cache(model: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=list(WANTED), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def from_hub(model: str, say: Say) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    say(f"fetching {model} from the hub")
    try:
        return Path(snapshot_download(model, allow_patterns=list(WANTED)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unservable(
            f"{model} is neither a folder here nor in the hub's cache nor to be fetched: {reason}"
        ) from None
