"""Import torch and transformers without torch's compiler and distributed tensors, which a stage never runs, and without reading their sources.

transformers 5.23 imports both (and sympy with them) for masks that are compiled and for sharded
training: 75 MB and more than half of the import's time in every rank, which counts on a Pi. And at each start it looks
through 2,000 files of its own for what they define: that is kept in the cache folder. What an import makes stays, so that
nothing is collected meanwhile: Python would look through all of it again and again, a fifth of the time.
"""

import contextlib
import gc
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from .fetch import cache_folder, keep

LOOKS_THROUGH = "transformers.utils.import_utils"  # the module that does it
FAMILIES = "models"  # the folder
COMPILER = ("torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op")


class StandIn(ModuleType):
    """Whatever is asked of it is a decorator that changes nothing."""

    __path__: list[str] = []  # noqa: RUF012 (a package)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda function=None, *_, **__: function if callable(function) else lambda decorated: decorated


@contextmanager
def light_imports() -> Iterator[None]:
    """What is imported in here gets stand-ins; afterwards torch is as it was."""
    gc.disable()
    try:
        with without_compiler():
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def without_compiler() -> Iterator[None]:
    import torch
    import torch.distributed

    if COMPILER[0] in sys.modules:  # too late, and no harm
        yield
        return
    available = torch.distributed.is_available
    if "transformers" not in sys.modules:
        sys.meta_path.insert(0, Finder())
    sys.modules.update({name: StandIn(name) for name in COMPILER})
    torch._dynamo = sys.modules[COMPILER[0]]
    torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = available
        del torch._dynamo
        for name in COMPILER:
            del sys.modules[name]


class Finder(MetaPathFinder):
    """Of the module that looks through the sources: so that it is changed before transformers, which is being imported, calls it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != LOOKS_THROUGH:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if not spec or not spec.loader:
            return None
        begin: Any = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            begin(module)
            module.define_import_structure = kept(module.define_import_structure)

        spec.loader.exec_module = exec_module  # type: ignore
        return spec


def kept(look_through: Callable[..., dict]) -> Callable[..., dict]:
    """The same for all families together, from a file where there is one for this state of the sources."""

    def define_import_structure(sources: Any, prefix: str | None = None) -> dict:
        folder = Path(sources) if Path(sources).is_dir() else Path(sources).parent  # it is asked with both
        if folder.name != FAMILIES:  # a single family: done in no time
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
