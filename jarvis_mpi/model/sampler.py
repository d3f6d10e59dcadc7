"""Choose a token id from logits.
A draw depends on (seed, sequence, position) alone, never on the number of nodes."""

import hashlib
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

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.settings import Settings

COLDEST = 1e-30  # about float32's smallest quotient: the likeliest token is drawn
LARGEST = 1e37  # near float32's own


class Sampler:
    """Greedy at temperature 0, else as transformers' own warpers, in their order."""

    def __init__(self, settings: Settings):
        self.seed, self.model = settings.seed, settings.model
        self.greedy = settings.temperature < COLDEST
        self.shifted_for: LogitsProcessor | None = None
        self.most = LARGEST  # that a logit may be before it is divided by the temperature
        self.warpers: list[LogitsProcessor] = []
        if settings.repetition_penalty not in (0, 1):  # 0: not given
            self.warpers.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
        if not self.greedy:
            self.warpers.append(TemperatureLogitsWarper(min(settings.temperature, LARGEST)))
            self.shifted_for = self.warpers[-1]
            self.most = LARGEST * settings.temperature
        if settings.top_k and not self.greedy:
            self.warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1 and not self.greedy:
            self.warpers.append(TopPLogitsWarper(settings.top_p))

    def choose(self, logits: Tensor, text: Sequence[int], sequence: int) -> int:
        """Choose the next token of `sequence` from its logits [V] and the ids so far."""
        position = len(text)
        likeliest = int(logits.argmax())  # a NaN, if there is one
        if not logits[likeliest].isfinite():
            raise Unservable(
                f"the model's numbers are no numbers any more (NaN or infinity) at token {position}:"
                f" python -m jarvis_mpi doctor --model {self.model} names the tensor"
            )
        if len(logits) > 1 and logits.min() == logits[likeliest]:  # such as behind a norm of all zeros
            raise Unservable(
                f"the model gives every token the same chance at token {position}: {self.model} is damaged,"
                " fetch it again, or ask who made it"
            )
        if not self.warpers:
            return likeliest
        scores = logits[None]
        with guarded(
            "no token can be drawn", "use less extreme --temperature, --top-p and --repetition-penalty"
        ):
            for warper in self.warpers:
                if warper is self.shifted_for and abs(float(scores.max())) > self.most:
                    scores = scores - scores.max()  # differences alone count, and these stay finite
                scores = warper(torch.tensor([text]), scores)
            if self.greedy:
                return int(scores.argmax())
            return self.draw(scores.softmax(-1)[0], sequence, position)

    def draw(self, probabilities: Tensor, sequence: int, position: int) -> int:
        draw = torch.Generator().manual_seed(seed_of(self.seed, sequence, position))
        return int(torch.multinomial(probabilities, 1, generator=draw))


def seed_of(seed: int, sequence: int, position: int) -> int:
    """Return the seed of one draw: a digest, so that it is the same on any Python, and neighbouring positions
    draw independently."""
    text = f"{seed} {sequence} {position}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
