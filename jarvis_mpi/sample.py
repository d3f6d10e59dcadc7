"""Logits -> a token id. A draw depends on (seed, sequence, position) alone, never on how many nodes there are."""

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .settings import Settings


class Sampler:
    """Greedy at temperature 0, else as transformers' own warpers have it, in its order."""

    def __init__(self, settings: Settings):
        self.seed = settings.seed
        self.greedy = settings.temperature == 0
        self.warpers: list[LogitsProcessor] = []
        if not self.greedy:
            self.warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            self.warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            self.warpers.append(TopPLogitsWarper(settings.top_p))

    def choose(self, logits: Tensor, position: int, sequence: int = 0) -> int:
        """[V] -> the id of the token at `position` of `sequence`."""
        if self.greedy:
            return int(logits.argmax())
        scores = logits[None]
        for warper in self.warpers:
            scores = warper(torch.empty(0), scores)  # the warpers look at the scores only
        # mt19937 mixes its seed well, so neighbouring positions draw independently.
        draw = torch.Generator().manual_seed(hash((self.seed, sequence, position)) & (2**63 - 1))
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=draw))
