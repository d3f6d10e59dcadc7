"""The auditor of faults from outside: what it must notice, and that it shares no code with what it judges."""

import ast
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from places import ROOT

from benchmarks.outside.auditor import Audit, gap_of
from benchmarks.outside.cases import draw
from benchmarks.outside.evidence import (
    LAUNCHER,
    MARK,
    Record,
    Row,
    Seen,
    Strike,
    left_over,
    read_record,
)
from benchmarks.outside.facts import Case
from benchmarks.outside.report import upper_bound

OUTSIDE = ROOT / "benchmarks" / "outside"
TOKEN = [(name, "u4") for name in ("step", "sequence", "position", "token")] + [("layers", "u2")]
EVENT = [
    ("at_s", "f8"), ("step", "u4"), ("node", "i4"), ("event", "S8"), ("first_layer", "u2"), ("layers", "u2"),
    ("text_at", "u8"), ("text_bytes", "u4"),
]  # fmt: skip
DEPTH, BEGIN, TOKENS = 6, 3, (11, 12, 13, 14)
ASKED = json.dumps({"sequence": 0, "prompt": "Why?", "cached": 0, "ids": [1, 2, 3]})
ANSWERED = json.dumps({"sequence": 0, "ended": "length", "text": "Because of it"})
SHOWN = b"Because of it\n"
KILLED = Strike("kill", "worker", "token", 1, 9.0)
EARLY = Strike("kill", "worker", "exec", 1, 1.0, before_ready=True)


def write(path: Path, tokens=TOKENS, layers=DEPTH, more=(), end="done", answered=ANSWERED) -> Record:
    """Write a record as the program does, and read it as the auditor does. `more`: events."""
    rows = [(step, 0, BEGIN + step, token, layers) for step, token in enumerate(tokens)]
    events = [
        (0, -1, "asked", 0, 0, ASKED),
        *more,
        (4, -1, "answered", 0, 0, answered),
        (4, -1, end, 0, 0, "{}"),
    ]
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file["tokens"] = np.array(rows, TOKEN)
        texts = [event[-1].encode() for event in events]
        file["text"] = np.frombuffer(b"".join(texts), np.uint8)
        table = np.zeros(len(events), EVENT)
        at = 0
        for row, (step, node, name, first, count, _), text in zip(table, events, texts, strict=True):
            row["step"], row["node"], row["event"] = step, node, name.encode()
            row["first_layer"], row["layers"], row["text_at"], row["text_bytes"] = first, count, at, len(text)
            at += len(text)
        file["events"] = table
        file.attrs["depth"], file.attrs["standby"] = DEPTH, 2
        file.attrs["placement"] = json.dumps({"0": ["0", "5"], "1": ["1-2"], "2": ["3-4"]})
        file.attrs["copies"] = json.dumps({"1-2": [0], "3-4": [1]})
    record = read_record(path)
    assert record
    return record


@pytest.fixture
def whole(tmp_path) -> Record:
    return write(tmp_path / "run.h5")


@pytest.fixture
def judged(whole) -> Callable[..., list[str]]:
    """What the auditor finds in a run of three ranks, one of which was killed."""
    case = Case(3, True, 1, "prompt", whole.answers(), SHOWN)
    plain = Seen(SHOWN, "starting, 0 s: looking for it\n", 0, [whole], [KILLED])
    return lambda **changes: Audit(case, dataclasses.replace(plain, **changes)).wrong()


def test_a_run_that_keeps_the_rules_passes(judged):
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stderr": "Traceback (most recent call last):\n"}, "a traceback"),
        ({"stdout": b"Because it\n"}, "lacks 3 bytes"),
        ({"stdout": b"Because of of it\n"}, "bytes twice"),
        ({"stdout": b"Why not\n"}, "another text"),
        ({"status": 1}, "status is 1"),
        ({"records": []}, "no whole record"),
        ({"records": [], "status": 1}, "ended early"),
        ({"left": ["left in /dev/shm: x"]}, "left in /dev/shm"),
        ({"longest_silence_s": 61.0}, "silent"),
        ({"limit": "after 170 s"}, "ended by us"),
        ({"records": [], "status": 1, "strikes": [EARLY]}, "without a sentence"),
    ],
)
def test_a_wrong_that_is_seen_beside_the_record_is_noticed(changes, why, judged):
    assert any(why in each for each in judged(**changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tokens": (11, 12, 99, 14)}, "another token at 2"),
        ({"tokens": (11, 12, 13)}, "marked done, and not whole"),
        ({"answered": ANSWERED.replace("of", "off")}, "another text, of the same tokens"),
        ({"end": "ended"}, "ended early"),
        ({"layers": DEPTH + 1}, "more layers"),
        ({"layers": DEPTH - 2}, "tokens lack [2] layers"),
        ({"more": [(1, 2, "LOST", 3, 2, "")]}, "node 2 died by itself"),
        (
            {
                "tokens": (11, 99, 98, 97),
                "layers": 4,
                "more": [(1, 1, "rerouted", 1, 2, "layers 1-2 skipped")],
            },
            "a holder was never struck",
        ),
    ],
)
def test_a_wrong_in_the_record_is_noticed(changes, why, judged, tmp_path):
    assert any(why in each for each in judged(records=[write(tmp_path / "wrong.h5", **changes)]))


