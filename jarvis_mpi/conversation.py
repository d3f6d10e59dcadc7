"""One question after another to the chain; what comes back is recorded and shown as it comes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .enduser import EndUser
from .settings import Settings
from .text import Stops, Text

if TYPE_CHECKING:
    from .load import Question
    from .record import Record
    from .screen import Shows


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int
    ended: str  # end: the model said so; stop: --stop; length: --max-new-tokens; context; interrupted; or what broke it off


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

    def restore(self, questions: "Sequence[Question]") -> None:
        """Be where a run was that asked these: all caches are empty, and filled by the next step."""
        for question in questions:
            if question.sequence != self.asker.sequence:
                self.ids = []
                self.text.begin_anew()
            self.ids = [*question.ids, *question.tokens]
            if question.ended == "end":
                self.ids.pop()
            self.text.asked.append(question.prompt)
            self.asker.sequence = question.sequence

    def show_again(self, question: "Question") -> None:
        """An answer that stands whole in the record of a run that is resumed."""
        self.screen.said_before(question.text)
        self.screen.answered(question.prompt, Answer(question.text, len(question.tokens), question.ended), "")

    def ask(self, prompt: str) -> Answer:
        """The answer, shown as it comes. Raises Unservable if too few nodes are left; what came stands in the record."""
        asked = self.text.after(self.ids, prompt)
        self.record.asked(
            self.asker.clock(), self.asker.step, self.asker.sequence, prompt, asked, len(self.ids)
        )
        return self.answer(prompt, asked)

    def answer(self, prompt: str, asked: Sequence[int], before: Sequence[int] = ()) -> Answer:
        """`before`: the answer's first tokens, which stand in the record of a run that is resumed."""
        self.text.asked.append(prompt)
        self.text.begin_answer()
        stops = Stops(self.settings.stop)
        shown = [stops.add(self.text.piece(token)) for token in before]
        self.ids, count = [*asked, *before], len(before)
        self.screen.said_before("".join(shown))
        room = self.context - len(asked)
        most = min(self.settings.max_new_tokens, room)

        def end() -> str:
            """How the answer ends with the token that is now the last; '' if it goes on."""
            if count and (stops.met or self.ids[-1] in self.end_ids):
                return "stop" if stops.met else "end"
            if count >= most:
                return "context" if most == room else "length"
            return ""

        ended = end()
        try:
            more = (
                ()
                if ended
                else self.asker.generate(self.ids, most - count, self.end_ids, lambda: not self.interrupted())
            )
            for token in more:
                self.record.write(token)
                self.ids.append(token.id)
                count += 1
                shown.append(stops.add(self.text.piece(token.id)))
                self.screen.token(token, shown[-1])
                if (ended := end()) or self.interrupted():
                    break
            ended = ended or "interrupted"
        except KeyboardInterrupt:
            ended = "interrupted"
            raise
        except BaseException as error:
            ended = str(error) or "broken off"
            raise
        finally:
            if ended == "end":  # no stage has run it, and a template writes its own
                self.ids.pop()
            shown.append(stops.held)
            answer = Answer("".join(shown), count, ended)
            self.record.answered(self.asker.clock(), self.asker.step, ended, answer.text)
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
