"""Damaged prompts files: lines that are whole are asked as they are, the others have an error each."""

import json
import random

import pytest
import texts
from mutations import mutate

from jarvis_mpi.app.keyboard import Key, Keyboard
from jarvis_mpi.common import prompt_file
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.settings import is_utf8
from jarvis_mpi.model.askable import askable, longest
from jarvis_mpi.model.tokenizer import Text

pytestmark = pytest.mark.slow

ASKED = [
    "Why is the sky blue?",
    "Grüße, 世界! 👩‍🚀",
    'a\ttab and \\ a "quote"',
    "{ no object",
    "two\nlines",
    "x",
    " ",
    "<|start|>user",
]
GOOD = {
    "prompts.txt": "\n".join(prompt for prompt in ASKED if "\n" not in prompt and prompt[0] != "{").encode(),
    "prompts.jsonl": "\n".join(json.dumps({"id": at, "prompt": prompt, "more": [1, {"a": None}]},
                                          ensure_ascii=at % 2 == 0)
                               for at, prompt in enumerate(ASKED)).encode(),
    "mixed.txt": ("\ufeffone\n\n" + '{"prompt": "two"}\r\n' + "three\r\n{}\n").encode(),
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return Text(
        texts.of_bytes(
            tmp_path_factory.mktemp("prompts"), "[{{ messages[-1].content }}]", special=texts.SPECIAL
        ),
        259,
    )


def spoilt(draw: random.Random, name: str) -> bytes:
    """Change bytes, and in JSON values as well."""
    good = GOOD[name]
    if name.endswith("jsonl") and draw.random() < 0.5:
        lines = good.split(b"\n")
        at = draw.randrange(len(lines))
        lines[at] = mutate.as_json(mutate.swapped(draw, json.loads(lines[at])))
        good = b"\n".join(lines)
        if draw.random() < 0.7:
            return good
    return mutate.damaged(draw, good)


def test_a_damaged_file_of_prompts(text, tmp_path):
    whole = {}
    for name, data in GOOD.items():
        (tmp_path / name).write_bytes(data)
        lines = data.split(b"\n")
        whole[name] = {
            lines[asked.number - 1]: asked.prompt
            for asked in prompt_file.read(tmp_path / name)
            if not asked.wrong
        }

    def one(number: int) -> None:
        draw = random.Random(number)
        name = draw.choice(sorted(GOOD))
        data = spoilt(draw, name)
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(data)
        typed(data)
        try:
            found = prompt_file.read(path)
        except Unservable as error:
            one_sentence(error)
            return
        finally:
            path.unlink()
        by_number = {asked.number: asked for asked in found}
        assert len(by_number) == len(found)
        for at, line in enumerate(data.split(b"\n"), 1):
            if line in whole[name]:
                assert (by_number[at].prompt, by_number[at].wrong) == (whole[name][line], "")
            elif line.strip(b" \t\r\n\v\f\xef\xbb\xbf"):
                assert at in by_number
        for asked in found:
            if asked.wrong:
                assert asked.wrong.startswith(f"line {asked.number} ")
                assert asked.prompt == ""
                continue
            assert is_utf8(asked.prompt)
            try:
                askable(text, (), asked.prompt, 128)
            except Unservable as error:
                one_sentence(error)
        longest(text, [asked.prompt for asked in found], 128)

    mutate.survives(mutate.numbers(), one)


def one_sentence(error: Unservable) -> None:
    assert str(error).strip()
    assert "\n" not in str(error)


def typed(data: bytes) -> None:
    """Send the same bytes through a pipe into a chat."""
    board = Keyboard()
    for start in range(0, len(data), 17):
        board.take(data[start : start + 17])
    while (line := board.next(0.0)) is not None:
        assert isinstance(line, Key) or is_utf8(line)
