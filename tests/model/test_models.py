"""Checkpoint folders: which files are the model, whole or named; python -m jarvis_mpi doctor --model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model import checkpoint, safetensors_files, trial
from jarvis_mpi.model.family import dtype_of, load_config
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.sampler import Sampler
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import end_ids
from jarvis_mpi.nn.quantisation import quantised_folder
from jarvis_mpi.testbed import doctor

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    return tiny.make("llama", tmp_path / "model")


def change(path: Path, **changes) -> None:
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


# -- which files


def test_strangers_beside_the_model_are_not_it(folder):
    print_before = checkpoint.fingerprint(folder)
    for name in (
        "model_ema.safetensors",
        "consolidated.safetensors",
        "a.safetensors",
        "adapter_model.safetensors",
    ):
        shutil.copy(folder / "model.safetensors", folder / name)
        put_other = load_file(folder / name)
        save_file({key: -tensor for key, tensor in put_other.items()}, folder / name)
    index = {"weight_map": dict.fromkeys(put_other, "a.safetensors"), "metadata": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    # Before the index, as transformers has it.
    assert safetensors_files.weight_files(folder) == [folder / "model.safetensors"]
    assert checkpoint.fingerprint(folder) == print_before
    (folder / "model.safetensors").unlink()
    assert safetensors_files.weight_files(folder) == [folder / "a.safetensors"]
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(Unservable, match=r"has neither model.safetensors nor .*adapter"):
        checkpoint.check(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(Unservable, match=r"only a.safetensors: rename it"):
        checkpoint.check(folder)
    change(folder / "config.json", transformers_weights="consolidated.safetensors")
    assert safetensors_files.weight_files(folder) == [folder / "consolidated.safetensors"]


def test_an_adapter_beside_the_model_is_not_passed_over(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(Unservable, match=r"holds an adapter beside a model .*merge_and_unload"):
        checkpoint.check(folder)


def test_a_folder_of_other_forms_is_named_with_what_lies_in_it(tmp_path):
    for name in ("b.Q8_0.gguf", "a.GGUF"):
        (tmp_path / name).touch()
    with pytest.raises(Unservable, match=r"no config.json, but a.GGUF, b.Q8_0.gguf: give --model the file"):
        checkpoint.check(tmp_path)
    (tmp_path / "up" / "chat").mkdir(parents=True)
    (tmp_path / "up" / "chat" / "config.json").write_text("{}")
    with pytest.raises(Unservable, match=r"no config.json; the folders in it that have one: chat"):
        checkpoint.check(tmp_path / "up")


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "x.bin", 7, None]
)
def test_an_index_names_files_of_the_same_folder_only(folder, name):
    shutil.copy(folder / "model.safetensors", folder.parent / "x.safetensors")
    (folder / "model.safetensors").rename(folder / "other")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(Unservable, match=r"index.json (names|is no index)"):
        checkpoint.check(folder)


def test_a_tensor_that_only_the_index_has_is_named(folder):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder / "split", max_shard_size="60KB")
    checkpoint.check(folder / "split")
    index = folder / "split" / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    change(index, weight_map={**names, "lm_head.rotary.inv_freq": next(iter(names.values()))})
    everything(folder / "split")  # no part of the model needs it
    shard = folder / "split" / names["model.layers.1.mlp.up_proj.weight"]
    tensors = load_file(shard)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, shard)
    checkpoint.check(folder / "split")
    with pytest.raises(Unservable, match=r"has no weights for layers.1.mlp.up_proj.weight: fetch it again"):
        everything(folder / "split")


def test_names_with_one_prefix_more_than_the_familys(folder):
    """Names as wrappers for training save them."""
    path = folder / "model.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in load_file(path).items()}, path)
    everything(folder)


@pytest.mark.parametrize("same", [True, False])
def test_a_tensor_that_is_stored_under_two_names(folder, same):
    path = folder / "model.safetensors"
    tensors, name = load_file(path), "layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[f"model.{name}"].clone() if same else -tensors[f"model.{name}"]
    save_file(tensors, path)
    if same:
        everything(folder)
    else:
        with pytest.raises(Unservable, match=rf"has {name} and model.{name}, which differ"):
            everything(folder)


def test_what_a_config_says_of_further_outputs_changes_nothing(folder):
    change(folder / "config.json", output_attentions=True, output_hidden_states=True)
    everything(folder)
    trial.check(folder, lambda line: None)


def test_a_part_of_a_model_in_the_hubs_cache_is_fetched(folder, monkeypatch):
    """The hub's cache lists the model after a look at its config alone."""
    (folder / "model.safetensors").rename(folder / "elsewhere")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert checkpoint.in_hubs_cache("owner/name") is None
    (folder / "elsewhere").rename(folder / "model.safetensors")
    assert checkpoint.in_hubs_cache("owner/name") == folder


