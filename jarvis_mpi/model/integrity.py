"""python -m jarvis_mpi doctor --model MODEL: check that a model's folder, or GGUF file, is whole and right.

All of its bytes are read, in small pieces. It prints a line for each file while it reads, and one for each
thing to mend.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..common import sealed_folder
from ..common.boundary import guarded
from ..common.cache_folder import cache_folder, writable
from ..common.errors import Unservable
from . import checkpoint
from .not_a_number import NAN, faults
from .safetensors_files import check_present, named_files
from .safetensors_header import header_of


def check(model: str, timeout_s: float) -> int:
    """Print the findings; return the exit status: 0, or 1 where something is to be mended."""
    print(f"looking for {model}", flush=True)
    found = 0
    for line in findings(model, timeout_s):
        print(line, flush=True)
        found += 1
    print(
        f"{found} {'thing' if found == 1 else 'things'} to mend" if found else "nothing to mend", flush=True
    )
    return int(bool(found))


def findings(model: str, timeout_s: float) -> Iterator[str]:
    """Yield a line for each thing to mend."""
    try:
        folder = checkpoint.locate(model, tell, timeout_s)
        if (folder / sealed_folder.SEAL).is_file():
            yield from sealed_folder.damage(folder, reading)
        yield from bad_tensors(folder)
    except Unservable as error:
        yield str(error)
        if Path(model).is_dir():
            yield from (line for line in file_by_file(Path(model)) if line != str(error))
        return
    try:
        with writable(cache_folder()):
            yield from quantised_of(folder)
    except Unservable as error:
        yield str(error)
    yield from unreadable(folder)


def file_by_file(folder: Path) -> Iterator[str]:
    """Yield what is wrong with each file of a folder that cannot be used as it is."""
    with contextlib.suppress(Unservable):
        for path in named_files(folder):
            try:
                check_present(path)
                header_of(path)
                yield from bad_in(path, None)
            except Unservable as error:
                yield str(error)
    yield from unreadable(folder)


def bad_tensors(folder: Path) -> Iterator[str]:
    """Yield a line for each tensor that is missing, has another shape, or holds what no model does."""
    names = checkpoint.delivered(folder)  # a part of a model: the others are elsewhere
    if names is None:
        names, lacking = names_of_the_model(folder)
        yield from lacking
    for path, _, _ in checkpoint.headers(folder):
        yield from bad_in(path, names)


def bad_in(path: Path, names: set[str] | None) -> Iterator[str]:
    """Yield a line for each of the tensors `names` in a file (None: all) that holds what no model does."""
    reading(path)
    with guarded(f"{path} cannot be read"):
        for name, fault in faults(path, lambda name: names is None or name in names):
            if fault == NAN or not name.endswith("bias"):  # many a trained model's bias is zero
                yield f"{path}: the tensor {name} holds {fault}; fetch the file again, or ask who made it"


def names_of_the_model(folder: Path) -> tuple[set[str] | None, list[str]]:
    """Return the tensors that the model uses, None where that is not known; and why the files are not all of
    it."""
    from transformers import AutoModelForCausalLM

    from .family import load_config
    from .weights import empty_parameters, map_parameters, names_used

    names = None
    try:
        with guarded(f"{folder} cannot be used"), empty_parameters():
            model = AutoModelForCausalLM.from_config(load_config(folder))
    except Unservable:  # another finding says so
        return names, []
    try:
        names = names_used(model, folder, lambda name: name)
        map_parameters(model, folder, lambda name: name)
    except Unservable as error:
        return names, [str(error)]
    return names, []


def quantised_of(folder: Path) -> Iterator[str]:
    """Yield the damage of this model's quantised weights in the cache folder."""
    for seal in sorted((cache_folder() / "quantised").glob(f"*/{sealed_folder.SEAL}")):
        manifest = sealed_folder.sealed(seal.parent)
        if manifest is None or str(manifest.get("identity", "")).startswith(f"{folder.resolve()}/"):
            yield from sealed_folder.damage(seal.parent, reading)


def unreadable(folder: Path) -> Iterator[str]:
    """Yield why the config or the tokenizer cannot be used, or the model not be cut."""
    tell(f"reading the config and the tokenizer of {folder}")
    from ..common.settings import Settings
    from . import trial
    from .family import load_config, quiet
    from .generation_config import followed
    from .tokenizer import Text

    quiet()
    found = set()
    for read in (load_config, trial.check, Text, lambda folder: followed(Settings(), folder, tell)):
        try:
            with guarded(f"{folder} cannot be used"):
                read(folder)
        except Unservable as error:
            if str(error) not in found:
                yield str(error)
            found.add(str(error))


def reading(path: Path) -> None:
    tell(f"reading {path} ({path.stat().st_size / 1e6:.1f} MB)")


def tell(line: str) -> None:
    print(line, flush=True)
