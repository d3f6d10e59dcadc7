"""Run the kernels as a Raspberry Pi 4 and a Pi 5 would, in an emulator: the same bits as on this
processor."""

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from llvmlite import binding

from jarvis_mpi.kernels import attention, builder, cpu, elementwise, float_matmul, int_matmul, jit, rms_norm
from jarvis_mpi.nn.linear import DTYPES
from jarvis_mpi.nn.quantisation import FORMATS, quantise

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
TRIPLE = "aarch64-unknown-linux-gnu"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
        reason=f"needs {COMPILER} and {EMULATOR} (packages gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, "
        "qemu-user)",
    ),
]

# Its arguments: numbers as they are; "/file" is the address of a file's content, "out:bytes" of room for the
# result; "+/file" is both.
HARNESS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int omp_get_num_threads(void) { return 1; }
int omp_get_thread_num(void) { return 0; }
void GOMP_barrier(void) {}
void entry(long *arguments);
int main(int count, char **words) {
    long arguments[32], out = 0, out_bytes = 0;
    for (int at = 1; at < count; at++) {
        char *word = words[at];
        if (!strncmp(word, "out:", 4) || !strncmp(word, "scratch:", 8)) {
            long bytes = atol(strchr(word, ':') + 1);
            arguments[at - 1] = (long)calloc(bytes, 1);
            if (word[0] == 'o') { out = arguments[at - 1]; out_bytes = bytes; }
        } else if (word[0] == '/' || word[0] == '+') {
            FILE *file = fopen(strchr(word, '/'), "rb");
            fseek(file, 0, SEEK_END);
            long bytes = ftell(file);
            rewind(file);
            char *room = malloc(bytes + 1);
            if (fread(room, 1, bytes, file) != bytes) return 1;
            arguments[at - 1] = (long)room;
            if (word[0] == '+') { out = (long)room; out_bytes = bytes; }
        } else arguments[at - 1] = atol(word);
    }
    entry(arguments);
    fwrite((void *)out, 1, out_bytes, stdout);
}
"""


class InPlace(NamedTuple):
    """Marks an argument of a kernel whose numbers the result replaces."""

    numbers: torch.Tensor


class ForArm:
    """Stands in the place of jit.Compiled: run by the emulator, with tensors in place of addresses."""

    def __init__(self, cpu: str, _name: str, write: Callable[[], builder.Code]):
        self.cpu, self.text = cpu, write().text()

    def made(self, folder) -> str:
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        machine = binding.Target.from_triple(TRIPLE).create_target_machine(cpu=self.cpu, opt=3, reloc="pic")
        (folder / "kernel.o").write_bytes(machine.emit_object(jit.optimised(self.text, machine)))
        (folder / "main.c").write_text(HARNESS)
        program = str(folder / "program")
        subprocess.run(
            [COMPILER, "-static", "-o", program, folder / "main.c", folder / "kernel.o"], check=True
        )
        return program

    def run(self, arguments, folder) -> bytes:
        words = []
        for at, argument in enumerate(arguments):
            if isinstance(argument, (torch.Tensor, InPlace)):
                mark, numbers = ("+", argument.numbers) if isinstance(argument, InPlace) else ("", argument)
                path = folder / str(at)
                path.write_bytes(numbers.contiguous().view(torch.uint8).numpy().tobytes())
                words.append(f"{mark}{path}")
            else:
                words.append(str(argument))
        command = ["timeout", "-k", "5", "120", EMULATOR, self.made(folder), *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def here(kernel: jit.Compiled, arguments) -> bytes:
    """Run the same kernel on this processor."""
    room = {
        at: torch.zeros(int(word.split(":")[1]), dtype=torch.uint8)
        if isinstance(word, str)
        else word.numbers.clone().view(torch.uint8)
        for at, word in enumerate(arguments)
        if isinstance(word, (str, InPlace))
    }
    addresses = [
        room[at].data_ptr() if at in room else word.data_ptr() if isinstance(word, torch.Tensor) else word
        for at, word in enumerate(arguments)
    ]
    kernel(addresses, 1)
    is_result = (at for at in room if isinstance(arguments[at], InPlace) or arguments[at].startswith("out:"))
    return room[next(is_result)].numpy().tobytes()


@pytest.fixture(params=["cortex-a72", "cortex-a76"])  # a Pi 4's and a Pi 5's, which adds products in one step
def both(request, monkeypatch, tmp_path):
    """Return a kernel's results in the emulator, and here."""

    def run(maker, parameters, arguments) -> tuple[bytes, bytes]:
        ours = maker(*parameters)
        with monkeypatch.context() as patched:
            dots = request.param == "cortex-a76"
            patched.setattr(cpu, "INSTRUCTIONS", cpu.Instructions(x86=False, dots=dots))
            patched.setattr(jit, "Compiled", partial(ForArm, request.param))
            theirs = maker.__wrapped__(*parameters)
        return theirs.run(arguments, tmp_path), here(ours, arguments)

    return run


