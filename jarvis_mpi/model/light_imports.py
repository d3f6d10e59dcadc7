"""Import torch and transformers without what a stage never runs, and without reading transformers' sources.

transformers 5 imports torch's compiler and sharded tensors (sympy with them) for masks that are compiled and
for training, and packages for pictures that it finds installed: 75 MB and more than half of the import's time
in every rank, which counts on a Pi. At each start it looks through 2,000 files of its own for their
definitions: the result is stored in the cache folder. Objects of an import stay, so garbage collection is off
meanwhile: Python would look through all of them again and again.

Only transformers' own modules get other answers, and only while they are imported; in a process of ours
packages for pictures can be absent for good. Nothing false is ever in sys.modules: every other package that
is imported meanwhile, by whomever, gets the real thing.
"""

import builtins
import contextlib
import gc
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ..common.boundary import guarded
from ..common.cache_folder import cache_folder, keep

ONLY = "transformers"
FINDS_OUT = "transformers.utils.import_utils"  # the module that looks for packages, and through the sources
FAMILIES = "models"  # the folder
# Of the masks that are compiled.
LATER = ("torch._dynamo._trace_wrapped_higher_order_op", "TransformGetItemToIndex")
# Decorators of torch.compiler and torch._dynamo.
MARKS = ("allow_in_graph", "assume_constant_result", "disable")
# No text needs them, and they cost time; one that is broken or does not fit torch would end the run.
NOT_FOR_TEXT = frozenset((
    "apex", "av", "bitsandbytes", "causal_conv1d", "cv2", "datasets", "deepspeed", "faiss", "fla",
    "flash_attn", "flash_attn_2_cuda", "flash_attn_interface", "habana_frameworks", "hqq",
    "intel_extension_for_pytorch", "kernels", "librosa", "mamba_ssm", "matplotlib", "optimum", "pandas",
    "peft", "PIL", "scipy", "skimage", "sklearn", "soundfile", "soxr", "timm", "torch_mlu",
    "torch_musa", "torch_npu", "torch_xla", "torchao", "torchaudio", "torchcodec", "torchdistx",
    "torchvision", "xformers", "xlstm",
))  # fmt: skip
FOR_PICTURES = ("is_vision_available",)  # which tries the import itself
whole_process: list[bool] = []  # not empty: in this process they are left out for good


def leave_out_for_good() -> None:
    """Leave NOT_FOR_TEXT out of whatever transformers imports in this process, now or later.
    For a command of ours."""
    whole_process[:] = [True]
    if ONLY not in sys.modules:
        sys.meta_path.insert(0, Finder([]))


@contextmanager
def light_imports() -> Iterator[None]:
    """Leave those parts out of what the body imports; restore everything afterwards.

    Raises Unservable where an import fails, as for a library's own variable with a value that it refuses.
    """
    gc.disable()
    try:
        with (
            guarded(
                "torch or transformers cannot be imported",
                f"mend their variables (TORCH_..., HF_...) or this environment ({sys.prefix})",
            ),
            without_compiler(),
        ):
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def without_compiler() -> Iterator[None]:
    import torch
    import torch.distributed

    if "torch._dynamo" in sys.modules or ONLY in sys.modules:  # too late, and no harm
        yield
        return
    light: list[bool] = [True]
    finder = Finder(light)
    answers: list[tuple[Any, str, Any]] = [
        (builtins, "__import__", import_later(builtins.__import__)),
        (torch, "__getattr__", compiler_later(torch.__getattr__)),
        (torch.distributed, "is_available", to_ours(torch.distributed.is_available, lambda: False)),
        *(
            (torch.compiler, name, to_ours(getattr(torch.compiler, name), unmarked))
            for name in MARKS
            if hasattr(torch.compiler, name)
        ),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in answers]
    sys.meta_path.insert(0, finder)
    try:
        for module, name, answer in answers:
            setattr(module, name, answer)
        yield
    finally:
        light.clear()
        for module, name, answer in before:
            setattr(module, name, answer)
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)


def is_ours(name: Any) -> bool:
    """Return whether a module of that name is one of transformers'."""
    return isinstance(name, str) and name.partition(".")[0] == ONLY


