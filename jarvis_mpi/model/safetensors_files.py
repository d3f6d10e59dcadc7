"""Find the safetensors files with a model's weights, as transformers does: by its config, its index or the
usual name."""

import json
from pathlib import Path
from typing import Any

from ..common.errors import Unservable
from ..common.given_file import regular

ONE_FILE, INDEX_ENDING = "model.safetensors", ".safetensors.index.json"
INDEX = f"model{INDEX_ENDING}"
MOST_JSON = 200_000_000  # bytes: more than any config or index has


def json_object(path: Path) -> dict[str, Any]:
    """Read a file of JSON. Raises Unservable where it holds no object."""
    try:
        if regular(path).stat().st_size > MOST_JSON:
            raise Unservable(
                f"{path} has over {MOST_JSON // 10**6} MB, too much for what it is: fetch it again"
            )
        content = json.loads(path.read_bytes().decode())
    except OSError as error:
        raise Unservable(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Unservable(f"{path} is no JSON: fetch it again") from None
    if not isinstance(content, dict):
        raise Unservable(f"{path} is no JSON object: fetch it again")
    return content


def index_of(folder: Path) -> Path | None:
    """Return the index of the tensors' files, if there may be several: as transformers looks for it."""
    named = named_weights(folder)
    if named and not named.endswith(INDEX_ENDING):
        return None
    if not named and (folder / ONE_FILE).is_file():
        return None
    index = folder / (named or INDEX)
    return index if index.is_file() else None


def named_weights(folder: Path) -> str:
    """Return the file of weights that the config names, if it names one.
    Raises Unservable where it is not in the folder."""
    config = folder / "config.json"
    named = json_object(config).get("transformers_weights") if config.is_file() else None
    if named is None:
        return ""
    if not isinstance(named, str) or not named.endswith((".safetensors", INDEX_ENDING)) or is_outside(named):
        raise Unservable(
            f"{config} names {named!r} as its weights (transformers_weights), "
            "no safetensors file of the folder"
        )
    return named


def is_outside(name: str) -> bool:
    """Return whether a file's name leads out of the folder that it should be in."""
    return name.startswith(("/", "\\")) or ".." in Path(name).parts or "\0" in name


def index_names(index: Path) -> dict[str, str]:
    """Return the index's table, tensor -> file.
    Raises Unservable where it has none, or names a file outside its folder."""
    names = json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise Unservable(f"{index} is no index of safetensors files: fetch it again")
    for name in names.values():
        if is_outside(name) or not name.endswith(".safetensors"):
            raise Unservable(f"{index} names {name!r}, no safetensors file of its folder: it is not used")
    return names


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model, as transformers finds them: the config's, else
    model.safetensors, else the index's. Raises Unservable if one is missing."""
    paths = named_files(folder)
    for path in paths:
        check_present(path)
    return paths


def check_present(path: Path) -> None:
    if not path.is_file():
        index = index_of(path.parent)
        says = f"{index.name} names it" if index else "config.json names it"
        raise Unservable(f"{path} is missing, but {says}")


def named_files(folder: Path) -> list[Path]:
    """Return the safetensors files that a model should have. Raises Unservable where none is named."""
    if index := index_of(folder):
        names = sorted(set(index_names(index).values()))
    else:
        names = [named_weights(folder) or ONE_FILE]
    if names == [ONE_FILE] and not (folder / ONE_FILE).is_file():
        raise Unservable(f"{folder} has neither {ONE_FILE} nor {INDEX}{what_instead(folder)}")
    return [folder / name for name in names]


def what_instead(folder: Path) -> str:
    """Return what a folder without the usual names has, and what to do about it."""
    other = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in (".safetensors", ".gguf", ".bin", ".pt", ".pth")
    )
    if "adapter_model.safetensors" in other:
        return ": it is an adapter; merge it into its model first"
    by_kind = {Path(name).suffix.lower(): name for name in reversed(other)}
    if name := by_kind.get(".safetensors"):
        return f", only {name}: rename it if it is the model, or fetch the index too"
    if name := by_kind.get(".gguf"):
        return f": name its GGUF file (--model {folder / name})"
    if other:
        return f": {other[0]} and its like are pickles, which are never read; convert them to safetensors"
    return ": it has no weights; fetch it again"
