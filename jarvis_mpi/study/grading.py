"""Grade an answer by a rule: functioning, degraded or critical, the grades of the JARVIS poster.

The poster grades by eye. Here three numbers of an answer (greedy, of a model with layers left out) are
compared with those of the whole model's own answer to the same prompt:

- nats: what a token of it costs the whole model (mean of -log p), which shows how likely the whole model
  finds the text;
- repetition: the share of its runs of four tokens that occurred in it before;
- agrees: how many of its first tokens are the whole model's own.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

RUN = 4  # tokens
LIKELY_NATS = 1.0  # above the whole model's own answer: e times less likely, token for token
REPETITION = 0.25  # above the whole model's own
RUNS_WILD = 0.5


class Grade(StrEnum):
    FUNCTIONING = "functioning"
    DEGRADED = "degraded"
    CRITICAL = "critical"


class StudyAnswer(NamedTuple):
    text: str
    tokens: int
    nats: float  # a token; NaN without tokens
    repetition: float
    agrees: int


def grade(answer: StudyAnswer, whole: StudyAnswer, prose_nats: float) -> Grade:
    """Grade an answer beside the whole model's.
    `prose_nats`: what a token of ordinary prose, by another writer, costs the whole model.

    Critical: the answer is empty, or less likely than such prose, or more than half of it repeats itself
    where the whole model's does not. Functioning: likely, and no more repetitive than the whole model's. Else
    degraded.
    """
    more = answer.repetition - whole.repetition
    if (
        not answer.text.strip()
        or answer.nats >= max(prose_nats, whole.nats + LIKELY_NATS)
        or more > RUNS_WILD
    ):
        return Grade.CRITICAL
    if answer.nats <= whole.nats + LIKELY_NATS and more <= REPETITION:
        return Grade.FUNCTIONING
    return Grade.DEGRADED


def repetition(ids: Sequence[int]) -> float:
    """Return the share of the runs of four tokens that occurred before; 0 for fewer than four tokens."""
    runs = [tuple(ids[at : at + RUN]) for at in range(len(ids) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def agreeing(ids: Sequence[int], whole: Sequence[int]) -> int:
    """Return how many of the first tokens are the same."""
    at = 0
    while at < min(len(ids), len(whole)) and ids[at] == whole[at]:
        at += 1
    return at
