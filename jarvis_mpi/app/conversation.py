"""Asks the chain one question after another; records and shows the answers as they come."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..common.errors import concerns
from ..common.layers import layers, runs
from ..common.settings import Settings
from ..model.askable import askable
from ..model.tokenizer import Text
from ..protocol.coordinator import Coordinator
from ..protocol.events import Token
from .stop_strings import Stops

if TYPE_CHECKING:
    from ..record.questions import Question
    from ..record.writer import Record
    from .screen import Shows


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int
    # end: the model's end token; stop: --stop; length: --max-new-tokens; context; interrupted; what broke it
    ended: str
    skipped: str = ""  # layers that some of its text lacks, as "4-7, 9": skipped, or patched

    def as_dict(self) -> dict[str, Any]:
        """Return it for a line of JSON; where nothing was skipped, nothing is said of that."""
        return {name: value for name, value in asdict(self).items() if name != "skipped" or value}


class Answering:
    """Takes in one answer's tokens: what of it can be shown, and when it ends.
    `before`: its tokens so far."""

    def __init__(
        self, text: Text, context: int, settings: Settings, asked: Sequence[int], before: Sequence[int] = ()
    ):
        self.piece, self.special = text.pieces(), text.special
        self.stops = Stops(settings.stop, self.special.values())
        self.end_ids = frozenset[int]() if settings.ignore_eos else text.end_ids
        self.room = context - len(asked)
        self.most = min(settings.max_new_tokens, self.room)
        self.ended = ""
        self.shown: list[str] = []  # by each token
        self.take_in(before)

    def take_in(self, before: Iterable[int]) -> None:
        """Add tokens that are there already, up to the answer's end: a standby may have more."""
        for token in before:
            if not self.ended:
                self.add(token)

    def add(self, token: int) -> str:
        """Add a token. -> the text that it adds.
        `ended` is then how the answer ends with it; '' if it goes on."""
        self.shown.append(self.stops.add(self.piece(token), self.special.get(token, "")))
        if self.stops.met or token in self.end_ids:
            self.ended = "stop" if self.stops.met else "end"
        elif not self.left:
            self.ended = "context" if self.most == self.room else "length"
        return self.shown[-1]

    @property
    def left(self) -> int:
        """How many more tokens it may have."""
        return max(0, self.most - len(self.shown))

    @property
    def held(self) -> str:
        """The text that is held back while the answer goes on: the beginning of a stop text, or of what the
        tokenizer tidies."""
        return "" if self.stops.met else self.stops.held + self.piece.rest()

    def answer(self, ended: str, skipped: str = "") -> Answer:
        return Answer("".join([*self.shown, self.held]), len(self.shown), ended, skipped)


def broken_off_by(error: BaseException) -> str:
    """Return how an answer ended that `error` broke off."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or "broken off"


class Conversation:
    """One conversation, its text so far.
    `context`: the positions that the model takes; `interrupted` is polled."""

    def __init__(
        self, asker: Coordinator, text: Text, context: int, settings: Settings, record: "Record",
        screen: "Shows",
        interrupted: Callable[[], bool] = lambda: False,
    ):  # fmt: skip
        self.asker, self.text, self.context, self.settings = asker, text, context, settings
        self.record, self.screen, self.interrupted = record, screen, interrupted
        self.ids: list[int] = []  # the whole text so far
        self.is_orphaned_recorded = False  # the record has been

    def reset(self) -> None:
        if self.ids:
            self.ids = []
            self.text.begin_conversation()
            self.asker.start_sequence()

    def ids_with(self, prompt: str) -> list[int]:
        """Return the whole text with `prompt` at its end. Raises Unservable if that cannot be asked."""
        return askable(self.text, self.ids, prompt, self.context)

    def restore(self, questions: "Sequence[Question]") -> None:
        """Continue where a run was that had asked these: all caches are empty, and the next step fills
        them."""
        for question in questions:
            if question.sequence != self.asker.sequence:
                self.ids = []
                self.text.begin_conversation()
            self.ids = [*question.ids, *question.tokens]
            if question.tokens and self.is_closed(question.ended):
                self.ids.pop()
            if question.answered:
                self.text.add_turn(question.prompt, question.text)
            self.asker.sequence = question.sequence

    def show_again(self, question: "Question") -> None:
        """Show an answer that the resumed run's record has in full."""
        self.screen.show_earlier_text(question.text)
        self.screen.answered(question.prompt, Answer(question.text, len(question.tokens), question.ended), "")

    def is_closed(self, ended: str) -> bool:
        """Whether an answer's last token ends it: no stage has run that one, and a template writes its
        own."""
        return ended == "end" or (ended == "stop" and self.ids[-1] in self.text.end_ids)

    def skipped(self, sequence: int) -> str:
        """Name the layers that some position of a sequence in flight lacks."""
        request = self.asker.dispatch.requests.get(sequence)
        return ", ".join(map(layers, runs(request.route_changes.ever_missing))) if request else ""

    def record_token(self, token: Token) -> None:
        self.record_orphaned()
        self.record.write(token)

    def record_orphaned(self) -> None:
        """Record that mpirun is gone, where it is; once."""
        if not self.is_orphaned_recorded and self.asker.services.link.orphaned:
            self.is_orphaned_recorded = True
            self.record.orphaned(self.asker.clock(), self.asker.step)

    def ask(self, prompt: str) -> Answer:
        """Answer, shown as it comes.
        Raises Unservable if `prompt` cannot be asked, or if too few nodes are left; the record has what
        came."""
        return self.ask_ids(prompt, self.ids_with(prompt))

    def ask_ids(self, prompt: str, asked: Sequence[int]) -> Answer:
        """Answer, as `ask`, what `ids_with` returned."""
        self.record.asked(
            self.asker.clock(), self.asker.step, self.asker.sequence, prompt, asked, len(self.ids)
        )
        return self.answer(prompt, asked)

    def answer(
        self, prompt: str, asked: Sequence[int], before: Sequence[int] = (), shown: bool = False
    ) -> Answer:
        """Generate the answer. `before`: its first tokens, which the resumed run's record has; `shown`: and
        which stand on the screen."""
        coming = Answering(self.text, self.context, self.settings, asked, before)
        self.ids = [*asked, *before[: len(coming.shown)]]
        if not shown:
            self.screen.show_earlier_text("".join(coming.shown))
        ended = coming.ended
        try:
            more: Iterable[Token] = ()
            if not ended:
                more = self.asker.generate(
                    self.ids, coming.left, coming.end_ids, lambda: not self.interrupted()
                )
            for token in more:
                self.record_token(token)
                self.ids.append(token.id)
                with concerns(token.sequence):
                    piece = coming.add(token.id)
                self.screen.token(token, piece)
                if (ended := coming.ended) or self.interrupted():
                    break
            ended = ended or "interrupted"
        except BaseException as error:
            ended = broken_off_by(error)
            raise
        finally:
            if coming.shown and self.is_closed(ended):
                self.ids.pop()
            answer = coming.answer(ended, self.skipped(self.asker.sequence))
            self.text.add_turn(prompt, answer.text)
            if not self.asker.tenure.is_over:  # else another node goes on with it
                self.asker.tenure.withdraw(self.asker.sequence)
                self.record.answered(
                    self.asker.clock(), self.asker.step, self.asker.sequence, ended, answer.text
                )
                self.screen.answered(prompt, answer, coming.held)
        return answer
