"""Reads a skip study's file (python -m jarvis_mpi study)."""

import argparse
import itertools
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import script  # noqa: F401 (it says where jarvis_mpi is)

from jarvis_mpi.common.boundary import guarded
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.json_form import check, parsed
from jarvis_mpi.common.layers import Case
from jarvis_mpi.record import hdf5
from jarvis_mpi.record.study_file import WHOLE, case_of, table, texts
from jarvis_mpi.study.grading import Grade, StudyAnswer, agreeing, grade, repetition
from jarvis_mpi.study.tasks import wilson

MOST_LAYERS = 10000
ANSWER = {"text": str, "ids": [int], "nats": (int, float, type(None))}


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Return the parser of the scripts that draw studies."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("studies", nargs="+", type=Path, metavar="STUDY.h5")
    made.add_argument(
        "--out", type=Path, help="folder of the figure and its CSV; by default beside the first study"
    )
    made.add_argument("--formats", default="png,pdf", help="of png, pdf, svg")
    return made


@dataclass(frozen=True)
class Task:
    name: str
    chance: float  # the mean over its questions
    subjects: np.ndarray  # [questions] of str
    right: dict[Case, np.ndarray]  # [questions] of bool; of cases that are done

    def share(self, case: Case) -> float:
        return float(self.right[case].mean())

    def interval(self, case: Case) -> tuple[float, float]:
        """Return Wilson's 95 % interval."""
        return wilson(int(self.right[case].sum()), len(self.subjects))


@dataclass(frozen=True)
class Study:
    path: Path
    attributes: dict[str, Any]  # the file's attributes
    cases: list[Case]
    items: np.ndarray
    nats: np.ndarray  # [cases, items]
    prompts: list[str]
    answers: list[list[str]]  # [cases][prompts], JSON

    @property
    def model(self) -> str:
        return str(self.attributes["model"])

    @property
    def depth(self) -> int:
        return int(self.attributes["depth"])

    @cached_property
    def text_nats(self) -> dict[Case, float]:
        """Nats a token of the text, of cases that have every window that the whole model has."""
        own = (self.items["answer"] < 0) & ~np.isnan(self.nats[0])
        if not own.any():
            return {}
        nats_per_token = self.nats[:, own].sum(axis=1) / self.items["tokens"][own].sum()
        return {
            case: float(value)
            for case, value in zip(self.cases, nats_per_token, strict=True)
            if value == value
        }

    @cached_property
    def costs(self) -> dict[Case, float]:
        """Nats a token over the whole model's."""
        return {case: value - self.text_nats[WHOLE] for case, value in self.text_nats.items()}

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks' right answers: the choice of least nats (lm-eval's acc) is the answer."""
        found = []
        for name in dict.fromkeys(self.items["task"][self.items["answer"] >= 0].tolist()):
            columns = np.flatnonzero(self.items["task"] == name)
            _, first = np.unique(self.items["number"][columns], return_index=True)
            groups = np.split(columns, first[1:])
            right: dict[Case, np.ndarray] = {}
            for row, case in enumerate(self.cases):
                choice_nats = [self.nats[row, group] for group in groups]
                if not any(np.isnan(each).any() for each in choice_nats):
                    answers = self.items["answer"][columns[first]]
                    right[case] = np.array([each.argmin() for each in choice_nats]) == answers
            chance = float(np.mean([1 / len(group) for group in groups]))
            subjects = np.array(
                [subject.decode(errors="replace") for subject in self.items["subject"][columns[first]]]
            )
            found.append(Task(name.decode(), chance, subjects, right))
        return [task for task in found if WHOLE in task.right]

    @cached_property
    def rankings(self) -> dict[str, Any]:
        """See jarvis_mpi/study/layer_ranking.py."""
        return json.loads(self.attributes.get("rankings", "{}"))

    @cached_property
    def graded(self) -> list[tuple[Case, int, StudyAnswer, Grade]]:
        """Case, prompt's number, answer and grade of all that is done."""
        found = []
        for number in range(len(self.prompts)):
            if not self.answers[0][number]:
                continue
            first = json.loads(self.answers[0][number])
            whole = answer_of(first, first)
            for case, row in zip(self.cases, self.answers, strict=True):
                if row[number]:
                    answer = answer_of(json.loads(row[number]), first)
                    found.append((case, number, answer, grade(answer, whole, self.rankings["prose_nats"])))
        return found


def answer_of(payload: dict[str, Any], whole: dict[str, Any]) -> StudyAnswer:
    nats = float("nan") if payload["nats"] is None else payload["nats"]
    ids = payload["ids"]
    return StudyAnswer(payload["text"], len(ids), nats, repetition(ids), agreeing(ids, whole["ids"]))


def read(path: Path) -> Study:
    """Read the file. Raises Unservable where it is no study."""
    with guarded(f"{path} is no study"), hdf5.read(path) as file:
        prompts, answers = texts(file, "prompts"), hdf5.rows(file, "answers")
        cases, items = [case_of(name) for name in texts(file, "cases")], table(file, "items")
        nats, attributes = hdf5.rows(file, "nats", np.dtype("f8")), hdf5.attributes(file)
        if nats.shape != (len(cases), len(items)) or answers.shape != (len(cases), len(prompts)) or not cases:
            raise Unservable(f"{path} is damaged: its tables do not have as many rows as it has cases")
        depth = check(attributes, {"model": str, "depth": int, "rankings?": str}, "its attributes")["depth"]
        if not all(0 <= layer < depth < MOST_LAYERS for case in cases for layer in case):
            raise Unservable(f"{path} is damaged: it leaves out layers beyond its {depth}")
        cells = [[cell.decode() for cell in row] for row in answers.tolist()]
        for cell in filter(None, itertools.chain(*cells)):
            parsed(cell, ANSWER, "an answer in it")
        return Study(path, attributes, cases, items, nats, prompts, cells)


def is_block(case: Case) -> bool:
    """Whether its layers follow one another."""
    return bool(case) and max(case) - min(case) + 1 == len(case)


def spearman(a: list[float], b: list[float]) -> float:
    """Return the rank correlation; ties share their mean rank."""
    ranks = [ranks_of(np.asarray(values, float)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def ranks_of(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return ((last - counts + last + 1) / 2)[inverse]
