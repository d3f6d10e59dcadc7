"""Answers --prompts, many in flight, so that every stage has work while another works on the same text."""

import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ..common.errors import Unanswerable, Unservable, concerns
from ..common.prompt_file import PromptLine
from ..common.settings import short
from ..model.askable import askable
from ..protocol.events import Token
from .conversation import Answer, Answering, Conversation, broken_off_by

if TYPE_CHECKING:
    from ..record.questions import Question
    from .answers import Answers


class Batch:
    """Asks prompts, at most `at_once` at a time; each is a sequence of its own.

    Prints a line of JSON for each, in order, as soon as those before it are answered. `failed`: how many
    could not be; `left`: how many were not asked, because mpirun died.
    """

    def __init__(
        self, talk: Conversation, at_once: int, out: "Answers | TextIO", before: Sequence["Question"] = (),
        shown: int = 0,
    ):  # fmt: skip
        """`before`: what the resumed run had asked; `shown`: lines that are not printed again."""
        self.talk, self.at_once, self.out, self.before = talk, at_once, out, deque(before)
        # Sequence -> what is asked, and what comes.
        self.under_way: dict[int, tuple[PromptLine, Answering]] = {}
        self.lines: dict[int, dict[str, Any]] = {}  # number -> what is to be printed
        self.printed = self.failed = self.left = 0
        self.shown = shown
        self.next_sequence = 0

    def ask_all(self, questions: Sequence[PromptLine]) -> int:
        """-> how many could not be answered.
        Raises Unservable if too few nodes are left, or `before` is something else."""
        self.order, waiting = [asked.number for asked in questions], deque(questions)
        ended = ""
        try:
            while waiting or self.under_way:
                try:
                    self.fill(waiting)
                    for token in self.talk.asker.tokens():
                        # Of an answer that has ended more may have come with its last token.
                        if token.sequence in self.under_way:
                            self.take(token)
                        self.fill(waiting)
                except Unanswerable as error:
                    self.spoilt(error.sequence, str(error))
        except BaseException as error:
            ended = broken_off_by(error)
            raise
        finally:
            for sequence in [] if self.talk.asker.tenure.is_over else list(self.under_way):
                self.end(sequence, ended)
        return self.failed

    def fill(self, waiting: deque[PromptLine]) -> None:
        """Begin what can be; without mpirun, only what had been before this node took over."""
        while waiting and len(self.under_way) < self.at_once:
            if self.talk.asker.services.link.orphaned and not self.before:
                self.left += len(waiting)
                waiting.clear()
            else:
                self.begin(waiting.popleft())

    def begin(self, asked: PromptLine) -> None:
        """Ask it; what speaks against that is its line's error, and nobody else's."""
        try:
            if asked.wrong:
                raise Unservable(asked.wrong)
            ids = askable(self.talk.text, (), asked.prompt, self.talk.context)
        except Unservable as error:
            self.failed += 1
            asker = self.talk.asker
            self.talk.record.refused(asker.clock(), asker.step, asked.number, str(error))
            self.line(asked, error=str(error))
            return
        self.add_request(asked, ids)

    def add_request(self, asked: PromptLine, ids: list[int]) -> None:
        talk, asker = self.talk, self.talk.asker
        sequence, before = self.next_sequence, list[int]()
        question = self.before.popleft() if self.before else None
        if question:
            if question.prompt != asked.prompt:
                raise Unservable(
                    f"line {asked.number} of --prompts is not what was asked before: {short(question.prompt)}"
                )
            sequence, ids, before = question.sequence, question.ids, question.tokens
        self.next_sequence = sequence + 1
        if question and question.answered:
            self.line(asked, **Answer(question.text, len(before), question.ended).as_dict())
            return
        if not question:
            talk.record.asked(asker.clock(), asker.step, sequence, asked.prompt, ids, 0)
        coming = Answering(talk.text, talk.context, talk.settings, ids)
        self.under_way[sequence] = asked, coming
        with concerns(sequence):
            coming.take_in(before)
        if coming.ended:
            self.end(sequence, coming.ended)
        else:
            asker.add_request(sequence, [*ids, *before], coming.left, coming.end_ids)

    def take(self, token: Token) -> None:
        self.talk.record_token(token)
        _, coming = self.under_way[token.sequence]
        with concerns(token.sequence):
            piece = coming.add(token.id)
        self.talk.screen.token(token, piece)
        if coming.ended:
            self.end(token.sequence, coming.ended)

    def spoilt(self, sequence: int, why: str) -> None:
        self.failed += 1
        self.end(sequence, why)

    def end(self, sequence: int, ended: str) -> None:
        """`ended`: how; one that is not in load.ANSWERED is what broke it off."""
        (asked, coming), asker = self.under_way.pop(sequence), self.talk.asker
        answer = coming.answer(ended, self.talk.skipped(sequence))
        asker.forget_sequence(sequence)
        self.talk.record.answered(asker.clock(), asker.step, sequence, ended, answer.text)
        self.talk.screen.answered(asked.prompt, answer, coming.held)
        broken = not coming.ended and ended != "interrupted"
        self.line(asked, **({"error": ended} if broken else answer.as_dict()))

    def line(self, asked: PromptLine, **what: Any) -> None:
        self.lines[asked.number] = {"line": asked.number, "prompt": asked.prompt, **what}
        while self.printed < len(self.order) and self.order[self.printed] in self.lines:
            line = self.lines.pop(self.order[self.printed])
            if self.printed >= self.shown:
                print(json.dumps(line, ensure_ascii=False), file=self.out, flush=True)
            self.printed += 1
