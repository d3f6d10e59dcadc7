"""One question after another to the chain; what comes back is recorded and shown as it comes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .enduser import EndUser
from .link import Unservable
from .settings import Settings
from .text import Stops, Text

if TYPE_CHECKING:
    from .record import Record
    from .screen import Shows


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int
    ended: str  # end: the model said so; stop: --stop; length: --max-new-tokens; context; interrupted; a sentence


class Conversation:
    """`context`: the positions that the model takes; `interrupted` is asked all the time."""

    def __init__(
        self, asker: EndUser, text: Text, context: int, settings: Settings, record: "Record", screen: "Shows",
        interrupted: Callable[[], bool] = lambda: False,
    ):  # fmt: skip
        self.asker, self.text, self.context, self.settings = asker, text, context, settings
        self.record, self.screen, self.interrupted = record, screen, interrupted
        self.ids: list[int] = []  # all of it so far
        self.end_ids = frozenset[int]() if settings.ignore_eos else text.end_ids

    def begin_anew(self) -> None:
        if self.ids:
            self.ids = []
            self.text.begin_anew()
            self.asker.begin_anew()

    def why_not(self, prompt: str) -> str:
        """'' if `prompt` can be asked now, else one sentence."""
        return refusal(self.text, self.ids, prompt, self.context)

    def ask(self, prompt: str) -> Answer:
        """The answer, shown as it comes. Raises Unservable if too few nodes are left; what came stands in the record."""
        asked = self.text.after(self.ids, prompt)
        self.record.asked(
            self.asker.clock(), self.asker.step, self.asker.sequence, prompt, asked, len(self.ids)
        )
        self.text.asked.append(prompt)
        self.text.begin_answer()
        self.ids, stops, shown, count = asked, Stops(self.settings.stop), [], 0
        room = self.context - len(asked)
        most, ended = min(self.settings.max_new_tokens, room), "interrupted"
        try:
            for token in self.asker.generate(asked, most, self.end_ids, lambda: not self.interrupted()):
                self.record.write(token)
                self.ids.append(token.id)
                count += 1
                shown.append(stops.add(self.text.piece(token.id)))
                self.screen.token(token, shown[-1])
                if token.id in self.end_ids or stops.met or count == most or self.interrupted():
                    if token.id in self.end_ids or stops.met:
                        ended = "stop" if stops.met else "end"
                    elif count == most:
                        ended = "context" if most == room else "length"
                    break
        except Unservable as error:
            ended = str(error)
            raise
        finally:
            if ended == "end":  # no stage has run it, and a template writes its own
                self.ids.pop()
            shown.append(stops.held)
            answer = Answer("".join(shown), count, ended)
            self.record.answered(self.asker.clock(), self.asker.step, ended)
            self.screen.answered(prompt, answer, stops.held)
        return answer


def refusal(text: Text, ids: Sequence[int], prompt: str, context: int) -> str:
    """'' if a model that takes `context` positions can be asked `prompt` after `ids`, else one sentence."""
    if not prompt.strip():
        return "the prompt is empty: there is nothing to answer"
    if (count := len(text.after(ids, prompt))) >= context:
        whole = "the conversation would have" if ids else "the prompt has"
        return f"{whole} {count} tokens, the model takes {context}"
    return ""
