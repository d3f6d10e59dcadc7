"""Grades, intervals and cases: the pure parts of a study."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.record import study_file
from jarvis_mpi.study import skip_cases
from jarvis_mpi.study.grading import StudyAnswer, agreeing, grade, repetition
from jarvis_mpi.study.tasks import wilson


@given(st.integers(2, 9).flatmap(lambda depth: st.tuples(
    st.just(depth), st.lists(st.frozensets(st.integers(0, depth - 1), max_size=depth - 1), min_size=1,
                             max_size=30, unique=True),
)))  # fmt: skip
def test_every_case_runs_the_remaining_layers_in_order(drawn):
    depth, cases = drawn
    walked = dict(skip_cases.walk(cases, depth, 0, (), lambda layer, ran: (*ran, layer)))
    assert walked == {case: tuple(layer for layer in range(depth) if layer not in case) for case in cases}


@pytest.mark.parametrize("depth", [18, 30])
def test_all_pairs_cost_what_can_be_reckoned(depth):
    """Behind both holes each pair is alone: C(depth, 3) passes; one hole passed: C(depth, 2); none: depth -
    2."""
    shared, alone = skip_cases.passes(skip_cases.pairs(depth), depth)
    assert shared == math.comb(depth, 3) + math.comb(depth - 1, 2) + depth - 2
    assert alone == math.comb(depth, 2) * (depth - 2)


def test_cases_are_named_and_each_occurs_once():
    cases = skip_cases.named("singles,pairs,blocks-3,0+2+5", 6)
    assert cases[0] == frozenset()
    assert len(cases) == len(set(cases)) == 1 + 6 + 15 + 4 + 1
    assert {study_file.written(case) for case in cases if len(case) == 3} == {
        "0+1+2",
        "1+2+3",
        "2+3+4",
        "3+4+5",
        "0+2+5",
    }
    for wrong in (
        "triples",
        "6",
        "1+1+x",
        "blocks-0",
        "0+1+2+3+4+5",
        "²",
        "blocks-²",
        "1+" + "9" * 5000,
        "0+1+2+3+4+05",
        "-1",
    ):
        with pytest.raises(Unservable, match="--cases holds"):
            skip_cases.named(wrong, 6)


@given(st.integers(0, 50), st.integers(1, 50))
def test_an_interval_holds_the_share_and_narrows(right, of):
    right = min(right, of)
    low, high = wilson(right, of)
    assert 0 <= low <= right / of + 1e-12 <= high + 2e-12 <= 1 + 3e-12
    narrower = wilson(10 * right, 10 * of)
    assert narrower[1] - narrower[0] < high - low


def answered(text="It is so.", nats=0.5, repetition=0.0, agrees=0) -> StudyAnswer:
    return StudyAnswer(text, 10, nats, repetition, agrees)


@pytest.mark.parametrize(("answer", "expected"), [
    (answered(), "functioning"),
    (answered(nats=1.4), "functioning"),
    (answered(nats=1.6), "degraded"),
    (answered(nats=3.2), "critical"),  # as unlikely as prose of another writer
    (answered(repetition=0.3), "degraded"),
    (answered(repetition=0.6), "critical"),
    (answered(text=" \n", nats=math.nan), "critical"),
])  # fmt: skip
def test_grades_by_the_rule(answer, expected):
    assert grade(answer, answered(), prose_nats=3.1) == expected


def test_repetition_and_agreement_are_counted():
    assert repetition([1, 2, 3]) == 0
    assert repetition([1, 2, 3, 4, 5, 6]) == 0
    assert repetition([5] * 13) == 0.9
    assert agreeing([1, 2, 3], [1, 2, 4]) == 2
    assert agreeing([1, 2], [1, 2, 4]) == 2
    assert agreeing([], [1]) == 0
