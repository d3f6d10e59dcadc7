"""8- and 4-bit weights: a layer's results, alone and beside other rows, the files on disk, and a run's
tokens."""

import os
from functools import partial

import pytest
import tiny
import torch
from running import mpirun, tokens_of, words_for
from torch import nn

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.kernels import cpu
from jarvis_mpi.kernels.cpu import Instructions
from jarvis_mpi.kernels.float_matmul import float_product
from jarvis_mpi.kernels.int_matmul import block_product
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.nn import quantisation
from jarvis_mpi.nn.linear import DTYPES, FloatLinear, QuantisedLinear
from jarvis_mpi.nn.quantisation import FORMATS, Format, quantised_folder

pytestmark = pytest.mark.slow

KINDS = ["int8", "int4"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quantised"


def layer(weight: torch.Tensor, kind: str, bias: torch.Tensor | None = None) -> QuantisedLinear:
    folder = quantised_folder(kind, f"{weight.double().sum()}", weight.shape, lambda: weight)
    return QuantisedLinear(kind, folder, weight.shape, bias)


def rounded(weight: torch.Tensor, kind: Format) -> torch.Tensor:
    """Round weights. 8 bits: to the nearest of -128 to 127 times a step; 4 bits: to 16 values from least to
    largest of each block."""
    padded = nn.functional.pad(weight.float(), (0, -weight.shape[1] % kind.block))
    blocks = padded.unflatten(1, (-1, kind.block))
    least, fewest, most = torch.zeros(1), -128, 127
    step = (blocks.abs().amax(-1, True) / 127).bfloat16().float()
    if kind.bits == 4:
        least, fewest, most = blocks.amin(-1, True).bfloat16().float(), 0, 15
        step = ((blocks.amax(-1, True) - least) / 15).bfloat16().float()
    numbers = ((blocks - least) / step).round().clamp(fewest, most)
    return (numbers * step + least).flatten(1)[:, : weight.shape[1]]


def rounded_rows(x: torch.Tensor, kind: Format) -> torch.Tensor:
    """Round each block of numbers to multiples of a step: 16 bits beside weights of 8, 8 bits beside weights
    of 4."""
    padded = nn.functional.pad(x.float(), (0, -x.shape[-1] % kind.block))
    blocks = padded.unflatten(-1, (-1, kind.block))
    step = blocks.abs().amax(-1, True).clamp(min=1e-30) / (32767 if kind.bits == 8 else 127)
    return ((blocks / step).round() * step).flatten(-2)[..., : x.shape[-1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [576, 40])  # the second: a block that is not full
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_is_as_good_as_the_rounded_weights(kind, columns, dtype):
    torch.manual_seed(0)
    linear = nn.Linear(columns, 203).requires_grad_(False)
    made = layer(linear.weight, kind, linear.bias)
    x = torch.randn(1, 7, columns).to(dtype)
    result, exact = (
        made(x),
        nn.functional.linear(
            rounded_rows(x, FORMATS[kind]), rounded(linear.weight, FORMATS[kind]), linear.bias
        ),
    )
    assert result.dtype == dtype
    assert result.shape == exact.shape
    assert (result - exact).norm() / exact.norm() < (1e-4 if dtype == torch.float32 else 3e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_row_gives_does_not_depend_on_the_others_bit_for_bit(kind):
    torch.manual_seed(0)
    made = layer(torch.randn(300, 64), kind)
    x = torch.randn(1, 70, 64) * torch.logspace(-3, 3, 70)[None, :, None]
    together = made(x)
    assert torch.equal(torch.cat([made(x[:, at : at + 1]) for at in range(70)], 1), together)
    for rows in range(1, 70):
        assert torch.equal(made(x[:, :rows]), together[:, :rows])
    assert torch.equal(made(torch.zeros(1, 1, 64)), torch.zeros(1, 1, 300))


# The instructions of an older processor, and of another kind: this one can run both.
FORMS = [Instructions(x86=False, dots=False)]
if cpu.INSTRUCTIONS.x86:
    FORMS += [Instructions(x86=True, dots=False)]


@pytest.mark.parametrize("kind", [*KINDS, "BF16", "F16", "F32"])
@pytest.mark.parametrize("form", FORMS)
def test_the_forms_for_other_processors_give_the_same(kind, form, monkeypatch):
    torch.manual_seed(0)
    weight = torch.randn(69, 96)  # two strips and some more; an odd number of groups of outputs
    if kind in KINDS:
        made, other = layer(weight, kind), partial(block_product.__wrapped__, FORMATS[kind].bits, 2048)
    else:
        made = FloatLinear(weight.to({name: dtype for dtype, name in DTYPES.items()}[kind]), None)
        other = partial(float_product.__wrapped__, kind, True)
    x = torch.randn(1, 7, 96)
    here = made(x)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(made(x), here)
    monkeypatch.setattr(cpu, "INSTRUCTIONS", form)
    made.kernel = other
    assert torch.equal(made(x), here)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_quantised_in_parts_is_the_same(kind, monkeypatch):
    weight = torch.randn(500, 96)
    x = torch.randn(1, 3, 96)
    whole = layer(weight, kind)(x)
    monkeypatch.setattr(quantisation, "PART_WEIGHTS", 64 * 96)
    folder = quantised_folder(kind, "in parts", weight.shape, lambda: weight)
    assert torch.equal(QuantisedLinear(kind, folder, weight.shape, None)(x), whole)


def test_what_is_on_disk_is_not_made_again_and_what_is_not_whole_is_absent(cache, monkeypatch):
    weight = torch.randn(64, 32)
    first = quantised_folder("int8", "a", weight.shape, lambda: weight)
    assert quantised_folder("int8", "a", weight.shape, lambda: pytest.fail("quantised twice")) == first
    assert quantised_folder("int4", "a", weight.shape, lambda: weight) != first
    assert quantised_folder("int8", "b", weight.shape, lambda: weight) != first

    def no_space(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(quantisation.os, "fsync", no_space)
    with pytest.raises(Unservable, match="No space left on device"):
        quantised_folder("int8", "c", weight.shape, lambda: weight)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 3  # nothing half made is left
    (first / "numbers.npy").write_bytes((first / "numbers.npy").read_bytes()[:-1])
    with pytest.raises(Unservable, match=r"numbers.npy is damaged: it has .*delete"):
        QuantisedLinear("int8", first, weight.shape, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2", "phi3"])
def test_every_linear_layer_of_a_model_is_replaced(kind, family, tmp_path):
    folder = tiny.make(family, tmp_path / "model")
    for part in (
        Stage(folder, range(0, 6), torch.float32, weights=kind),
        Head(folder, torch.float32, kind),
    ):
        kinds = {type(module) for module in part.model.modules()}
        assert QuantisedLinear in kinds
        assert nn.Linear not in kinds
    whole, rough = (Stage(folder, range(0, 6), torch.float32, weights=weights) for weights in ("auto", kind))
    whole.fast_step.parts = []  # fused layers would not call the replaced modules
    for parent in list(whole.model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is FloatLinear:
                like = FloatLinear(rounded(child.weight, FORMATS[kind]), child.bias[: child.outputs])
                like.register_forward_pre_hook(lambda _, inputs: rounded_rows(inputs[0], FORMATS[kind]))
                setattr(parent, name, like)
    body = torch.randn(1, 5, 32).numpy().tobytes()
    both = [torch.frombuffer(bytearray(stage.run(body, 0)), dtype=torch.float32) for stage in (whole, rough)]
    assert not torch.equal(*both)
    assert torch.nn.functional.cosine_similarity(*both, 0) > 0.9999


def test_a_copy_quantises_before_it_is_needed_and_another_state_of_the_weights_again(tmp_path, cache):
    folder = tiny.make("llama", tmp_path / "model")
    asleep = Stage(folder, range(2, 4), torch.float32, asleep=True, weights="int4")
    assert not list(cache.glob("*/numbers.npy"))  # not yet: a copy that sleeps reads nothing
    asleep.quantise_beforehand()
    made = {path: path.stat().st_mtime_ns for path in cache.glob("*/numbers.npy")}
    assert len(made) == 2 * 7
    asleep.wake()
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*/numbers.npy")} == made
    os.utime(folder / "model.safetensors", ns=(1, 1))
    Stage(folder, range(2, 4), torch.float32, weights="int4")
    assert len(list(cache.glob("*/numbers.npy"))) == 2 * len(made)


def test_another_model_with_a_file_of_the_same_size_and_time_is_quantised_again(tmp_path, cache):
    """As tar --mtime, rsync and FAT leave them."""
    folder, file = tiny.make("llama", tmp_path / "model"), tmp_path / "model" / "model.safetensors"
    Stage(folder, range(2), torch.float32, weights="int8")
    before, data = len(list(cache.glob("*/numbers.npy"))), bytearray(file.read_bytes())
    for at in range(8 + int.from_bytes(data[:8], "little"), len(data), 4):
        data[at] ^= 1  # the lowest bit of each number
    times = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    Stage(folder, range(2), torch.float32, weights="int8")
    assert len(list(cache.glob("*/numbers.npy"))) > before


@pytest.mark.mpirun
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.very_slow) for kind in KINDS])
def test_a_run_gives_the_same_on_any_chain_and_from_a_copy(kind, small, tmp_path):
    tokens = []
    for ranks, fault in ((2, ""), (5, "kill 2 @ 3")):
        log = tmp_path / f"{ranks}.h5"
        done = mpirun(ranks, *words_for(small, log, "--weights", kind, "--ignore-eos", "--fault", fault))
        assert done.returncode == 0, done.stderr.decode()
        assert f"{kind} weights" in done.stderr.decode()
        tokens.append(tokens_of(log))
    assert "from the copy" in done.stderr.decode()
    assert tokens[0] == tokens[1]
