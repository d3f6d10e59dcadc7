"""Odd checkpoints: with tensors of older releases, and templates that were made for something else."""

import json
from pathlib import Path

import pytest
import texts
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import FalconConfig, Gemma4TextConfig, XGLMConfig

from jarvis_mpi.common import prompt_file
from jarvis_mpi.common.boundary import guarded
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint, integrity, trial
from jarvis_mpi.model.askable import askable
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.model.twin import make_twin

pytestmark = pytest.mark.slow

LIST = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}Assistant:"


def test_masks_of_older_releases_are_not_looked_at(tmp_path):
    """-1e9 in float16 is minus infinity: GPT-2, GPT-J and Pythia have such masks in their files, and no use
    for them."""
    folder = texts.of_bytes(tiny.make("gpt2", tmp_path / "model", vocab_size=260))
    path = folder / "model.safetensors"
    masks = {
        f"transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e9).half() for layer in range(tiny.LAYERS)
    }
    save_file(load_file(path) | masks | {"transformer.masked_bias": torch.tensor(float("nan"))}, path)
    Stage(folder, range(tiny.LAYERS), torch.float32).check_against_family()
    Head(folder, torch.float32)
    assert list(integrity.bad_tensors(folder)) == []


def test_the_doctor_misses_nothing_of_a_part_that_stage_model_delivered(tmp_path):
    folder = texts.of_bytes(tiny.make("llama", tmp_path / "model", vocab_size=260))
    path = folder / "model.safetensors"
    part = {name: tensor for name, tensor in load_file(path).items() if ".layers.2.mlp." not in name}
    save_file(part, path)
    assert any("has no weights for" in line for line in integrity.findings(str(folder), 9.0))
    (folder / checkpoint.MANIFEST).write_text(json.dumps({"tensors": sorted(part)}))
    assert list(integrity.findings(str(folder), 9.0)) == []


def test_alibi_of_falcon_is_compared_with_the_attention_that_it_uses(tmp_path):
    """Its eager attention adds the biases twice, `generate` takes sdpa."""
    config = FalconConfig(
        vocab_size=103,
        hidden_size=64,
        num_attention_heads=4,
        num_hidden_layers=3,
        alibi=True,
        ffn_hidden_size=64,
    )
    make_twin(config, 4).save_pretrained(tmp_path)
    Stage(tmp_path, range(3), torch.float32).check_against_family()


def test_a_family_that_cannot_be_run_in_float64_is_tried_all_the_same():
    config = XGLMConfig(
        vocab_size=103, d_model=32, num_layers=4, attention_heads=4, ffn_dim=48, max_position_embeddings=128
    )
    assert trial.unlike(config, (1, 2)) == ""


def test_a_buffer_that_is_saved_with_the_model_is_read(tmp_path):
    """Gemma 4's layers have a factor each, which is no parameter."""
    config = Gemma4TextConfig(
        vocab_size=103, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        num_hidden_layers=3,
        intermediate_size=96, hidden_size_per_layer_input=0, num_kv_shared_layers=0,
        vocab_size_per_layer_input=1,
        layer_types=["full_attention"] * 3, global_head_dim=16, max_position_embeddings=128,
    )  # fmt: skip
    whole = make_twin(config, 4)
    factors = {name: float(each) for name, each in whole.state_dict().items() if "layer_scalar" in name}
    assert len(factors) >= 3
    assert 1.0 not in factors.values()
    whole.save_pretrained(tmp_path)
    stage = Stage(tmp_path, range(3), torch.float32)
    stage.check_against_family()
    head, ids = Head(tmp_path, torch.float32), [5, 9, 33, 7]
    ours = torch.as_tensor(head.logits(stage.run(head.embed(ids, 0), 0)))
    theirs = whole(input_ids=torch.tensor([ids])).logits[0, -1]
    assert (ours - theirs).abs().max() < 1e-3
    assert trial.unlike(config, (4,)) == ""


@pytest.mark.parametrize(
    "template", [LIST, "{% if false %}x{% endif %}", "Hello!", "{{ messages[0].content[:0] }}"]
)
def test_a_template_that_leaves_the_question_out_is_reported(template, tmp_path):
    text = Text(texts.of_bytes(tmp_path, template))
    with pytest.raises(Unservable, match="chat template leaves out what is asked"):
        askable(text, (), "hello", 99)


def test_a_template_that_always_asks_the_first_question_is_reported(tmp_path):
    text = Text(texts.of_bytes(tmp_path, "[{{ messages[0].content }}]"))
    ids = askable(text, (), "one", 99)
    text.add_turn("one", "1")
    with pytest.raises(Unservable, match="chat template leaves out what is asked"):
        askable(text, [*ids, 5], "two", 99)


