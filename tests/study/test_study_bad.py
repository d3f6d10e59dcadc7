"""A skip study of partly bad input: each bad item is named and left out, all good ones are scored, and the
status is 1."""

import json

import h5py
import numpy as np
import pytest
import texts
import tiny

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.study import command, tasks

pytestmark = pytest.mark.slow

CONTEXT = 128
GOOD = {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 1, "subject": "s"}
LONG = "[" * 100_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.make("gpt2", tmp_path_factory.mktemp("model"), vocab_size=258)  # its positions end
    return texts.of_bytes(folder, words=["<new>", "<newer>"])


@pytest.fixture
def studied(model, tmp_path, capsys):
    """Return a function that runs a study: -> status, output, and the file."""

    def run(*words, log=tmp_path / "study.h5"):
        some = ["--model", str(model), "--cases", "1", "--log", str(log), "--tokens", "60"]
        try:
            status = command.main([*some, *map(str, words)])
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr().err, log

    return run


def line(**changes) -> str:
    return json.dumps({**GOOD, **changes})


# -- tasks

BAD_LINES = {
    LONG: "it is no JSON: '[[[",
    "null": "it is None, which it cannot be",
    "{}": "it has no correct_answer",
    line(answer=1).replace('"answer": 1', '"answer": 1e400'): "it['answer'] is inf|its answer is inf",
    line(answer=-1): "its answer is -1, but its choices are 0 to 3: take a split that has answers",
    line(answer=99999): "its answer is 99999",
    line(answer=1).replace('"answer": 1', '"answer": ' + "9" * 5000): "it is no JSON",
    line(answer=True): "it['answer'] is True",
    line(answer=""): "its answer is '', not one of A, B, C and D",
    line(answer="AB"): "its answer is 'AB'",
    line(answer=1.5): "its answer is 1.5",
    line(subject="\ud800"): "it['subject'] holds what is no UTF-8 text, or half a character",
    line(subject="a\0b"): "it holds zero bytes",
    line(choices=["a"], answer=0): "its choices are 1, but must be 2 to",
    line(choices="abcd"): "it['choices'] is 'abcd'",
    line(question=None): "it['question'] is None",
}


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda bad: bad[:60])
def test_a_bad_line_of_a_task_hurts_only_itself(bad, tmp_path):
    path, found = tmp_path / "t.jsonl", []
    path.write_text(f"{line()}\n{bad}\n\n{line(question='other')}\n")
    good = tasks.questions(f"cloze:{path}", left_out=lambda what, reason: found.append((what, reason)))
    assert [question.place for question in good] == ["t.jsonl, line 1", "t.jsonl, line 4"]
    ((what, reason),) = found
    assert what == f"--tasks cloze:{path}"
    assert reason.startswith("t.jsonl, line 2: ")
    assert any(each in reason for each in BAD_LINES[bad].split("|")), reason
    with pytest.raises(Unservable, match=r"^--tasks cloze:.*: t.jsonl, line 2: "):
        tasks.questions(f"cloze:{path}")


def test_bad_rows_of_csv_hurt_only_themselves(tmp_path):
    path, found = tmp_path / "t.csv", []
    path.write_bytes(
        b"question,A,B,C,D,answer\nq,a,b,c,d,A\n\nq,a,b,c,A\nq,\xff,b,c,d,A\nq,a,b,c,d,E\n"
        + b'"' + b"x" * 140_000 + b'",a,b,c,d,A\nq,a,b,c,d,D\n'
    )  # fmt: skip
    good = tasks.questions(f"mmlu:{path}", left_out=lambda what, reason: found.append(reason))
    assert [question.answer for question in good] == [0, 3]
    assert [reason[:13] for reason in found] == [f"t.csv, line {number}" for number in (4, 5, 6, 7)]
    for reason, part in zip(found, ("5 cells", "no UTF-8", "'E'", "is a quote not closed?"), strict=True):
        assert part in reason


