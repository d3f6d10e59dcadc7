"""Numbers that are none, NaN and infinity, in the files, in a layer, in the logits of a run; and numbers of 8
bits."""

import shutil

import pytest
import tiny
import torch
from running import mpirun, words_for
from safetensors.torch import load_file, save_file

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.sampler import Sampler
from jarvis_mpi.model.stage import Stage

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    return tiny.make("llama", tmp_path / "model")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weights", ["auto", "int8"])
@pytest.mark.parametrize(
    "name",
    ["self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight", "self_attn.v_proj.weight"],
)
def test_a_layer_with_a_number_that_is_none_names_it_in_loading(folder, name, value, weights):
    tiny.put(folder, f"model.layers.3.{name}", value)
    Stage(folder, range(0, 3), torch.float32, weights=weights).warm_up([2], lambda: 0.0)
    for _ in range(2):  # a damaged file is not noted as sound
        with pytest.raises(
            Unservable, match=rf"layers 2-4 cannot be used: the tensor model.layers.3.{name} in"
        ):
            Stage(folder, range(2, 5), torch.float32, weights=weights).warm_up([2], lambda: 0.0)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_the_head_names_it_too(folder, name):
    tiny.put(folder, name, float("nan"), at=30)
    with pytest.raises(Unservable, match=rf"the tensor {name} in"):
        Head(folder, torch.float32)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_logits_that_are_no_numbers_end_the_answer_with_a_sentence(temperature, penalty):
    sampler = Sampler(Settings(temperature=temperature, repetition_penalty=penalty, model="M"))
    logits = torch.randn(20)
    logits[3] = float("-inf")  # a model may rule a token out
    assert sampler.choose(logits, [5, 6], 0) != 3
    logits[4] = float("nan")
    with pytest.raises(
        Unservable, match=r"no numbers any more .* at token 2: python -m jarvis_mpi doctor --model M"
    ):
        sampler.choose(logits, [5, 6], 0)


@pytest.mark.mpirun
def test_a_workers_number_that_is_none_ends_the_run_with_one_sentence(folder, bytes_folder, tmp_path):
    for path in bytes_folder.glob("tokenizer*"):
        shutil.copy(path, folder)
    tiny.put(folder, "model.layers.2.mlp.up_proj.weight", float("nan"))
    done = mpirun(3, *words_for(folder, tmp_path / "log.h5"))
    lines = done.stderr.decode().strip().splitlines()
    assert done.returncode
    assert "Traceback" not in done.stderr.decode()
    assert any("node 1" in line and "model.layers.2.mlp.up_proj.weight" in line for line in lines), lines
    assert not done.stdout.strip()


def test_weights_of_8_bits_with_scales_beside_them_are_refused(folder):
    """As NVIDIA's ModelOpt leaves them, whose config.json does not say so."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    tensors[f"{name}_scale"] = torch.tensor(0.5)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        Unservable,
        match=r"holds quantised weights \(model.layers.2.*weight_scale\): save the model dequantised",
    ):
        Stage(folder, range(2, 3), torch.float32)
    # Before a config is tried, and by the doctor.
    with pytest.raises(Unservable, match="holds quantised weights"):
        checkpoint.check(folder)
    (folder / "hf_quant_config.json").write_text("{}")
    with pytest.raises(Unservable, match=r"hf_quant_config.json\): save the model dequantised"):
        checkpoint.check(folder)
