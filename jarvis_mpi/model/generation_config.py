"""Follow a model's generation_config.json: what it changes of a greedy text under `generate` is done here
too, or refused by name."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.cache_folder import Say
from ..common.errors import Unservable
from ..common.settings import LEAST_PENALTY, MOST_PENALTY, Settings
from .safetensors_files import json_object

FILES = ("generation_config.json", "config.json")  # where `generate` looks; the first that exists
PENALTY = "repetition_penalty"
# Kinds of cache that store numbers unchanged, unlike "quantized".
WHOLE_CACHES = (
    "dynamic",
    "static",
    "offloaded",
    "offloaded_static",
    "sliding_window",
    "hybrid",
    "hybrid_chunked",
)
# Other options that change a greedy text, and their values that change nothing (besides None, False and what
# is empty).
OTHERS: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "no_repeat_ngram_size": (), "encoder_no_repeat_ngram_size": (),
    "encoder_repetition_penalty": (1,),
    "min_length": (), "min_new_tokens": (), "exponential_decay_length_penalty": (), "forced_eos_token_id": (),
    "forced_bos_token_id": (), "forced_decoder_ids": (),
    "bad_words_ids": (), "suppress_tokens": (), "begin_suppress_tokens": (), "sequence_bias": (),
    "guidance_scale": (1,), "watermarking_config": (), "penalty_alpha": (), "dola_layers": (),
    "stop_strings": (), "max_time": (), "cache_implementation": WHOLE_CACHES, "token_healing": (),
    "constraints": (), "force_words_ids": (),
}  # fmt: skip


def followed(settings: Settings, folder: Path, say: Say) -> Settings:
    """Return `settings` with a repetition penalty: their own, else the model's, else none.
    Raises Unservable where the model asks for more."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    config = json_object(path) if path else {}
    for name, value in asked(config):
        raise Unservable(
            f"{path} asks for {name} = {str(value)[:40]}, which changes a greedy text and is not done here: "
            "take it out of there"
        )
    if settings.repetition_penalty:
        return settings
    penalty = config.get(PENALTY)
    if penalty is None:
        return replace(settings, repetition_penalty=1.0)
    if type(penalty) not in (int, float) or not LEAST_PENALTY <= penalty <= MOST_PENALTY:
        raise Unservable(
            f"{path} has {PENALTY} = {str(penalty)[:40]}, which is no number from {LEAST_PENALTY} to "
            f"{MOST_PENALTY:g}: take it out of there, or say --repetition-penalty 1"
        )
    if penalty != 1:
        say(f"{path} asks for {PENALTY} {penalty:g}: it is used (--repetition-penalty 1 uses none)")
    return replace(settings, repetition_penalty=float(penalty))


def asked(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, harmless in OTHERS.items():
        value = config.get(name)
        # A token may have the number 0.
        given = type(value) in (int, list) if name.endswith("token_id") else value
        if given and value not in harmless:
            yield name, value
