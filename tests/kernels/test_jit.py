"""cpu and jit: a processor's features; machine code is made once and cached, and made again where the file is
not whole."""

import pytest
import torch

from jarvis_mpi.kernels import cpu, jit
from jarvis_mpi.kernels.builder import FLOAT, LANES, Code, vector
from jarvis_mpi.kernels.cpu import Instructions, features_here, instructions_of
from jarvis_mpi.kernels.jit import Compiled

AVX512 = ("avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl")


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", ("avx2", "avxvnni"), Instructions(x86=True, dots=False)),
        ("x86_64", AVX512, Instructions(x86=True, dots=False)),
        ("x86_64", (*AVX512, "avx512vnni"), Instructions(x86=True, dots=True, sides=2)),
        ("x86_64", ("sse4.2",), Instructions(x86=False, dots=False)),
        ("aarch64", ("neon",), Instructions(x86=False, dots=False)),
        ("aarch64", ("neon", "dotprod"), Instructions(x86=False, dots=True)),
    ],
)
def test_what_a_processor_has(machine, features, expected):
    assert (
        instructions_of(machine, {"avx2": False, "dotprod": False} | dict.fromkeys(features, True))
        == expected
    )


@pytest.mark.parametrize(
    ("features", "has"),
    [("fp asimd crc32 asimdrdm lrcpc dcpop asimddp", True), ("fp asimd crc32 cpuid", False)],
)
def test_linux_tells_of_arms_sums_of_products(features, has, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nFeatures\t: {features}\nCPU part\t: 0xd0b\n")
    assert features_here(cpuinfo).get("dotprod", False) == has
    assert "dotprod" not in features_here(tmp_path / "none")


def test_what_is_not_to_be_used(monkeypatch, tmp_path):
    monkeypatch.setattr(
        cpu.binding, "get_host_cpu_features", lambda: dict.fromkeys(("avx2", *AVX512, "avx512vnni"), True)
    )
    assert instructions_of("x86_64", features_here(tmp_path)).sides == 2
    monkeypatch.setenv("JARVIS_WITHOUT", "avx512")
    assert instructions_of("x86_64", features_here(tmp_path)) == Instructions(x86=True, dots=False)


@pytest.fixture
def kernel_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def doubled() -> list[float]:
    """Return numbers doubled by a kernel, written and compiled or from the cache."""

    def write() -> Code:
        code = Code(2)
        x, y = code.arguments
        code.store(code.load(x, vector(FLOAT)) * 2.0, y)
        return code

    numbers, result = torch.arange(LANES).float(), torch.zeros(LANES)
    Compiled("doubled", write)([numbers.data_ptr(), result.data_ptr()], 1)
    return result.tolist()


TWICE = [2.0 * at for at in range(LANES)]


def test_machine_code_is_made_once(kernel_folder, monkeypatch):
    assert doubled() == TWICE
    assert len(list(kernel_folder.iterdir())) == 1
    monkeypatch.setattr(jit, "optimised", lambda *_: pytest.fail("compiled twice"))
    monkeypatch.setattr(Code, "text", lambda _: pytest.fail("written twice"))
    assert doubled() == TWICE


def test_other_sources_or_instructions_make_other_code(kernel_folder, monkeypatch):
    doubled()
    monkeypatch.setattr(cpu, "INSTRUCTIONS", Instructions(x86=False, dots=False))
    doubled()
    monkeypatch.setattr(jit, "sources", lambda: "another version")
    doubled()
    assert len(list(kernel_folder.iterdir())) == 3


@pytest.mark.parametrize("left", [b"", b"half a digest", None])
def test_what_is_not_whole_is_made_again(kernel_folder, left):
    assert doubled() == TWICE
    (path,) = kernel_folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] if left is None else left)
    assert doubled() == TWICE
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_costs_time_only(kernel_folder):
    kernel_folder.parent.joinpath("kernels").write_text("a file in its place")
    assert doubled() == TWICE
