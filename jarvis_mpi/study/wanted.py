"""What a skip study scores: the text's windows, the tasks' questions, the prompts.
A bad one of them is left out, and named."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.cache_folder import Say
from ..common.errors import Unservable
from ..common.given_file import text_of
from ..common.layers import Case
from ..record.study_file import Item
from . import askable_prompts, skip_cases, tasks
from .corpus import prose, token_entropy, windows_of
from .scorer import Encoded, encoded
from .tool import Refuse

if TYPE_CHECKING:
    from ..model.tokenizer import Text

WINDOW = 512  # tokens, each from position 0
CALIBRATION = 512  # tokens behind the text's, for layer_ranking.py


class Wanted(NamedTuple):
    """All that the study scores; the same on every rank. Texts are token ids, except `prompts`."""

    cases: list[Case]
    windows: list[list[int]]
    questions: list[Encoded]
    prompts: list[str]
    prompts_ids: list[list[int]]
    answer_tokens: int
    context: int  # positions that the model takes
    calibration: list[int]


def wanted_of(
    asked: argparse.Namespace, text: "Text", config: Any, say: Say, left_out: Refuse
) -> tuple[Wanted, list[Item], dict[str, Any]]:
    """Return what is to be scored, its rows in the file, and the attributes that identify the study.
    Raises Unservable.

    `left_out` is called with the items that cannot be scored.
    """
    from ..model.family import context_of

    context, cases = context_of(config), skip_cases.named(asked.cases, config.num_hidden_layers)
    words = [word for word in asked.tasks.split(",") if word not in ("text", "none")]
    window = window_of(asked, text, context)
    prose_text = text_of("--text", asked.text) if asked.text else prose()
    windows, calibration = predictions_of(asked, prose_text, text, window, context, say)
    predicted = windows if "text" in asked.tasks.split(",") else []
    questions, cut = questions_of(asked, ",".join(words), text, context, left_out) if words else ([], [])
    lines, prompts_ids = (
        askable_prompts.askable_in(asked.prompts, text, context, left_out, refuse_zero_bytes)
        if asked.prompts
        else ([], [])
    )
    if (words or asked.prompts) and not (predicted or cut or lines):
        raise Unservable("nothing is left to score: mend what is named above")
    wanted = Wanted(cases, predicted, cut, lines, prompts_ids, asked.answer_tokens, context, calibration)
    attributes = {
        "window": window, "text": digest(prose_text) if predicted else "",
        "questions": digest(cut) if cut else "",
        "asked": digest([prompts_ids, asked.answer_tokens]) if lines else "",
        "token_entropy": token_entropy(predicted or windows),
        "shots": asked.shots,
    }  # fmt: skip
    return wanted, items_of(predicted, questions, cut), attributes


def window_of(asked: argparse.Namespace, text: "Text", context: int) -> int:
    """Return the tokens of a window. Raises Unservable."""
    least = len(text.beginning) + 2  # one token predicts another
    window = min(WINDOW, context) if asked.window is None else asked.window
    if not least <= window <= context:
        raise Unservable(
            f"--window is {window}, but must be between {least} and the {context} positions that "
            f"{asked.model} takes"
        )
    return int(window)


def predictions_of(
    asked: argparse.Namespace, prose_text: str, text: "Text", window: int, context: int, say: Say
) -> tuple[list[list[int]], list[int]]:
    """Return the text's windows, and one behind them for the rankings. Raises Unservable."""
    behind = min(CALIBRATION, context)
    try:
        windows = windows_of(prose_text, text, asked.tokens, window, say)
        others = windows_of(prose_text, text, behind, behind, lambda line: None, asked.tokens)
    except Unservable as error:
        raise Unservable(f"--text {asked.text} cannot be studied: {error}") from None
    if not windows:
        raise Unservable(f"--text {asked.text} has no two tokens: give it a longer text")
    return windows, (others or windows)[0]


def questions_of(
    asked: argparse.Namespace, words: str, text: "Text", context: int, left_out: Refuse
) -> tuple[list[tasks.TaskQuestion], list[Encoded]]:
    """Return the questions that can be scored, and their ids."""
    questions, cut = [], []
    for question in tasks.questions(words, asked.shots, asked.shots_from, asked.limit, left_out):
        try:
            question_ids = encoded_for(question, text, context, f"--shots {asked.shots}")
        except Unservable as error:
            left_out(f"--tasks {question.task}", f"{question.place}: {error}")
            continue
        questions.append(question)
        cut.append(question_ids)
    return questions, cut


def encoded_for(question: tasks.TaskQuestion, text: "Text", context: int, shots: str) -> Encoded:
    """Encode a question. Raises Unservable if a model that takes `context` positions cannot score it."""
    advice = "say fewer shots, or leave it out"
    longest = question.context + max(question.choices, key=len)
    if len(longest) > context and (fewest := text.fewest_tokens(longest)) > context:
        raise Unservable(f"it has over {fewest} tokens ({shots}), the model takes {context}: {advice}")
    question_ids = encoded(text, question)
    if (most := max(map(len, question_ids.ids))) > context:
        raise Unservable(f"it has {most} tokens ({shots}), the model takes {context}: {advice}")
    for choice, ids in zip(question.choices, question_ids.ids, strict=True):
        if len(ids) <= question_ids.context:
            raise Unservable(f"its choice {choice[:20]!r} adds no token to the question")
    if not question_ids.context or not question_ids.shared:
        raise Unservable("it has no token before its choices, from which they could be predicted")
    return question_ids


def refuse_zero_bytes(prompt: str) -> None:
    if "\0" in prompt:
        raise Unservable("the prompt holds zero bytes, which a study's file cannot: leave them out")


def items_of(
    windows: Sequence[Sequence[int]], asked: Sequence[tasks.TaskQuestion], cut: Sequence[Encoded]
) -> list[Item]:
    found = [Item("text", "", number, 0, -1, len(ids) - 1, 0) for number, ids in enumerate(windows)]
    for number, (question, question_ids) in enumerate(zip(asked, cut, strict=True)):
        found += [
            Item(question.task, question.subject, number, choice, question.answer,
                 len(question_ids.ids[choice]) - question_ids.context, len(words.strip()))
            for choice, words in enumerate(question.choices)
        ]  # fmt: skip
    return found


def digest(what: Any) -> str:
    text = what if isinstance(what, str) else json.dumps(what)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
