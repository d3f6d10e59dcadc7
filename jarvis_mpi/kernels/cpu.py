"""Find the instructions that this processor has."""

import contextlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llvmlite import binding


class Instructions(NamedTuple):
    """The instructions that LLVM does not choose by itself."""

    x86: bool  # AVX2; else NEON
    dots: bool  # products of small integers, added to sums of 32 bits in one step: AVX512-VNNI, Arm's sdot
    sides: int = 1  # vectors of LANES that a register holds


def features_here(cpuinfo: Path) -> dict[str, bool]:
    """Return the processor's features by LLVM's names.
    On Arm LLVM does not ask Linux for the dot products: `cpuinfo` lists them.

    JARVIS_WITHOUT: features whose names begin so are not used, for comparisons; such as avx512.
    """
    features = dict(binding.get_host_cpu_features())
    with contextlib.suppress(OSError):
        if "asimddp" in cpuinfo.read_text().split():
            features["dotprod"] = True
    without = os.environ.get("JARVIS_WITHOUT")
    return {name: has and not (without and name.startswith(without)) for name, has in features.items()}


def instructions_of(machine: str, features: Mapping[str, bool]) -> Instructions:
    if machine == "x86_64" and features.get("avx2"):
        wide = all(features.get(f"avx512{kind}") for kind in ("bw", "dq", "vl", "vnni"))
        return Instructions(True, wide, 2 if wide else 1)
    return Instructions(False, features.get("dotprod", False))


FEATURES = features_here(Path("/proc/cpuinfo"))


INSTRUCTIONS = instructions_of(platform.machine(), FEATURES)
