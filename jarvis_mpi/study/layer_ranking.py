"""Rank layers without any task, from one pass over a calibration text.

- Block Influence (Men et al. 2024, "ShortGPT", eq. 1): 1 - the mean cosine of a layer's input and output;
- angular distance (Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers", eq. 7):
  arccos of the cosine of the states before and after n layers, over pi; they take the last token's, here the
  mean over all tokens;
- KL: the divergence of the output without the layer from the whole model's, nats a token (the mean over all
  tokens).
"""

from typing import Any, NamedTuple

from . import skip_cases
from .scorer import ROWS, Scorer

MOST = 8  # layers at a time


class Rankings(NamedTuple):
    """By layer, from 0; `angular[n - 1]` by the first of n layers."""

    block_influence: list[float]
    angular: list[list[float]]
    kl: list[float]
    prose_nats: float  # the whole model's, a token of the calibration text


def rank(scorer: Scorer, ids: list[int]) -> Rankings:
    import torch

    from ..model.activations import from_bytes

    states = scorer.states_of(ids)
    held = [from_bytes(state, scorer.head.width, scorer.head.dtype)[0].float() for state in states]

    def cosines(first: int, count: int) -> torch.Tensor:  # [S]
        return torch.cosine_similarity(held[first], held[first + count], dim=-1).clamp(-1, 1)

    depth = scorer.depth
    influence = [1 - cosines(layer, 1).mean().item() for layer in range(depth)]
    angular = [
        [(cosines(first, count).acos() / torch.pi).mean().item() for first in range(depth - count + 1)]
        for count in range(1, min(MOST, depth) + 1)
    ]
    kl = [0.0] * depth
    nats = 0.0
    without = [
        (case, body)
        for layer in range(depth)
        for case, body in skip_cases.walk([frozenset([layer])], depth, layer, states[layer], scorer.run)
    ]
    for first in range(0, len(ids), ROWS):
        end = min(first + ROWS, len(ids))
        whole = torch.log_softmax(scorer.head.rows_logits(states[-1], first, end), -1)
        wanted = torch.tensor(ids[first + 1 : end + 1])
        nats -= whole[: len(wanted)].gather(1, wanted[:, None]).sum().item()
        for case, body in without:
            skipped = torch.log_softmax(scorer.head.rows_logits(body, first, end), -1)
            kl[min(case)] += divergence(whole, skipped) / len(ids)
    return Rankings(influence, angular, kl, nats / (len(ids) - 1))


def divergence(whole: Any, skipped: Any) -> float:
    """Return the KL divergence summed over the rows of two [S, V] of log p."""
    from torch.nn.functional import kl_div

    return kl_div(skipped, whole, log_target=True, reduction="sum").item()
