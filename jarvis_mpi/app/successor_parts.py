"""Loads what a standby must have to be the end user at once: tokenizer, embedding and output layer.

This file imports torch and transformers.
"""

from dataclasses import dataclass
from pathlib import Path

from ..common.settings import Settings
from ..model.head import Head
from ..model.patch import PatchInfo
from ..model.tokenizer import Text
from .opening import ModelFiles
from .served_model import ServedModel, served_model


@dataclass(frozen=True)
class SuccessorParts:
    """Weights are mapped: they take no memory of their own until they are used."""

    model: ServedModel
    head: Head
    text: Text
    patches: PatchInfo | None

    def files(self, fingerprint: str) -> ModelFiles:
        return ModelFiles(self.model.folder, fingerprint, self.patches)


def successor_parts(folder: Path, settings: Settings, patches: PatchInfo | None) -> SuccessorParts:
    """Raises Unservable."""
    model = served_model(folder, settings)
    head = Head(folder, model.dtype, settings.weights)
    return SuccessorParts(model, head, Text(folder, model.config.vocab_size), patches)
