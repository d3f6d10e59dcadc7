"""Real mpirun: one bad prompt hurts only itself; what is said at the keyboard of what was cut, appended,
refused."""

import json
import subprocess

import pytest
from running import ask

pytestmark = pytest.mark.mpirun


def test_bad_prompts_among_good_ones_lose_nothing(fussy_model, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(
        b"\xef\xbb\xbfone\nnever\na <new> one\n" + b"x" * 3_000_000 + b'\n\xff\n{"prompt": "two"}\nthree'
    )
    done = ask(fussy_model, "--prompts", str(file), "--streams", "2", "--log", str(tmp_path / "run.h5"))
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert done.returncode == 1, done.stderr.decode()
    assert "4 of 7 prompts could not be answered" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert [each.get("error", "")[:40] for each in lines] == [
        "", "the model's chat template does not take ", "the prompt has token 257 ('<new>'), but ",
        "the prompt has over 600000 tokens, the m",
        "line 5 is not UTF-8 text: save the file ", "", "",
    ]  # fmt: skip
    assert [each["prompt"] for each in lines if "text" in each] == ["one", "two", "three"]
    again = ask(fussy_model, "--resume", str(tmp_path / "run.h5"))
    assert [json.loads(line) for line in again.stdout.decode().splitlines()] == lines


def test_a_template_that_raises_on_the_second_turn_loses_no_later_line(fussy_model, tmp_path):
    typed = b"\xef\xbb\xbf/route\none\nraise\nand <new>\ntwo\n/reset\nraise"
    done = ask(fussy_model, "--log", str(tmp_path / "run.h5"), input=typed)
    errors = done.stderr.decode()
    assert done.returncode == 1, errors
    assert "does not take this: roles must alternate: ask otherwise" in errors
    assert "the prompt has token 257" in errors
    assert "2 lines could not be answered" in errors
    assert "Traceback" not in errors
    assert errors.count("the answer is cut after 4 tokens: --max-new-tokens allows no more") == 3


def test_a_prompt_that_cannot_be_asked_ends_the_ask(fussy_model, tmp_path):
    done = ask(fussy_model, "--prompt", "never", "--log", str(tmp_path / "run.h5"), stdin=subprocess.DEVNULL)
    assert done.returncode != 0
    assert done.stdout == b""
    assert "the model's chat template does not take this: not that" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_text_is_appended_and_the_record_goes_where_it_can(fussy_model, tmp_path):
    from jarvis_mpi.record.reader import load

    done = ask(
        fussy_model, "--prompt", "Sum it up:", "--copies", "9", "--top-k", "300",
        cwd="/proc", env={"XDG_STATE_HOME": str(tmp_path)}, input=b"some text\n",
    )  # fmt: skip
    errors = done.stderr.decode()
    assert done.returncode == 0, errors
    (log,) = (tmp_path / "jarvis_mpi/runs").glob("*.h5")
    assert f"the record is {log}" in errors
    assert "standard input is appended to --prompt: 10 characters" in errors
    assert "--copies 9 is more than there are nodes for: a block has 1 at most" in errors
    assert "--top-k 300 is more than the 257 tokens that the model knows" in errors
    assert load(log).questions[0].prompt == "Sum it up:\n\nsome text"
    assert load(log).settings["prompt"] == "Sum it up:\n\nsome text"
