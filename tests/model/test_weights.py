"""Tensors in a model's files: those of any kind, and those that the model has no place for."""

import threading

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from jarvis_mpi.app.own_parts import tell_unused
from jarvis_mpi.model.activations import to_bytes
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.weights import empty_parameters, unexpected_names


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    return tiny.make("llama", tmp_path / "model")


def test_tensors_that_the_config_leaves_no_place_for_are_named(folder):
    path = folder / "model.safetensors"
    tensors, layer = load_file(path), "model.layers.1.self_attn"

    def unexpected(block: range) -> list[str]:
        stage = Stage(folder, block, torch.float32)
        return unexpected_names(stage.model, folder, block, stage.names_used)

    assert unexpected(range(1, 2)) == []
    more = {f"{layer}.q_proj.bias": torch.ones(64), f"{layer}.rotary_emb.inv_freq": torch.ones(8)}
    save_file(tensors | more, path)
    assert unexpected(range(1, 2)) == [f"{layer}.q_proj.bias"]
    assert unexpected(range(2, 3)) == []


@pytest.mark.parametrize("kind", [torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_numbers_that_no_kernel_reads_are_converted(folder, kind, weights):
    path = folder / "model.safetensors"
    tensors = {name: tensor.to(kind) for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    layer = range(1, 2)
    ours = Stage(folder, layer, torch.float32, weights=weights)
    save_file({name: tensor.float() for name, tensor in tensors.items()}, path)
    theirs = Stage(folder, layer, torch.float32, weights=weights)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).numpy().tobytes()
    assert bytes(ours.run(x, 0)) == bytes(theirs.run(x, 0))


def test_what_a_config_leaves_out_is_told(folder, capsys):
    tell_unused(folder, 6, [])
    assert capsys.readouterr().err == ""
    tell_unused(folder, 4, ["model.layers.0.self_attn.q_proj.bias"])
    lines = capsys.readouterr().err.splitlines()
    assert "such as model.layers.0.self_attn.q_proj.bias: they are passed over" in lines[0]
    assert "has 6 layers, but its config.json asks for 4: the others are passed over" in lines[1]


def test_while_one_thread_builds_without_memory_another_has_real_parameters_and_builds_later(folder):
    """A worker loads what a standby needs beside its work, and a copy may wake meanwhile."""
    inside, leave, built = threading.Event(), threading.Event(), threading.Event()

    def build() -> None:
        with empty_parameters():
            inside.set()
            leave.wait(10)

    def build_too() -> None:
        with empty_parameters():
            built.set()

    register = torch.nn.Module.register_parameter
    threads = [threading.Thread(target=each) for each in (build, build_too)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    try:
        assert not torch.nn.Linear(2, 2).weight.is_meta
        assert not built.wait(0.2)
    finally:
        leave.set()
        for thread in threads:
            thread.join(10)
    assert built.is_set()
    assert torch.nn.Module.register_parameter is register


def test_a_copy_wakes_to_the_same_whatever_torchs_usual_dtype_is_meanwhile(folder):
    """Another thread's building changes it."""
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    stage = Stage(folder, range(1, 3), torch.float32, asleep=True)
    expected = Stage(folder, range(1, 3), torch.float32).run(to_bytes(rows[None]), 0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        stage.wake()
    finally:
        torch.set_default_dtype(torch.float32)
    assert stage.run(to_bytes(rows[None]), 0) == expected
    assert stage.fast_step.parts[0].fused
