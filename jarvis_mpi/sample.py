"""Logits -> a token id. A draw depends on (seed, sequence, position) alone, never on how many nodes there are."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .link import Unservable
from .settings import Settings


class Sampler:
    """Greedy at temperature 0, else as transformers' own warpers have it, in its order."""

    def __init__(self, settings: Settings):
        self.seed, self.model = settings.seed, settings.model
        self.greedy = settings.temperature == 0
        self.warpers: list[LogitsProcessor] = []
        if settings.repetition_penalty != 1:
            self.warpers.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if not self.greedy:
            self.warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k and not self.greedy:
            self.warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1 and not self.greedy:
            self.warpers.append(TopPLogitsWarper(settings.top_p))

    def choose(self, logits: Tensor, text: Sequence[int], sequence: int) -> int:
        """[V], the ids so far -> the id of the next token of `sequence`."""
        position = len(text)
        scores = logits[None]
        for warper in self.warpers:
            scores = warper(torch.tensor([text]), scores)
        if self.greedy:
            token = int(scores.argmax())  # of NaN, if there is one
            self.refuse(scores[0, token], position)
            return token
        shares = scores.softmax(-1)[0]
        self.refuse(shares[0], position)  # NaN in one is NaN in all
        # mt19937 mixes its seed well, so neighbouring positions draw independently.
        draw = torch.Generator().manual_seed(hash((self.seed, sequence, position)) & (2**63 - 1))
        return int(torch.multinomial(shares, 1, generator=draw))

    def refuse(self, number: Tensor, position: int) -> None:
        """Raises Unservable where the best score, or a token's share, is no number."""
        if not number.isfinite():
            raise Unservable(
                f"the model's numbers are no numbers any more (NaN or infinity) at token {position}:"
                f" python -m jarvis_mpi doctor --model {self.model} names the tensor"
            )
