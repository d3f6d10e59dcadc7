"""Import transformers without torch's compiler and distributed tensors, which a stage never runs.

transformers 5.23 imports both (and sympy with them) for masks that are compiled and for sharded
training: 75 MB and more than half of the import's time in every rank, which counts on a Pi.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
import torch.distributed

COMPILER = ("torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op")


class StandIn(ModuleType):
    """Whatever is asked of it is a decorator that changes nothing."""

    __path__: list[str] = []  # noqa: RUF012 (a package)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda function=None, *_, **__: function if callable(function) else lambda decorated: decorated


@contextmanager
def without_compiler() -> Iterator[None]:
    """What is imported in here gets stand-ins; afterwards torch is as it was."""
    if COMPILER[0] in sys.modules:  # too late, and no harm
        yield
        return
    available = torch.distributed.is_available
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