ROWS = 7  # a tile, a pair and one by itself


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_with_floats(stored, dtype, both):
    torch.manual_seed(0)
    outputs, columns = 53, 72  # two strips and what is left
    x, weight, bias = (
        torch.randn(ROWS, columns).to(dtype),
        torch.randn(outputs, columns).to(stored),
        torch.randn(outputs),
    )
    out = f"out:{ROWS * outputs * dtype.itemsize}"
    scratch = f"scratch:{ROWS * float_matmul.float_scratch_bytes(columns)}"
    on_arm, on_this = both(
        float_matmul.float_product,
        (DTYPES[stored], False, DTYPES[dtype]),
        [x, scratch, weight, 0, bias, out, ROWS, outputs, columns],
    )
    assert on_arm == on_this != bytes(len(on_this))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_with_few_bits(kind, dtype, both):
    torch.manual_seed(0)
    outputs, columns = 24, 192
    x, bias = (
        (torch.randn(ROWS, columns) * torch.logspace(-3, 3, ROWS)[:, None]).to(dtype),
        torch.randn(outputs),
    )
    numbers, scales = (
        torch.from_numpy(part) for part in quantise(torch.randn(outputs, columns), FORMATS[kind])
    )
    out = f"out:{ROWS * outputs * dtype.itemsize}"
    scratch = f"scratch:{ROWS * int_matmul.block_scratch_bytes(columns)}"
    on_arm, on_this = both(
        int_matmul.block_product,
        (FORMATS[kind].bits, 2048, DTYPES[dtype]),
        [x, scratch, numbers, scales, bias, out, ROWS, outputs, columns],
    )
    assert on_arm == on_this != bytes(len(on_this))


@pytest.mark.parametrize("cap", [0.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention(dtype, cap, both):
    torch.manual_seed(0)
    heads, group, positions, width, value_width = 4, 2, 30, 16, 72
    q, k, v = (
        torch.randn(count, rows, wide).to(dtype)
        for count, rows, wide in (
            (heads, ROWS, width),
            (heads // group, positions, width),
            (heads // group, positions, value_width),
        )
    )
    firsts = torch.arange(ROWS)
    steps = [tensor.stride(axis) * tensor.itemsize for tensor in (q, k, v) for axis in (0, 1)]
    out = f"out:{ROWS * heads * value_width * dtype.itemsize}"
    scratch = f"scratch:{attention.scratch_bytes(positions, 1)}"
    on_arm, on_this = both(
        attention.attention,
        (DTYPES[dtype], width, value_width, 0.25, cap),
        [q, k, v, out, firsts, scratch, ROWS, positions, heads, group, *steps],
    )
    assert on_arm == on_this != bytes(len(on_this))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms(dtype, both):
    torch.manual_seed(0)
    columns = 72
    x, gains = torch.randn(ROWS, columns).to(dtype), torch.randn(columns)
    out = f"out:{ROWS * columns * dtype.itemsize}"
    on_arm, on_this = both(rms_norm.rms_norm, (DTYPES[dtype], 1e-6), [x, gains, out, ROWS, columns])
    assert on_arm == on_this != bytes(len(on_this))


@pytest.mark.parametrize("width", [8, 48])
@pytest.mark.parametrize("tables", [torch.float32, torch.bfloat16])
def test_rotary_embedding(width, tables, both):
    torch.manual_seed(0)
    heads, key_heads, dtype = 4, 2, torch.bfloat16
    q, k, v = (torch.randn(ROWS, count, width).to(dtype) for count in (heads, key_heads, key_heads))
    cosines, sines = (torch.randn(ROWS, width).to(tables) for _ in range(2))
    head_bytes = ROWS * width * dtype.itemsize
    room, out = (f"{kind}:{key_heads * head_bytes}" for kind in ("scratch", "out"))
    for query, *places in ((q, room, out), (q, out, room), (InPlace(q), room, room)):
        arguments = [query, k, v, cosines, sines, *places, ROWS, heads, key_heads, head_bytes]
        kinds = DTYPES[dtype], DTYPES[tables], width
        on_arm, on_this = both(elementwise.rotary, kinds, arguments)
        assert on_arm == on_this != bytes(len(on_this))


@pytest.mark.parametrize("activation", elementwise.ACTIVATIONS)
def test_gates(activation, both):
    x, y = torch.linspace(-20, 20, 1000).bfloat16(), torch.linspace(-3, 3, 1000).bfloat16()
    on_arm, on_this = both(elementwise.gate, ("BF16", activation), [x, y, "out:2000", 1000])
    assert on_arm == on_this != bytes(2000)


def test_sums(both):
    x, y = torch.linspace(-20, 20, 1000).bfloat16(), torch.linspace(-3, 7, 1000).bfloat16()
    on_arm, on_this = both(elementwise.add, ("BF16",), [x, y, "out:2000", 1000])
    assert on_arm == on_this != bytes(2000)
