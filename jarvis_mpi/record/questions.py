"""Puts a run's questions and answers together from its events and tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .tables import Event

ANSWERED = ("end", "stop", "length", "context")  # how an answer ends


@dataclass(frozen=True)
class Question:
    """A question and its answer.
    `ids`: the sequence up to the answer; `tokens`: the answer's; `ended`: '' while it is under way."""

    sequence: int
    step: int
    at_s: float
    prompt: str
    ids: list[int] = field(repr=False)
    tokens: list[int] = field(repr=False)
    ended: str
    text: str = field(repr=False)
    answered: bool = False


def questions(
    events: Sequence[Event], tokens: np.ndarray, schema: int, chats: Callable[[], bool]
) -> list[Question]:
    """Return the questions in the order asked; several may have been in flight.
    `chats`: whether a person reads along."""
    found: list[Question] = []
    for event in events:
        if event.event == "asked":
            asked = event.payload
            found.append(
                Question(asked["sequence"], event.step, event.at_s, asked["prompt"], asked["ids"], [], "", "")
            )
        elif event.event == "answered" and found:
            end: dict[str, Any] = {"ended": event.text, "text": ""} if schema < 4 else event.payload
            at = last_of(found, end.get("sequence", found[-1].sequence))
            # Who stops an answer in a chat has read it; a prompt's answer is to be complete.
            whole = end["ended"] in (*ANSWERED, "interrupted") if chats() else end["ended"] in ANSWERED
            found[at] = replace(found[at], ended=end["ended"], text=end["text"], answered=whole)
    return [replace(each, tokens=answer(each, found, tokens)) for each in found]


def last_of(questions: Sequence[Question], sequence: int) -> int:
    """Return the index of that sequence's last question."""
    return max(place for place, each in enumerate(questions) if each.sequence == sequence)


def answer(question: Question, questions: Sequence[Question], tokens: np.ndarray) -> list[int]:
    """Return the question's tokens: those of its sequence up to the sequence's next question."""
    later = (each.step for each in questions if each.sequence == question.sequence)
    end = min((step for step in later if step > question.step), default=2**32)
    own = (tokens["step"] >= question.step) & (tokens["step"] < end)
    return tokens["token"][own & (tokens["sequence"] == question.sequence)].tolist()