def test_bad_examples_of_bigbench_hurt_only_themselves(tmp_path):
    path, found = tmp_path / "t.json", []
    scores = [
        {"a": 1, "b": 0},
        {"a": "1", "b": 0},
        {},
        {"a": 1},
        {"a": 1, "b": 1},
        {"a": float("inf"), "b": 0},
    ]
    examples = [{"input": "x", "target_scores": each} for each in scores]
    path.write_text(json.dumps({"examples": [*examples, 5, {"input": "x", "target": "y"}]}))
    (good,) = tasks.questions(f"bigbench:{path}", left_out=lambda what, reason: found.append(reason))
    assert good.place == "t.json, example 1"
    assert [reason.partition(":")[0] for reason in found] == [f"t.json, example {at}" for at in range(2, 9)]


@pytest.mark.parametrize(("content", "reason"), [
    (LONG.encode(), "cannot be read as bigbench: it is no JSON"),
    (b"[]", "the task is [], which it cannot be"),
    (b'{"task_prefix": 5, "examples": []}', "the task['task_prefix'] is 5"),
    (b'{"examples": [\xff]}', "is not UTF-8 text in line 1"),
    ('{"examples": []}'.encode("utf-16"), "is UTF-16 text"),
])  # fmt: skip
def test_a_bad_task_of_several_is_named_and_the_others_are_read(tmp_path, content, reason):
    (tmp_path / "bad.json").write_bytes(content)
    (tmp_path / "good.jsonl").write_text(line())
    found: list[str] = []
    words = f"bigbench:{tmp_path}/bad.json,cloze:{tmp_path}/good.jsonl,mmlu:/nowhere"
    good = tasks.questions(words, left_out=lambda what, sentence: found.append(f"{what}: {sentence}"))
    assert [question.task for question in good] == ["cloze:good"]
    assert len(found) == 2
    assert found[0].startswith(f"--tasks bigbench:{tmp_path}/bad.json: ")
    assert reason in found[0]
    assert found[1] == "--tasks mmlu:/nowhere: its file /nowhere cannot be read: No such file or directory"


def test_what_cannot_be_distinguished_is_refused(tmp_path):
    (tmp_path / "t.jsonl").write_text(line())
    with pytest.raises(Unservable, match="--tasks has two tasks of the name cloze:t"):
        tasks.questions(f"cloze:{tmp_path}/t.jsonl,cloze:/elsewhere/t.jsonl")
    with pytest.raises(Unservable, match="the task's name has more than 64 bytes: rename the file"):
        tasks.questions(f"cloze:{'t' * 60}.jsonl")


def test_a_subject_without_examples_costs_no_other(tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join([line(), line(subject="rare"), line(subject="rare")]))
    (tmp_path / "dev.jsonl").write_text(line() + "\n" + line(answer=-1))
    found: list[str] = []
    good = tasks.questions(
        f"mmlu:{tmp_path}/t.jsonl",
        1,
        tmp_path / "dev.jsonl",
        left_out=lambda what, reason: found.append(reason),
    )
    assert [question.subject for question in good] == ["s"]
    assert ["dev.jsonl, line 2" in reason or "0 examples about rare" in reason for reason in found] == [
        True,
        True,
    ]


# -- the command


def test_questions_that_cannot_be_scored_are_left_out_of_a_study(studied, tmp_path):
    path = tmp_path / "t.jsonl"
    bad = [line(question="w " * 3000), line(question="w " * 60), line(question="<newer>"), line(answer=-1)]
    path.write_text("\n".join([bad[0], line(), *bad[1:], line(subject="é" * 63)]))
    status, printed, log = studied("--tasks", f"bigbench:/nowhere,cloze:{path}")
    assert status == 1, printed
    for part in (
        "line 1: it has over",
        "line 3: it has ",
        "line 4: the prompt has token 258",
        "line 5: its answer is -1",
    ):
        assert f"t.jsonl, {part}" in printed
    assert "--tasks bigbench:/nowhere: its file /nowhere cannot be read" in printed
    assert f"{log} is whole, but for 5 that could not be scored (see above)" in printed
    assert "Traceback" not in printed
    with h5py.File(log) as file:
        assert file["nats"].shape == (2, 8)
        assert not np.isnan(file["nats"][:]).any()
        assert [each.decode() for each in file["items"]["subject"][::4]] == ["s", "é" * 32]


