"""Text: stop texts, prompts and draws of strangers give the right text, or one sentence."""

import os
import time

import pytest
import texts
import torch

from jarvis_mpi.app.conversation import Answering
from jarvis_mpi.app.keyboard import Key, Keyboard
from jarvis_mpi.app.stop_strings import Stops
from jarvis_mpi.common import prompt_file
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.options import parse
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model.askable import askable, longest
from jarvis_mpi.model.sampler import Sampler
from jarvis_mpi.model.tokenizer import Text, end_ids

CHAT = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}<|start|>assistant\n"
)
# -- stops


def answering(folder, *stop):
    text = Text(folder)
    return text, Answering(text, 500, Settings(prompt="x", stop=stop), [1])


def streamed(folder, ids, *stop):
    _, coming = answering(folder, *stop)
    for token in ids:
        coming.add(token)
        if coming.ended:
            break
    return coming.answer("").text, coming.ended


@pytest.mark.parametrize(
    ("stop", "text", "shown", "ended"),
    [
        ("<|end|>", "one<|end|>two", "one", "stop"),
        ("<|end|>", "one<|start|>two", "onetwo", ""),
        ("<|end|>\n<|start|>", "one<|end|>\ntwo<|end|>\n<|start|>three", "one\ntwo", "stop"),
        ("<|end|><|end|>", "one<|end|>two<|end|><|end|>", "onetwo", "stop"),
        ("e<|end|>", "one two<|end|> one<|end|>", "one two on", "stop"),
        ("end", "one<|end|>two end", "onetwo ", "stop"),  # hidden tokens do not stop
        ("netw", "one<|end|>two", "o", "stop"),
        ("<|end|>x", "one<|end|>", "one", ""),
    ],
)
def test_a_stop_text_of_special_tokens_stops_and_is_not_shown(stop, text, shown, ended, tmp_path):
    folder = texts.of_bytes(tmp_path, special=texts.SPECIAL)
    assert streamed(folder, Text(folder).encode(text), stop) == (shown, ended)


def test_what_a_standby_has_beyond_an_answers_end_is_not_taken_in(tmp_path):
    text = Text(texts.of_bytes(tmp_path))
    ids = text.encode("one two three")
    coming = Answering(text, 500, Settings(prompt="x", stop=("two",)), [1], ids)
    assert coming.answer("").text == "one "
    assert len(coming.shown) < len(ids)


def test_what_was_held_back_comes_in_order():
    watching = Stops(["<|end|>b", "ab"], ["<|end|>"])
    out = [
        watching.add("a"),
        watching.add("", "<|end|>"),
        watching.add("c"),
        watching.add("xa"),
        watching.add("b"),
    ]
    assert (out, watching.met) == (["", "", "ac", "x", ""], True)


def test_a_conversation_goes_on_behind_a_stop_that_is_an_end(tmp_path):
    from jarvis_mpi.app.conversation import Conversation

    text = Text(texts.of_bytes(tmp_path, CHAT, special=texts.SPECIAL))
    text.end_ids = frozenset({258})
    talk = Conversation(None, text, 500, Settings(stop=("<|end|>",)), None, None)  # type: ignore[arg-type]
    talk.ids = [5, 258]
    assert talk.is_closed("stop")
    assert talk.is_closed("end")
    talk.ids = [5, 6]
    assert not talk.is_closed("stop")


# -- prompts


def test_marks_of_byte_order_are_dropped_and_other_encodings_reported(tmp_path):
    path = tmp_path / "prompts.txt"
    for content, asked in (
        (b"\xef\xbb\xbfone\ntwo", ["one", "two"]),
        (b'\xef\xbb\xbf{"prompt": "one"}\n\xef\xbb\xbf\ntwo', ["one", "two"]),
        (b"\xef\xbb\xbf\none", ["one"]),
        (b"one\n\xef\xbb\xbf\xef\xbb\xbftwo\r\n", ["one", "two"]),
    ):
        path.write_bytes(content)
        assert [(each.prompt, each.wrong) for each in prompt_file.read(path)] == [
            (each, "") for each in asked
        ]
    jsonl = tmp_path / "prompts.jsonl"
    jsonl.write_text('{"prompt": "one"}\n', encoding="utf-8-sig")
    assert [each.prompt for each in prompt_file.read(jsonl)] == ["one"]
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        path.write_text("one\ntwo\n", encoding=encoding)
        with pytest.raises(Unservable, match=r"is UTF-(16|32) text: save it as UTF-8, such as by iconv"):
            prompt_file.read(path)


def test_a_mark_of_byte_order_is_dropped_in_a_pipe_and_utf_16_is_no_text():
    board = Keyboard()
    board.take(b"\xef\xbb\xbf/route\nmore\n" + "hi\n".encode("utf-16"))
    board.take(b"x")
    assert [board.next(0.0) for _ in range(3)] == ["/route", "more", Key.UNREADABLE]


