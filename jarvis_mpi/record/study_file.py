"""Reads and writes the skip study's file: what is to be scored, and the results; NaN and '' until they are
there."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.boundary import guarded
from ..common.errors import Unservable
from ..common.layers import Case
from . import study_file

if TYPE_CHECKING:
    import h5py
    import numpy as np


NAME_BYTES = 64
ITEMS = [("task", f"S{NAME_BYTES}"), ("subject", f"S{NAME_BYTES}"), ("number", "u4"), ("choice", "u2"),
         ("answer", "i2"),
         ("tokens", "u4"), ("characters", "u4")]  # fmt: skip


class UnitKind(StrEnum):
    RANK = "rank"  # number: 0
    TEXT = "text"  # a window; cases with the same first hole
    QUESTION = "question"  # all cases
    ANSWER = "answer"  # a prompt; one case


class Unit(NamedTuple):
    """A task that one rank does at a time. `at`: a first hole (TEXT) or a case's number (ANSWER), else 0."""

    kind: str
    number: int
    at: int = 0


class Item(NamedTuple):
    """A column of `nats`: a window of the text, or a choice of a question."""

    task: str
    subject: str
    number: int
    choice: int
    answer: int  # the right choice's number; -1: a text
    tokens: int
    characters: int


class StudyFile:
    """The open file. Raises Unservable if it cannot be used, or is of another study.
    `says`: what the study is; see study.command."""

    def __init__(
        self,
        path: Path,
        cases: Sequence[Case],
        items: Sequence[Item],
        prompts: Sequence[str],
        says: Mapping[str, Any],
    ):
        from . import hdf5

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            self.file = hdf5.made(path) if is_new else hdf5.changed(path)
        except OSError as error:
            raise Unservable(
                f"--log {path} cannot be used: {error.strerror or 'it is no HDF5 file'}"
            ) from None
        self.cases, self.items, self.prompts = cases, items, prompts
        self.row = {case: number for number, case in enumerate(cases)}
        names = [study_file.written(case) for case in cases]
        try:
            if is_new:
                with guarded(f"--log {path} cannot be written"):
                    self.make(names, says)
            with guarded(f"--log {path} is damaged", "name another file"):
                if "cases" not in self.file:
                    self.make(names, says)
                else:
                    self.check(path, names, says)
        except Unservable:
            self.file.close()
            if is_new:
                path.unlink(missing_ok=True)
            raise

    def check(self, path: Path, names: list[str], says: Mapping[str, Any]) -> None:
        """Raise Unservable where the file is of another study, or of none."""
        from . import hdf5

        attributes, was = hdf5.attributes(self.file), texts(self.file, "cases")
        if was != names or any(
            attributes.get(name) != value for name, value in says.items() if isinstance(value, str | int)
        ):
            raise Unservable(
                f"--log {path} is of another study ({len(was)} cases of {attributes.get('model')}): name "
                "another file"
            )
        shapes = {
            "items": (len(self.items),),
            "nats": (len(names), len(self.items)),
            "answers": (len(names), len(self.prompts)),
        }
        for name, shape in shapes.items():
            if hdf5.dataset(self.file, name).shape != shape:
                raise Unservable(f"--log {path} is of another study, by its {name}: name another file")

    def make(self, names: list[str], says: Mapping[str, Any]) -> None:
        import h5py
        import numpy as np

        if strange := sorted(set(self.file) - {"items", "nats", "answers", "prompts"}):
            raise Unservable(f"{self.file.filename} is no study, it holds {strange[0]}: name another file")
        for name in list(self.file):  # left by a study that was killed here
            del self.file[name]
        text = h5py.string_dtype()
        rows = [(cut(item.task), cut(item.subject), *item[2:]) for item in self.items]
        self.file.create_dataset("items", data=np.array(rows, ITEMS))
        self.file.create_dataset("nats", data=np.full((len(names), len(rows)), np.nan))
        self.file.create_dataset("answers", (len(names), len(self.prompts)), text)
        self.file.create_dataset("prompts", data=list(self.prompts), dtype=text)
        self.file.attrs.update(says)
        self.file["cases"] = names  # last: it says that the rest is there
        self.file.flush()

    def left(self) -> list[Unit]:
        """Return what is not done yet, in order."""
        import numpy as np

        nats, answers = self.file["nats"][:], self.file["answers"][:]
        depth = int(self.file.attrs["depth"])
        found = [] if "rankings" in self.file.attrs else [Unit(UnitKind.RANK, 0)]
        for column, item in enumerate(self.items):
            missing = np.flatnonzero(np.isnan(nats[:, column])).tolist()
            if item.answer >= 0:
                found += [Unit(UnitKind.QUESTION, item.number)] if missing else []
            else:
                firsts = {study_file.first_of(self.cases[row], depth) for row in missing}
                found += [Unit(UnitKind.TEXT, item.number, first) for first in sorted(firsts)]
        for prompt in range(len(self.prompts)):
            found += [
                Unit(UnitKind.ANSWER, prompt, row)
                for row in range(len(self.cases))
                if not answers[row, prompt]
            ]
        return list(dict.fromkeys(found))

    def write(self, unit: Unit, came: Any) -> None:
        """Write a result, on disk when this returns. `came`: Worker.do's, as JSON has it."""
        if unit.kind == UnitKind.RANK:
            self.file.attrs["rankings"] = json.dumps(came)
        elif unit.kind == UnitKind.ANSWER:
            self.file["answers"][unit.at, unit.number] = json.dumps(came)
        else:
            asks = unit.kind == UnitKind.QUESTION
            columns = [
                column for column, item in enumerate(self.items)
                if (item.answer >= 0) == asks and item.number == unit.number
            ]  # fmt: skip
            for case, nats in came:
                self.file["nats"][self.row[frozenset(case)], columns] = nats
        self.file.flush()


