"""trial: models that cannot be cut are refused before a weight is read; each fault of a cut must be
noticed."""

import json

import pytest
import tiny
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    RobertaConfig,
)

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import fast_step, trial
from jarvis_mpi.model.family import context_of, load_config
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.nn import batch_invariant
from jarvis_mpi.nn.kv_cache import new_cache

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=tiny.FAMILIES)
def folder(request, tmp_path):
    return tiny.make(request.param, tmp_path / "model")


def test_every_family_of_the_readme_passes(folder):
    trial.check(folder)


def test_a_verdict_is_cached_and_not_found_twice(tmp_path, cache, monkeypatch):
    folder = tiny.make("llama", tmp_path / "model")
    lines = []
    trial.check(folder, lines.append)
    monkeypatch.setattr(trial, "unlike", lambda *_: pytest.fail("tried twice"))
    trial.check(folder, lines.append)
    assert lines == ["first use of this model: a cut of it is compared with the whole, in small"]
    (verdict,) = (cache / "trials").glob("*.json")
    for damaged in ("", "[]", '{"why": 3}', '{"other": ""}'):
        verdict.write_text(damaged)
        with pytest.raises(pytest.fail.Exception):
            trial.check(folder)


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(24, "Too many open files"), "ulimit -n"),
        (MemoryError(), "no memory was left"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "no memory was left",
        ),
        (OSError(28, "No space left on device"), "free some room"),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["Head", "make_twin", "logits_of_cut"])
def test_what_the_machine_lacks_is_no_fault_of_the_model_and_no_verdict(
    place, error, named, tmp_path, monkeypatch
):
    def lacks(*_, **__):
        raise error

    folder = tiny.make("llama", tmp_path / "model")
    with monkeypatch.context() as short:
        short.setattr(trial, place, lacks)
        with pytest.raises(Unservable, match=f"cannot be tried: .*{named}"):
            trial.check(folder)
    trial.check(folder)


@pytest.mark.parametrize(
    "more",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_2"},
        {"return_dict": False},
    ],
    ids=str,
)
def test_what_its_makers_program_asked_for_is_not_asked_here(more, tmp_path):
    folder = tiny.make("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **more}))
    trial.check(folder)


def test_rotary_tables_of_an_unknown_kind_are_named(tmp_path):
    folder = tiny.make("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "rope_parameters": {"rope_type": "spiral", "factor": 2.0, "rope_theta": 1e4}})
    )
    with pytest.raises(Unservable, match=r"rotary tables of a kind that transformers does not know: spiral"):
        trial.check(folder)


def test_another_config_and_another_version_are_tried_again(tmp_path, monkeypatch):
    config = load_config(tiny.make("llama", tmp_path / "model"))
    before = trial.identity(config)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 5e5}
    assert trial.identity(config) != before
    monkeypatch.setattr(trial.importlib.metadata, "version", lambda name: "99")
    assert trial.identity(load_config(tmp_path / "model")) != before


def test_a_refusal_names_the_folder_the_kind_and_the_reason_each_time(tmp_path):
    folder = tiny.make("llama", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    experts = {**config, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    (folder / "config.json").write_text(json.dumps(experts))
    for _ in range(2):
        with pytest.raises(
            Unservable,
            match=r"model is a model of kind 'mixtral' that cannot be cut: it is a mixture of experts "
            r"\(Mixtral\w+\)",
        ):
            trial.check(folder)


def deaf_to_windows(patch):
    real = batch_invariant.mask
    patch.setattr(
        "jarvis_mpi.model.fast_step.mask", lambda start, count, window, dtype: real(start, count, 0, dtype)
    )
    patch.setattr(
        "jarvis_mpi.model.stage.new_cache",
        lambda config: new_cache(LlamaConfig(num_hidden_layers=config.num_hidden_layers)),
    )


def deaf_to_caps(patch):
    real = batch_invariant.scale_and_cap
    for module in ("nn.batch_invariant", "model.fusion"):
        patch.setattr(f"jarvis_mpi.{module}.scale_and_cap", lambda *args: (real(*args)[0], 0.0))


def deaf_to_sinks(patch):
    patch.setattr(batch_invariant, "HONOURED", batch_invariant.HONOURED | {"s_aux"})


def one_row_late(patch):
    real = fast_step.FastStep.row_of
    patch.setattr(
        fast_step.FastStep, "row_of", lambda self, start, count: real(self, start, count) + (start > 0)
    )


@pytest.mark.parametrize(
    ("config", "spoil"),
    [
        (MistralConfig(**tiny.SHAPE, sliding_window=8), deaf_to_windows),
        (Gemma2Config(**tiny.SHAPE, attn_logit_softcapping=5.0), deaf_to_caps),
        (
            GptOssConfig(**tiny.SHAPE, num_local_experts=4, num_experts_per_tok=2, sliding_window=8),
            deaf_to_sinks,
        ),
        (LlamaConfig(**tiny.SHAPE), one_row_late),
    ],
)
def test_a_cut_that_leaves_something_out_is_found(monkeypatch, config, spoil):
    monkeypatch.setattr(trial, "uncuttable", lambda model: "")  # sinks come with experts only
    monkeypatch.setattr(trial, "noise_of", lambda *_: 0.0)  # and those take no float64
    assert trial.unlike(config, (2,)) == ""
    spoil(monkeypatch)
    assert "says something else in 2 stages" in trial.unlike(config, (2,))


def test_an_encoder_is_found_by_what_the_tokens_see():
    config = RobertaConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, is_decoder=False
    )
    assert "each token sees those after it" in trial.unlike(config, (2,))


def test_a_processor_that_gives_something_else_is_not_used(tmp_path, monkeypatch):
    stage = Stage(tiny.make("llama", tmp_path), range(2, 4), torch.float32)
    stage.check_against_family()
    real = stage.fast_step.run_parts
    monkeypatch.setattr(stage.fast_step, "run_parts", lambda *args: real(*args)[:-4] + bytes(4))
    with pytest.raises(
        Unservable, match=r"layers 2-3 of .* give something else here than transformers' own code"
    ):
        stage.check_against_family()


LONG = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 8.0, 12.0, 20.0],
    "rope_theta": 1e4,
}


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_a_text_ends_where_the_first_rotary_tables_do(tmp_path, family):
    """Beyond, `generate` computes all rows with the later tables, and in some families all that are
    cached."""
    folder = tiny.make(
        family,
        tmp_path,
        max_position_embeddings=128,
        rope_parameters=LONG,
        original_max_position_embeddings=32,
    )
    assert context_of(load_config(folder)) == 32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = list(range(3, 25))
    with torch.inference_mode():
        whole = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 22),
            max_new_tokens=10,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    answer = whole.sequences[0, 22:].tolist()
    head, stages = (
        Head(folder, torch.float32),
        [Stage(folder, block, torch.float32) for block in (range(3), range(3, 6))],
    )
    ours = trial.logits_of_cut(head, stages, prompt, answer)
    assert trial.apart(ours, torch.cat(whole.logits)) < 1e-4


@pytest.mark.parametrize(
    "wrong",
    [{"sliding_window": -1}, {"rope_parameters": {"rope_type": "yarn", "factor": 0.0, "rope_theta": 1e4}}],
)
def test_a_sentence_names_the_model_and_not_the_small_one(wrong, tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    folder = tiny.make("mistral", tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    with pytest.raises(
        Unservable, match=r"a model of kind 'mistral',? (that )?cannot be (cut|tried)"
    ) as raised:
        trial.check(folder)
    assert "/tmp" not in str(raised.value).replace(str(folder), "")
