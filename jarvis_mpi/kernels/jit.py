"""Compile the functions of builder.py to machine code at their first use, and store it in the cache
folder."""

import contextlib
import ctypes
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llvmlite
import torch
from llvmlite import binding

from ..common.cache_folder import cache_folder, keep
from . import cpu
from .builder import Code

EMPTY_MODULE = (
    "define void @entry(i64* %arguments) { ret void }"  # stands for a function whose machine code is cached
)

# The library that torch was built with: among what this one depends on.
OPENMP = ctypes.CDLL(torch._C.__file__)
OPENMP.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
OPENMP.GOMP_parallel.restype = None
for function in ("omp_get_num_threads", "omp_get_thread_num", "GOMP_barrier"):
    binding.add_symbol(function, ctypes.cast(getattr(OPENMP, function), ctypes.c_void_p).value)


def optimised(text: str, machine: binding.TargetMachine) -> binding.ModuleRef:
    module = binding.parse_assembly(text)
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    return module


class Compiled:
    """A `Code` as machine code, called with integers.
    It is written (0.1 s for a large one) and compiled (0.3 s) once a processor, and stored in the cache
    folder. `name` is unique among the functions that these sources write."""

    def __init__(self, name: str, write: Callable[[], Code]):
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_default_triple().create_target_machine(*processor(), opt=3)
        cached = CachedCode(hashlib.sha256(f"{identity()} {name}".encode()).hexdigest())
        module = binding.parse_assembly(EMPTY_MODULE) if cached.code else optimised(write().text(), machine)
        self.engine = binding.create_mcjit_compiler(module, machine)  # frees the code when it goes
        self.engine.set_object_cache(cached.write, cached.read)
        self.engine.finalize_object()
        self.address = self.engine.get_function_address("entry")

    def __call__(self, arguments: Sequence[int], threads: int) -> None:
        """Run it on `threads` threads of torch's OpenMP library, all with these arguments."""
        table = (ctypes.c_int64 * len(arguments))(*arguments)
        OPENMP.GOMP_parallel(self.address, table, threads, 0)


def kernel(write: Callable[..., Code]) -> Callable[..., Compiled]:
    """Decorate a function that writes a `Code`: return it compiled, once for each set of parameters."""

    @functools.cache
    @functools.wraps(write)
    def compiled(*parameters: Any) -> Compiled:
        return Compiled(f"{write.__module__}.{write.__name__}{parameters}", lambda: write(*parameters))

    return compiled


def processor() -> tuple[str, str]:
    """Return this processor's name and features, as LLVM takes them."""
    features = ",".join(f"{'+' if has else '-'}{name}" for name, has in sorted(cpu.FEATURES.items()))
    return binding.get_host_cpu_name(), features


def identity() -> str:
    """Return the part of a cache key that all functions share: versions, processor and sources."""
    return f"{llvmlite.__version__} {binding.llvm_version_info} {processor()} {cpu.INSTRUCTIONS} {sources()}"


@functools.cache
def sources() -> str:
    """Return a digest of this folder: a kernel's machine code depends on every file of it."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class CachedCode:
    """Machine code in the cache folder, behind its digest: a file that a power loss cut short is not run."""

    def __init__(self, name: str):
        self.path = cache_folder() / "kernels" / name[:16]
        self.code: bytes | None = None
        with contextlib.suppress(OSError):
            digest, _, code = self.path.read_bytes().partition(b"\n")
            if digest == digest_of(code):
                self.code = code

    def read(self, _module) -> bytes | None:
        return self.code

    def write(self, _module, code: bytes) -> None:
        keep(self.path, digest_of(code) + b"\n" + code)


def digest_of(code: bytes) -> bytes:
    return hashlib.sha256(code).hexdigest().encode()
