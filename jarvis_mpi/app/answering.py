"""Answers what a run was asked: one prompt, a file of prompts, or a chat."""

from typing import NamedTuple

from ..common.errors import Unservable
from ..common.output import Unwritable
from ..protocol.tenure import Deposed
from .batch import Batch
from .chat import chat
from .conversation import Conversation
from .keyboard import Keyboard
from .opening import RunTask
from .screen import Shows


class Outcome(NamedTuple):
    wrong: str  # what went wrong, in one sentence; '': nothing
    is_done: bool  # if not, the run can be resumed


def answer_all(
    conversation: Conversation, asked: RunTask, at_once: int, keyboard: Keyboard | None, screen: Shows
) -> Outcome:
    """Answer what is asked; first, what a resumed run had begun.
    `at_once`: answers in flight, of --prompts. Raises Deposed where another node is the end user."""
    try:
        if asked.prompts:
            return answer_prompts(conversation, asked, at_once, screen)
        return answer_person(conversation, asked, keyboard, screen)
    except Deposed:
        raise
    except Unservable as error:
        return Outcome(str(error), False)
    except KeyboardInterrupt:
        return Outcome("ended by Ctrl-C, or by jarvis_mpi stop", False)
    except Unwritable as error:
        return Outcome(error.sentence, False)


def answer_prompts(conversation: Conversation, asked: RunTask, at_once: int, screen: Shows) -> Outcome:
    count = len(asked.prompts)
    batch = Batch(conversation, at_once, screen.answer, asked.begun, asked.shown_lines)
    failed = batch.ask_all(asked.prompts)
    if batch.left:
        return Outcome(f"mpirun died: {batch.left} of {count} prompts were not asked", False)
    return Outcome(f"{failed} of {count} prompts could not be answered" if failed else "", True)


def answer_person(
    conversation: Conversation, asked: RunTask, keyboard: Keyboard | None, screen: Shows
) -> Outcome:
    """Answer one prompt, or a chat; of a chat whose end user died, the question under way."""
    last = asked.begun[-1] if asked.begun else None
    if last and not last.answered:
        conversation.answer(last.prompt, last.ids, last.tokens, shown=asked.takes_over)
    if keyboard:
        failed = chat(conversation, keyboard, screen)
        tells = failed and not keyboard.is_terminal
        return Outcome(f"{failed} lines could not be answered" if tells else "", True)
    if not last and asked.settings.prompt:
        conversation.ask(asked.settings.prompt)
    elif last and last.answered and not asked.takes_over:
        conversation.show_again(last)
    return Outcome("", True)