def to_ours(real: Callable, answer: Callable) -> Callable:
    """Return a function that calls `answer` for transformers' modules, and `real` for all others."""

    def either(*given: Any, **named: Any) -> Any:
        asks = sys._getframe(1).f_globals.get("__name__")
        return (answer if is_ours(asks) else real)(*given, **named)

    return either


def unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """Decorate without changing anything, with arguments or without."""
    return function if callable(function) else lambda decorated: decorated


class Compiler:
    """Stands for torch._dynamo in transformers' modules: their decorators change nothing."""

    def __getattr__(self, name: str) -> Any:
        return unmarked if name in MARKS else getattr(importlib.import_module("torch._dynamo"), name)


def compiler_later(real: Callable) -> Callable:
    """Wrap torch's way to make attributes at their first use."""

    def getattr_(name: str) -> Any:
        asks = sys._getframe(1).f_globals.get("__name__")
        return Compiler() if name == "_dynamo" and is_ours(asks) else real(name)

    return getattr_


def import_later(real: Callable) -> Callable:
    """Wrap the import statement: transformers' modules import LATER at the first call."""
    module, name = LATER

    def import_(wanted, globals=None, locals=None, fromlist=(), level=0):
        if wanted == module and tuple(fromlist or ()) == (name,) and is_ours((globals or {}).get("__name__")):
            return SimpleNamespace(**{name: called_later})
        return real(wanted, globals, locals, fromlist, level)

    return import_


def called_later(*given: Any, **named: Any) -> Any:
    module, name = LATER
    return getattr(importlib.import_module(module), name)(*given, **named)


class Finder(MetaPathFinder):
    """Finds the module FINDS_OUT, and changes it before transformers, which is being imported, calls it."""

    def __init__(self, light: list[bool]) -> None:
        self.light = light  # empty: no more

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != FINDS_OUT:
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Finder)]
        spec = PathFinder.find_spec(name, path)
        if not spec or not spec.loader:
            return None
        begin: Any = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            begin(module)
            self.change(module)

        spec.loader.exec_module = exec_module  # type: ignore
        return spec

    def change(self, module: ModuleType) -> None:
        """Replace the module's functions; names that a release of transformers lacks are passed over."""
        for name, changed in (
            ("define_import_structure", cached_structure),
            ("_is_package_available", self.without_packages),
            *((name, self.no) for name in FOR_PICTURES),
        ):
            if callable(real := getattr(module, name, None)):
                setattr(module, name, changed(real))

    def without_packages(self, real: Callable) -> Callable:
        def is_package_available(name: str, *given: Any, **named: Any) -> Any:
            if (self.light or whole_process) and name.partition(".")[0] in NOT_FOR_TEXT:
                name = "jarvis_mpi.no_such_package"  # the answer's form differs from release to release
            return real(name, *given, **named)

        return is_package_available

    def no(self, real: Callable) -> Callable:
        return lambda: not (self.light or whole_process) and real()


def cached_structure(look_through: Callable[..., dict]) -> Callable[..., dict]:
    """Wrap `look_through`: for all families together, read its result from a cache file of this state of the
    sources."""

    def define_import_structure(sources: Any, prefix: str | None = None) -> dict:
        folder = Path(sources) if Path(sources).is_dir() else Path(sources).parent  # it is called with both
        if folder.name != FAMILIES:  # a single family: fast
            return look_through(sources, prefix)
        state = importlib.metadata.version("transformers"), str(folder), folder.stat().st_mtime_ns, prefix
        path = cache_folder() / "transformers" / f"{sha256(repr(state).encode()).hexdigest()[:16]}.json"
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(path.read_text())
            return {
                frozenset(needs): {module: set(names) for module, names in modules.items()}
                for needs, modules in known
            }
        found = look_through(sources, prefix)
        listed = [
            [sorted(needs), {module: sorted(names) for module, names in modules.items()}]
            for needs, modules in found.items()
        ]
        keep(path, json.dumps(listed).encode())
        return found

    return define_import_structure