def test_a_model_in_the_hubs_cache_without_its_tokenizer_is_fetched(folder, monkeypatch):
    """As a notebook leaves it that has loaded the model alone. A worker needs none."""
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **how: asked.append(how) or str(folder)
    )
    assert checkpoint.locate("owner/name") == checkpoint.locate("owner/name", fetch=False) == folder
    (folder / "tokenizer.json").touch()
    assert checkpoint.locate("owner/name") == folder
    assert ["local_files_only" in each for each in asked] == [True, False, True, True]


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ({"a": {**ENTRY, "dtype": "F31"}}, "unknown kind"),
        ({"a": {**ENTRY, "dtype": ["F32"]}}, "unknown kind"),
        ({"a": {**ENTRY, "shape": [-2]}}, "no shape"),
        ({"a": {**ENTRY, "shape": [2.0]}}, "no shape"),
        ({"a": {**ENTRY, "shape": None}}, "no shape"),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, "no place"),
        ({"a": {**ENTRY, "data_offsets": [True, 8]}}, "no place"),
        ({"a": {**ENTRY, "shape": [3]}}, r"8 bytes, which are no \[3\] of F32"),
        ({"a": {"dtype": "F32"}}, "no shape"),
        ({"a": 7}, "no entry"),
        ({"a": ENTRY, "b": ENTRY}, "b begins at byte 0"),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [12, 20]}}, "b begins at byte 12"),
        ({"a": {**ENTRY, "data_offsets": [8, 16]}}, "a begins at byte 8"),
        ({"__metadata__": {"a": 1}, "a": ENTRY}, "__metadata__"),
        ([1, 2], "not a whole safetensors file"),
        ('{"a": 1, "a": 2}', "not a whole safetensors file"),
        ("[" * 10_000, "not a whole safetensors file"),
    ],
)
def test_a_header_is_checked_whole(folder, header, named):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(Unservable, match=named):
        checkpoint.check(folder)


@pytest.mark.parametrize("text", ["[]", "7", '"x"', "nonsense", "[" * 100_000, "\xff"])
def test_a_config_that_is_no_object(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    for reads in (checkpoint.check, checkpoint.fingerprint, load_config):
        with pytest.raises(Unservable, match=r"config.json is no JSON|cannot be used"):
            reads(folder)


@pytest.mark.parametrize(
    "field",
    [
        {"rope_parameters": []},
        {"hidden_size": "x"},
        {"num_hidden_layers": 99},
        {"num_hidden_layers": 2**40},
        {"eos_token_id": "x"},
        {"dtype": "nonsense"},
        {"num_attention_heads": 0},
        {"rope_parameters": {"rope_theta": -1, "rope_type": "default"}},
    ],
)
def test_a_config_whose_fields_cannot_be(folder, field):
    change(folder / "config.json", **field)
    with pytest.raises(Unservable, match=r"config.json"):
        everything(folder)


def everything(folder: Path) -> None:
    config = load_config(folder)
    end_ids(folder)
    Head(folder, dtype_of(config, "auto"))
    Stage(folder, range(0, 2), dtype_of(config, "auto")).warm_up([2], lambda: 0.0)


def test_auto_is_what_the_files_hold_where_the_config_is_silent(folder):
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert checkpoint.stored_dtype(folder) == "bfloat16"
    change(folder / "config.json", dtype=..., torch_dtype=...)
    assert dtype_of(load_config(folder), "auto") == torch.bfloat16
    change(folder / "config.json", dtype="float32")  # which says otherwise
    assert dtype_of(load_config(folder), "auto") == torch.float32


# -- doctor --model


def test_the_doctor_finds_nothing_and_says_what_it_reads(folder, bytes_folder, capsys):
    for path in bytes_folder.glob("tokenizer*"):
        shutil.copy(path, folder)
    assert doctor.main(["--model", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "model.safetensors (" in printed
    assert printed.endswith("nothing to mend\n")


def test_the_doctor_names_each_fault(folder, bytes_folder, capsys):
    for path in bytes_folder.glob("tokenizer*"):
        shutil.copy(path, folder)
    weight, identity = torch.randn(64, 32), f"{folder.resolve()}/model.safetensors and more"
    numbers = quantised_folder("int8", identity, weight.shape, lambda: weight) / "numbers.npy"
    data = bytearray(numbers.read_bytes())
    data[-5] ^= 1
    numbers.write_bytes(data)
    tiny.put(folder, "model.layers.4.mlp.up_proj.weight", float("inf"))
    (folder / "tokenizer.json").write_text("{}")
    change(folder / "config.json", hidden_act=5)
    assert doctor.main(["--model", str(folder)]) == 1
    printed = capsys.readouterr().out
    for fault in ("the tensor model.layers.4.mlp.up_proj.weight holds NaN or infinity",
                  "numbers.npy is damaged: its sha256",
                  "config.json cannot be used", "tokenizer", "4 things to mend"):  # fmt: skip
        assert fault in printed


def test_the_doctor_names_a_tensor_of_zeros_but_no_bias(folder, bytes_folder, capsys):
    for path in bytes_folder.glob("tokenizer*"):
        shutil.copy(path, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.norm.weight", "model.layers.3.mlp.up_proj.weight"):
        tensors[name].zero_()
    tensors["model.layers.3.self_attn.q_proj.bias"] = torch.zeros(
        len(tensors["model.layers.3.self_attn.q_proj.weight"])
    )
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert doctor.main(["--model", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "the tensor model.norm.weight holds nothing but zeros" in printed
    assert "up_proj.weight holds nothing but zeros" in printed
    assert "2 things to mend" in printed


def test_the_doctor_as_a_command(folder):
    done = subprocess.run(
        [sys.executable, "-m", "jarvis_mpi", "doctor", "--model", str(folder / "none")],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert b"there is no model" in done.stdout
    assert b"Traceback" not in done.stderr


def test_a_model_that_prefers_no_token_is_refused():
    """A file's last page was lost, and with it the final norm."""
    with pytest.raises(Unservable, match="every token the same chance at token 2: M is damaged"):
        Sampler(Settings(model="M")).choose(torch.zeros(9), [1, 2], 0)