def test_a_long_line_in_a_pipe_does_not_take_long():
    board, begun = Keyboard(), time.monotonic()
    for _ in range(500):
        board.take(b"x" * 65536)
    board.take(b"\nshort\n")
    assert [len(board.next(0.0)) for _ in range(2)] == [500 * 65536, 5]
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"a\0b", "line 1 holds zero bytes"),
        (b'{"prompt": "a", "prompt": "b"}', 'line 1 names "prompt" twice'),
        (b"[" * 100000, "line 1 is no JSON"),
        (b'{"prompt": ' + b"[" * 100000, "line 1 is no JSON"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "line 1 is no"),
        (b"[1]", "line 1 is no object with a text"),
        (b'"prompt"', "line 1 is no object with a text"),
        (b"null", "line 1 is no object with a text"),
        (b'{"prompt": null}', "line 1 is no object with a text"),
        (b'{"text": "x"}', "line 1 is no object with a text"),
        (b'{"prompt": "\\udc00"}', "line 1 holds half a character"),
        (b"\xed\xa0\xbd", "line 1 is not UTF-8 text"),
    ],
)
def test_a_bad_line_is_one_error_and_says_what_to_do(line, wrong, tmp_path):
    path = tmp_path / ("p.txt" if line[:1] == b"a" else "p.jsonl")
    good = b"good" if path.suffix == ".txt" else b'{"prompt": "good"}'
    path.write_bytes(line + b"\n" + good)
    first, second = prompt_file.read(path)
    assert first.wrong.startswith(wrong)
    assert ": " in first.wrong or ", " in first.wrong
    assert (second.prompt, second.wrong) == ("good", "")


def test_what_is_no_file_of_prompts_is_not_waited_for(tmp_path):

    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(Unservable, match="is no file: write the prompts into one"):
            prompt_file.read(path)


def test_a_prompt_of_ten_megabytes_is_refused_at_once(bytes_folder):
    text, begun = Text(bytes_folder), time.monotonic()
    with pytest.raises(
        Unservable, match="the prompt has over 2000000 tokens, the model takes 128: shorten it"
    ):
        askable(text, (), "x" * 10_000_000, 128)
    assert time.monotonic() - begun < 2


def test_the_longest_prompt_that_can_be_asked_is_what_is_prepared_for(tmp_path):
    text = Text(texts.of_bytes(tmp_path, words=["<new>"]), vocabulary=257)
    asked = ["ab", "abcd", "<new> and more", "x" * 200]
    assert longest(text, asked, 128) == 4
    assert longest(text, ["<new>"], 128) == 0
    assert longest(text, ["x" * 200] * 30, 128) == 128


# -- draws


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_numbers_that_are_none_are_a_sentence(bad, temperature):
    logits = torch.randn(50) if bad is not None else torch.full((50,), -float("inf"))
    if bad is not None:
        logits[17] = bad
    with pytest.raises(Unservable, match=r"no numbers any more .* at token 3: python -m jarvis_mpi doctor"):
        Sampler(Settings(temperature=temperature)).choose(logits, [1, 2, 3], 0)


@pytest.mark.parametrize(
    "wishes",
    [
        {"temperature": 1e-30}, {"temperature": 1e-37}, {"temperature": 1e-300}, {"temperature": 5e-324},
        {"temperature": 1e-20},
        {"temperature": 1.0, "top_p": 1e-30}, {"temperature": 1.0, "top_p": 5e-324}, {"temperature": 1.0,
                                                                                      "top_k": 1},
        {"temperature": 1e-3, "top_k": 10**30, "top_p": 0.999},
    ],
)  # fmt: skip
def test_the_coldest_draws_are_the_likeliest_token(wishes):
    draw = torch.Generator().manual_seed(0)
    for scale in (1.0, 1e4, 1e30):
        logits = torch.randn(300, generator=draw) * scale
        if wishes["temperature"] == 1e-3 and scale == 1.0:
            logits *= 100
        logits[7] = -float("inf")
        assert Sampler(Settings(**wishes)).choose(logits, [1], 0) == int(logits.argmax())


def test_the_hottest_draws_and_penalties_are_tokens():
    logits = torch.randn(300)
    logits[5] = -float("inf")
    for wishes in (
        {"temperature": 1e30}, {"temperature": 1.7e308}, {"temperature": 1e30, "top_p": 0.5, "top_k": 3},
        {"repetition_penalty": 100.0}, {"repetition_penalty": 0.01, "temperature": 0.5},
        {"repetition_penalty": 100.0, "temperature": 1e-29},
    ):  # fmt: skip
        drawn = {Sampler(Settings(**wishes)).choose(logits * 1e30, [1, 2, 299], at) for at in range(20)}
        assert drawn <= set(range(300)) - {5}


# -- options


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--temperature", "inf"], "--temperature is inf, but must be at least 0.0, and finite"),
        (["--top-p", "nan"], "--top-p is nan, but must be between"),
        (["--journal-mb", "inf"], "--journal-mb is inf, but must be"),
        (["--repetition-penalty", "nan"], "--repetition-penalty is nan"),
        (["--pace-s", "nan"], "--pace-s is nan"),
        (["--draft-tokens", "99"], "--draft-tokens is 99, but must be between 1 and 32"),
        (["--prefill-rows", "0"], "--prefill-rows is 0"),
        (["--streams", "-1"], "--streams is -1"),
    ],
)
def test_values_that_make_no_sense_are_refused(words, sentence):
    with pytest.raises(Unservable) as raised:
        parse(words).checked()
    assert sentence in str(raised.value)


def test_end_ids_may_be_one_or_many(tmp_path):
    (tmp_path / "config.json").write_text('{"eos_token_id": null}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert end_ids(tmp_path) == {3, 4}
