"""Options in a model's own files that change a greedy text under `generate` are followed, or refused by
name."""

import json
import math
from pathlib import Path

import pytest
import texts
import tiny
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.options import parse
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model.generation_config import OTHERS, asked, followed
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.sampler import Sampler
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import Text

pytestmark = pytest.mark.slow

PROMPT = [72, 33, 90, 91, 72, 33]


@pytest.fixture
def folder(tmp_path):
    return texts.of_bytes(tiny.make("llama", tmp_path / "model", vocab_size=260))


def say_in(folder: Path, name: str = "generation_config.json", **what) -> Path:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **what}))
    return folder


def quiet(line: str) -> None:
    pass


def greedy(folder: Path, settings: Settings, count: int) -> list[int]:
    head, stage, ids = (
        Head(folder, torch.float32),
        Stage(folder, range(tiny.LAYERS), torch.float32),
        [*PROMPT],
    )
    choose, start = Sampler(settings).choose, 0
    for _ in range(count):
        logits = head.logits(stage.run(head.embed(ids[start:], start), start))
        start = len(ids)
        ids.append(choose(logits, ids, 0))
    return ids[len(PROMPT) :]


# Options that change no greedy text: of drawing, of beams alone (num_beams is refused), of speed, of the
# return value; `eos_token_id` is in tokenizer.end_ids.
HARMLESS = set(
    """max_length max_new_tokens early_stopping do_sample use_mtp use_cache cache_config max_cache_len
    temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff length_penalty
    renormalize_logits remove_invalid_values num_return_sequences output_attentions output_hidden_states
    output_scores output_logits return_dict_in_generate pad_token_id bos_token_id eos_token_id
    decoder_start_token_id is_assistant num_assistant_tokens num_assistant_tokens_schedule
    assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit
    assistant_lookbehind target_lookbehind assistant_ensemble_weight speculation_type compile_config
    disable_compile continuous_batching_config low_memory diversity_penalty num_beam_groups
    prefill_chunk_size transformers_version repetition_penalty""".split()  # noqa: SIM905
)


def test_each_field_that_transformers_knows_is_followed_refused_or_harmless():
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert known - HARMLESS - OTHERS.keys() == set()
    assert not HARMLESS & OTHERS.keys()


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        (5, 7, {5}),
        ([5, 6], 7, {5, 6}),
        (None, 7, {7}),
        (None, [7, 8], {7, 8}),
        (None, None, None),
        (5, -1, {5}),
    ],
)
def test_an_answer_ends_where_generate_ends_it(folder, generation, config, ends):
    say_in(folder, eos_token_id=generation)
    say_in(folder, "config.json", eos_token_id=config)
    text = Text(folder)
    assert text.end_ids == (ends or {text.tokenizer.eos_token_id})
    assert bool(text.end_note) == (generation is None)


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_the_models_own_repetition_penalty_is_used_and_announced(folder, name):
    if name == "config.json":
        (folder / "generation_config.json").unlink()
    say_in(folder, name, repetition_penalty=1.3)
    lines: list[str] = []
    settings = followed(Settings(), folder, lines.append)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    whole = model.generate(torch.tensor([PROMPT]), max_new_tokens=24, do_sample=False, eos_token_id=None)
    assert greedy(folder, settings, 24) == whole[0, len(PROMPT) :].tolist()
    assert greedy(folder, Settings(), 24) != whole[0, len(PROMPT) :].tolist()
    assert lines == [
        f"{folder / name} asks for repetition_penalty 1.3: it is used (--repetition-penalty 1 uses none)"
    ]


def test_what_the_user_says_goes_first_and_none_changes_nothing(folder):
    none = Settings(repetition_penalty=1.0)
    assert followed(Settings(), folder, quiet) == none
    say_in(folder, repetition_penalty=1.3)
    assert followed(parse(["--repetition-penalty", "1.1"]), folder, quiet).repetition_penalty == 1.1
    say_in(folder, repetition_penalty=1.0, num_beams=1, min_length=0, bad_words_ids=None, guidance_scale=1.0)
    assert followed(Settings(), folder, quiet) == none


@pytest.mark.parametrize("penalty", [1.3, 0, "1.3", math.nan])
def test_an_explicit_penalty_of_1_switches_the_models_own_off(folder, penalty):
    say_in(folder, repetition_penalty=penalty)
    lines: list[str] = []
    settings = followed(parse(["--repetition-penalty", "1"]).checked(), folder, lines.append)
    assert settings.repetition_penalty == 1
    assert lines == []
    # The settings of a resumed record.
    resumed = followed(Settings.of(settings.as_dict()), folder, lines.append)
    assert resumed == settings
    assert greedy(folder, settings, 24) == greedy(folder, Settings(), 24)


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_what_is_not_done_here_is_named(folder, name):
    say_in(folder, **{name: 3})
    with pytest.raises(
        Unservable, match=rf"generation_config.json asks for {name} = 3, which changes a greedy text"
    ):
        followed(Settings(), folder, quiet)


@pytest.mark.parametrize("penalty", ["1.3", 0, -1, 1e9, [1.3], math.nan])
def test_a_penalty_that_is_none_is_a_sentence(folder, penalty):
    say_in(folder, repetition_penalty=penalty)
    with pytest.raises(Unservable, match=r"generation_config.json has repetition_penalty = "):
        followed(Settings(), folder, quiet)


@pytest.mark.parametrize("name", ["forced_eos_token_id", "forced_bos_token_id"])
def test_a_token_of_number_0_is_asked_for_too(name):
    assert list(asked({name: 0})) == [(name, 0)]
    assert list(asked({name: None, "min_length": 0, "guidance_scale": None})) == []
