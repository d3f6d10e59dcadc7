"""Do one rank's work on a study."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..common.layers import Case
from ..record import study_file
from ..record.study_file import Unit, UnitKind
from .scorer import Scorer
from .wanted import Wanted

if TYPE_CHECKING:
    from ..model.tokenizer import Text


class StudyWorker:
    """Does units of a study. A result can be sent as JSON."""

    def __init__(self, scorer: Scorer, text: "Text", wanted: Wanted):
        self.scorer, self.text, self.wanted = scorer, text, wanted

    def do(self, unit: Unit) -> Any:
        wanted, scorer = self.wanted, self.scorer
        if unit.kind == UnitKind.RANK:
            from .layer_ranking import rank

            return rank(scorer, wanted.calibration)._asdict()
        if unit.kind == UnitKind.ANSWER:
            return self.answer(wanted.prompts_ids[unit.number], wanted.cases[unit.at])
        if unit.kind == UnitKind.TEXT:
            cases = [case for case in wanted.cases if study_file.first_of(case, scorer.depth) == unit.at]
            costs = scorer.windows_nats(unit.number, unit.at, cases)
            return [[sorted(case), [nats]] for case, nats in costs]
        of_choices = scorer.choices_nats(wanted.questions[unit.number], wanted.cases)
        return [[sorted(case), list(nats)] for case, nats in of_choices]

    def answer(self, prompt: Sequence[int], case: Case) -> dict[str, Any]:
        """Generate a greedy answer, and return it with its cost for the whole model; see grading.py."""
        scorer = self.scorer
        stages = [stage for layer, stage in enumerate(scorer.layers) if layer not in case]

        def through(body: bytes, start: int) -> bytes:
            for stage in stages:
                body = stage.run(body, start)
            return body

        most = min(self.wanted.answer_tokens, self.wanted.context - len(prompt))
        ids, cost = scorer.answer(prompt, through, most, self.text.end_ids)
        words = self.text.decode(ids)
        return {"ids": ids, "text": words, "nats": cost}
