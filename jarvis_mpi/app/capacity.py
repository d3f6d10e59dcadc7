"""Computes how much is asked at once: answers in flight, and rows of a prompt in one step."""

from dataclasses import dataclass

from ..common.messages import say
from ..model.askable import askable, longest
from ..model.tokenizer import Text
from ..net.plan import answers_that_fit
from ..protocol.request import WORTHWHILE_ROWS, pieces
from .layout import Layout
from .opening import RunTask
from .served_model import ServedModel

CHAT_ROWS = 64  # of a first question that is not known yet


@dataclass(frozen=True)
class Capacity:
    answers: int  # in flight at a time
    prefill_rows: int  # of a prompt in one step, at the most
    pieces: list[int]  # of how many rows the longest prompt comes


def capacity_of(asked: RunTask, model: ServedModel, text: Text, layout: Layout) -> Capacity:
    """Return what the nodes have memory for; say so if it is less than was asked for.
    Raises Unservable where it is not one answer."""
    settings, workers = asked.settings, max(layout.placement)
    rows = prompt_rows(asked, text, model.context)
    answers, prefill_rows = 1, settings.prefill_rows
    if asked.prompts:
        positions = min(model.context, rows + settings.max_new_tokens)
        wanted = min(len(asked.prompts), settings.streams or workers)
        counts = layout.layer_counts
        answers, scarce = answers_that_fit(
            wanted,
            {node: positions * count * model.position_bytes for node, count in counts.items()},
            {node: layout.free_bytes[node] - count * model.layer_bytes for node, count in counts.items()},
        )
        if answers < min(settings.streams, len(asked.prompts)):
            say(
                f"node {scarce} has memory for {answers} answers at a time:"
                f" that many are in flight, not {settings.streams}"
            )
    if answers > 1:  # so that no answer waits long for another's prompt
        prefill_rows = min(prefill_rows, WORTHWHILE_ROWS)
    return Capacity(answers, prefill_rows, pieces(min(model.context, rows), prefill_rows, workers))


def prompt_rows(asked: RunTask, text: Text, context: int) -> int:
    """Return how many tokens the longest prompt has. Raises Unservable where the only one cannot be asked."""
    if asked.settings.prompt is not None:
        return len(askable(text, (), asked.settings.prompt, context))
    if asked.prompts:
        return longest(text, [each.prompt for each in asked.prompts], context) or CHAT_ROWS
    return CHAT_ROWS