def cut(name: str) -> bytes:
    """Return as much of the name as a column takes, in whole characters."""
    return name.encode()[:NAME_BYTES].decode(errors="ignore").encode()


def texts(file: "h5py.File", name: str) -> list[str]:
    """Read a column of texts. Raises Unservable, Absent or UnicodeDecodeError."""
    from . import hdf5

    return [cell.decode() for cell in hdf5.rows(file, name).tolist()]


def table(file: "h5py.File", name: str) -> "np.ndarray":
    """Read `items`. Raises Unservable or Absent."""
    import numpy as np

    from . import hdf5

    found = hdf5.rows(file, name, np.dtype(ITEMS))
    if lacking := {field for field, _ in ITEMS} - set(found.dtype.names or ()):
        raise Unservable(f"{file.filename} is damaged: its {name} lack {', '.join(sorted(lacking))}")
    return found


MAKE_ONE = "python -m jarvis_mpi study makes one"


def costs_in(path: Path, depth: int) -> dict[Case, float]:
    """Return the nats a token over the whole model's of every case whose text is scored.
    Raises Unservable."""
    import numpy as np

    from . import hdf5

    with guarded(f"--study {path} is no study", MAKE_ONE), hdf5.read(path) as file:
        cases = [study_file.case_of(name) for name in texts(file, "cases")]
        items, nats = table(file, "items"), hdf5.rows(file, "nats", np.dtype("f8"))
        file_depth = hdf5.attributes(file).get("depth", 0)
        if nats.shape != (len(cases), len(items)):
            raise Unservable(
                f"--study {path} is damaged: {nats.shape} figures of {len(cases)} cases and {len(items)} "
                "items"
            )
    if file_depth != depth:
        raise Unservable(f"--study {path} is of a model with {file_depth} layers, this one has {depth}")
    text = items["answer"] < 0
    nats_per_token = nats[:, text].sum(axis=1) / max(1, items["tokens"][text].sum())
    whole = dict(zip(cases, nats_per_token.tolist(), strict=True)).get(study_file.WHOLE, float("nan"))
    known = {
        case: cost - whole
        for case, cost in zip(cases, nats_per_token.tolist(), strict=True)
        if cost == cost and case
    }
    if not text.any() or not known or not np.isfinite(whole):
        raise Unservable(f"--study {path} holds no text's losses: give it one made with --tasks text")
    return known


WHOLE: Case = frozenset()


def written(case: Case) -> str:
    """Return the case as text: '3+7'; '' for the whole model."""
    return "+".join(map(str, sorted(case)))


def case_of(words: str) -> Case:
    """Parse a case: '3+7' or '', as `written` writes it."""
    return frozenset(map(int, filter(None, words.split("+"))))


def first_of(case: Case, depth: int) -> int:
    """Return the case's first hole; `depth` if it has none."""
    return min(case, default=depth)