def test_doubled_and_lacking_tokens_are_noticed(judged, whole):
    for rows, why in (
        ([*whole.rows, whole.rows[1]], "doubled"),
        ([whole.rows[0], *whole.rows[2:]], "lacks"),
        ([*whole.rows, Row(7, 3, 4, 11, DEPTH)], "tokens of no answer"),
    ):
        assert any(why in each for each in judged(records=[dataclasses.replace(whole, rows=rows)]))


def test_two_records_must_agree(judged, whole):
    other = dataclasses.replace(whole, rows=[dataclasses.replace(whole.rows[0], token=99), *whole.rows[1:]])
    assert any("disagree" in each for each in judged(records=[whole, other]))


def test_what_is_announced_and_struck_may_be_skipped(judged, tmp_path):
    skip = [(1, 1, "rerouted", 1, 2, "node 1 lost at step 1: layers 1-2 skipped")]
    record = write(tmp_path / "skips.h5", (11, 99, 98, 97), 4, skip, answered=ANSWERED.replace("of", "in"))
    struck = [KILLED, Strike("stop", "end user", "token", 0, 9.0, 2.0)]
    found = judged(records=[record], strikes=struck, stdout=b"Because in it\n")
    assert found == []
    assert judged(records=[record], strikes=struck, stdout=b"Because of it\n") != found


def test_an_end_user_that_dies_alone_may_end_the_run_but_not_one_with_a_standby(whole):
    dead = Strike("kill", "end user", "token", 0, 9.0)
    seen = Seen(b"Because", "", 1, [dataclasses.replace(whole, events=whole.events[:1])], [dead])
    wrong = {
        standby: Audit(Case(3, standby, 1, "prompt", whole.answers(), SHOWN), seen).wrong()
        for standby in (False, True)
    }
    assert wrong[False] == []
    assert any("ended early" in each for each in wrong[True])


def test_only_an_end_user_without_a_standby_may_be_waited_for(whole):
    stopped = Strike("stop for good", "end user", "token", 0, 9.0)
    seen = Seen(b"Because", "", -9, [dataclasses.replace(whole, events=whole.events[:1])], [stopped])
    seen = dataclasses.replace(seen, limit="after 66 s", longest_silence_s=66.0, left=["still running: 7"])
    wrong = {
        standby: Audit(Case(3, standby, 1, "prompt", whole.answers(), SHOWN), seen).wrong()
        for standby in (False, True)
    }
    assert (wrong[False], len(wrong[True])) == ([], 3)


def test_a_file_of_prompts_may_end_early_without_mpirun_if_that_is_said(whole):
    dead = Strike("kill", "launcher", "token", LAUNCHER, 9.0)
    record = dataclasses.replace(whole, events=[whole.events[0], whole.events[-1]])
    record.events[-1] = dataclasses.replace(record.events[-1], name="ended")
    said = "mpirun died: 1 of 1 prompts were not asked\n"
    wrong = {
        told: Audit(
            Case(3, False, 1, "prompts", whole.answers(), b""), Seen(b"", told, -9, [record], [dead])
        ).wrong()
        for told in (said, "")
    }
    assert wrong[said] == []
    assert any("without a sentence" in each for each in wrong[""])


def test_what_is_left_over_is_seen(tmp_path):
    mark, memory, temporary = "outside-test", tmp_path / "memory", tmp_path / "t"
    temporary.mkdir()
    assert left_over(mark, [memory], temporary) == []
    memory.touch()
    (temporary / "bell").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={MARK: mark}, stdout=subprocess.PIPE
    )
    try:
        found = left_over(mark, [memory], temporary)
    finally:
        process.communicate()
    assert [each.split(":")[0] for each in found] == ["still running", "left in /dev/shm", "left in TMPDIR"]


@pytest.mark.parametrize(
    ("shown", "gap"), [(b"abcdef", 0), (b"abef", 2), (b"abcbcdef", -2), (b"abde", 1), (b"xyz", None)]
)
def test_what_a_terminal_lacks(shown, gap):
    assert gap_of(shown, b"abcdef") == gap


def test_a_run_is_drawn_from_its_seed_and_number_alone():
    drawn = [draw(1, number) for number in range(300)]
    assert drawn == [draw(1, number) for number in range(300)]
    orders = [order for each in drawn for order in each.orders]
    assert {order.target for order in orders} == {"worker", "end user", "standby", "launcher", "successor"}
    assert not any(order.kind == "stop for good" and order.target == "launcher" for order in orders)
    assert len({order.moment for order in orders}) == 16


def test_bounds():
    assert upper_bound(0, 1000) == 0.003
    assert 0.003 < upper_bound(1, 1000) < 0.006


def test_the_auditor_shares_no_code_with_what_it_judges():
    assert LAUNCHER == -1
    for name in ("evidence", "facts", "auditor"):
        for node in ast.walk(ast.parse((OUTSIDE / f"{name}.py").read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                own = module in ("benchmarks.outside.evidence", "benchmarks.outside.facts")
                assert own or module.split(".")[0] in {*sys.stdlib_module_names, "h5py"}, module
