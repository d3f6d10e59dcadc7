"""Reads a run's model for the end user: config, numbers, tokenizer.
This file imports torch and transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..common.messages import say
from ..common.settings import Settings
from ..model import checkpoint, trial
from ..model.family import (
    cache_row_bytes,
    context_of,
    dtype_of,
    import_family,
    load_config,
    longest_text,
    quiet,
    read_config,
)
from ..model.tokenizer import Text, check_template
from ..model.weights import FORMATS


@dataclass(frozen=True)
class ServedModel:
    folder: Path
    config: Any
    dtype: torch.dtype  # of activations, on the wire and in computing
    weights: str  # --weights
    context: int  # positions that a text may have
    layer_bytes: float  # of a layer's weights in memory

    @property
    def depth(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def numbers(self) -> str:
        """How numbers are stored, in words."""
        return self.dtype_name + (f", {self.weights} weights" if self.weights in FORMATS else "")

    @property
    def position_bytes(self) -> int:
        """How much a layer stores of a position: buffers double when they grow, and what a node sends is
        stored too."""
        return 2 * cache_row_bytes(self.config, self.dtype) + self.config.hidden_size * self.dtype.itemsize


def import_model_code(folder: Path) -> None:
    """Import the family's classes now, as every other node does at this point of its start.
    Raises Unservable."""
    quiet()
    import_family(read_config(folder))


def tried_model(folder: Path, settings: Settings) -> ServedModel:
    """Return the model, after a small twin of it was cut and compared with the whole. Raises Unservable."""
    trial.check(folder, say)
    return served_model(folder, settings)


def served_model(folder: Path, settings: Settings) -> ServedModel:
    """Return the model, which was tried before. Raises Unservable."""
    config = load_config(folder)
    layer_bytes: float = checkpoint.layer_bytes(folder, config.num_hidden_layers)
    if settings.weights in FORMATS:
        layer_bytes *= FORMATS[settings.weights].bytes_a_weight / dtype_of(config, "auto").itemsize
    return ServedModel(
        folder, config, dtype_of(config, settings.dtype), settings.weights, context_of(config), layer_bytes
    )


def tokenizer_of(model: ServedModel) -> Text:
    """Return the model's tokenizer; say where an answer ends otherwise than its reader may expect."""
    text = Text(model.folder, model.config.vocab_size)
    check_template(text)
    if text.end_note:
        say(text.end_note)
    if model.context < (whole := longest_text(model.config)):
        say(
            f"a text ends after {model.context} of the model's {whole} positions:"
            " behind them its rotary tables change for all of it"
        )
    return text