@pytest.mark.parametrize(
    "template", ["{{ messages[0].content | tojson }}", "{{ messages[0].content | upper }}"]
)
def test_a_template_may_change_the_question(template, tmp_path):
    assert askable(Text(texts.of_bytes(tmp_path, template)), (), 'say "it"', 99)


def test_a_prompt_of_no_tokens_is_a_sentence(tmp_path):
    text = Text(texts.of_bytes(tmp_path, "{{ '' if 'x' in messages[0].content else messages[0].content }}"))
    assert askable(text, (), "hello", 99)
    with pytest.raises(Unservable, match="leaves nothing of the prompt 'has x'"):
        askable(text, (), "has x", 99)


def read(tmp_path, data: bytes, name="prompts.txt") -> list[str]:
    (tmp_path / name).write_bytes(data)
    return [asked.prompt for asked in prompt_file.read(tmp_path / name)]


def test_a_list_of_json_and_old_line_ends_are_reported(tmp_path):
    objects = [{"prompt": "one"}, {"prompt": "two"}]
    for data in (json.dumps(objects), json.dumps(objects, indent=2)):
        with pytest.raises(Unservable, match="is one list of JSON: write an object a line"):
            read(tmp_path, data.encode(), "prompts.json")
    with pytest.raises(Unservable, match="is one object of JSON over several lines: write it in one line"):
        read(tmp_path, json.dumps({"prompt": "one"}, indent=2).encode(), "prompts.json")
    assert read(tmp_path, b'{"prompt": "one"}\n{"prompt": "two"}\n') == ["one", "two"]
    assert read(tmp_path, b"[1] is a list\n[2] too\n") == ["[1] is a list", "[2] too"]
    with pytest.raises(Unservable, match="has no line ends but CR"):
        read(tmp_path, b"one\rtwo\r")


def test_objects_may_be_indented_and_a_file_may_end_as_under_dos(tmp_path):
    assert read(tmp_path, b'  {"prompt": "one"}\r\n\t{"prompt": "two"}\r\n\x1a') == ["one", "two"]


def test_a_reason_that_a_colon_promises_is_given():
    error = ValueError(
        "Validation error for field 'rms_norm_eps':\n    TypeError: expected float, got '1e-5'\nmore"
    )
    with (
        pytest.raises(
            Unservable,
            match=r"cannot be used: Validation .* 'rms_norm_eps': TypeError: expected float, got '1e-5'$",
        ),
        guarded("config.json cannot be used"),
    ):
        raise error


@pytest.mark.parametrize("refuses", ["mkdir", "is_file"])
def test_a_model_is_tried_and_built_without_a_cache_folder(refuses, tmp_path, monkeypatch):
    """A parent that is no folder, and a folder of another user, which cannot be read."""
    folder, cache = tiny.make("llama", tmp_path / "model"), tmp_path / "cache"
    cache.write_text("")
    monkeypatch.setenv("JARVIS_CACHE", str(cache))
    real = Path.is_file

    def is_file(path: Path) -> bool:
        if refuses == "is_file" and cache in path.parents:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    trial.check(folder)
    Head(folder, torch.float32)
    Stage(folder, range(2), torch.float32)


def test_a_folder_that_may_not_be_looked_into_and_a_name_that_none_can_have(tmp_path, monkeypatch):
    with pytest.raises(Unservable, match=r"the model aaa.* cannot be read: File name too long"):
        checkpoint.locate("a" * 5000)
    folder, real = tiny.make("llama", tmp_path / "model"), Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent == folder:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    with pytest.raises(Unservable, match=r"the model .*model cannot be read: Permission denied"):
        checkpoint.locate(str(folder))


def test_a_layer_that_changes_nothing_is_served(tmp_path):
    """Such layers are in a pruned model, or in one that was made deeper by untrained layers."""
    folder = tiny.make("llama", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    last = f"model.layers.{tiny.LAYERS - 1}."
    for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        tensors[last + name].zero_()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    Stage(folder, range(tiny.LAYERS - 1, tiny.LAYERS), torch.float32).check_against_family()


def test_two_files_that_hold_one_tensor_are_named(tmp_path):
    folder, name = tiny.make("llama", tmp_path), "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({name: -tensors[name]}, folder / "b.safetensors")
    index = {"weight_map": {**dict.fromkeys(tensors, "a.safetensors"), name: "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Unservable, match=rf"has {name} in a.safetensors and {name} in b.safetensors, which"):
        Stage(folder, range(1, 2), torch.float32)