def test_what_gives_choices_nothing_to_stand_on_is_left_out(studied, tmp_path):
    path = tmp_path / "t.json"
    prefixes = {"example_input_prefix": "", "example_output_prefix": ""}
    path.write_text(json.dumps({**prefixes, "examples": [{"input": "", "target_scores": {"": 1, "a": 0}}]}))
    status, printed, log = studied("--tasks", f"bigbench:{path}")
    assert status == 1
    assert "t.json, example 1: it has no token before its choices" in printed
    assert "nothing is left to score: mend what is named above" in printed
    assert not log.exists()


def test_bad_prompts_among_good_ones_lose_no_answer(studied, tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(
        b'hello\n\xff\nworld\n{"prompt": "a\\u0000b"}\n{"prompt": " "}\n'
        + b"word " * 800
        + b"\n<newer>\n"
        + b"y" * 120
    )
    status, printed, log = studied("--tasks", "none", "--prompts", path)
    assert status == 1, printed
    for part in (
        "2 is not UTF-8",
        "4: the prompt holds zero",
        "5: the prompt is empty",
        "6: the prompt has",
        "7: the prompt has token 258",
    ):
        assert f"--prompts {path}: line {part}" in printed
    with h5py.File(log) as file:
        assert [each.decode() for each in file["prompts"][:]] == ["hello", "world", "y" * 120]
        answers = [json.loads(cell) for cell in file["answers"][0]]
    assert len(answers[2]["ids"]) <= CONTEXT - 120


def test_when_all_is_bad_nothing_is_begun(studied, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join([line(answer=-1)] * 9))
    status, printed, log = studied("--tasks", f"cloze:{tmp_path}/t.jsonl")
    assert (status, log.exists()) == (1, False)
    assert printed.count("take a split that has answers") == 5
    assert "4 more are left out" in printed
    assert printed.endswith("nothing is left to score: mend what is named above\n")


@pytest.mark.parametrize("words", [
    "--window 0", "--window 1", "--window -5", "--threads 0", "--threads -1", "--tokens -1", "--tokens 1",
    "--limit -1", "--shots -1",
    "--answer-tokens 0", "--answer-tokens -1", "--window x", "--threads", "--dtype float8",
    "--tokens " + "9" * 5000,
])  # fmt: skip
def test_numbers_beyond_their_limits_are_one_sentence(studied, words):
    status, printed, log = studied(*words.split())
    assert status == 2
    assert words.split()[0] in printed
    assert len(printed.splitlines()) == 1
    assert not log.exists()


@pytest.mark.parametrize(("words", "sentence"), [
    (["--window", "129"], "--window is 129, but must be between 2 and the 128 positions that "),
    (["--cases", "²"], "--cases holds '²', which is none of"),
    (["--text", "/"], "--text / is no file"),
    (["--text", "/nowhere"], "--text /nowhere cannot be read: No such file"),
    (["--text", "FILE"], "is not UTF-8 text in line 2: save the file as UTF-8"),
    (["--text", "NEWER"], "cannot be studied: the prompt has token 258"),
    (["--text", "\udcff"], "--text is not UTF-8 text"),
    (["--tasks", "cloze:\udcff"], "--tasks is not UTF-8 text"),
])  # fmt: skip
def test_other_words_that_cannot_be_used_are_one_sentence(studied, tmp_path, words, sentence):
    (tmp_path / "FILE").write_bytes(b"one\n\xff")
    (tmp_path / "NEWER").write_text("one <newer>")
    name = tmp_path / words[1]
    status, printed, log = studied(words[0], name if words[1].isupper() else words[1])
    assert status != 0
    assert sentence in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert not log.exists()
