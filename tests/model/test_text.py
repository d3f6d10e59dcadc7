"""Text: strangers' tokenizers, templates and prompts give the right text, or one sentence."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
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
from jarvis_mpi.model.aside import Aside
from jarvis_mpi.model.askable import askable, longest
from jarvis_mpi.model.sampler import Sampler
from jarvis_mpi.model.tokenizer import Text, end_ids

CHAT = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}<|start|>assistant\n"
)
FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
DOUBLED = "{% set n = namespace(s=messages[0].content) %}{% for i in range(60) %}"

# -- templates


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ raise_exception('only in June') }}", "does not take this: only in June: ask otherwise"),
        ("{{ oops", "does not take this: unexpected end of template"),
        ("{% include 'other' %}", "does not take this: TypeError no loader"),
        ("{{ messages.foo.bar }}", "does not take this: 'list object' has no attribute 'foo'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "does not take this: maximum recursion depth"),
        ("{{ messages[0].content + 1 }}", "does not take this: TypeError"),
        ("{{ 1 / 0 }}", "does not take this: division by zero"),
        ("{{ 'x' * 10**9 }}", "wants a text or a list of over 16777216 items"),
        ("{{ 10 ** (10 ** 9) }}", "wants a number of over 10000 digits"),
        (DOUBLED + "{% set n.s = n.s + n.s %}{% endfor %}", "makes too long a text of 3 characters"),
        (DOUBLED + "{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}", "makes too long a text of 3 characters"),
        ("{% for a in range(2000) %}" + "x" * 999 + "{% endfor %}", "made 1998000 characters of 3"),
        ({"tool_use": "x", "rag": "y"}, "does not take this: This model has multiple chat templates"),
        ("{{ messages[0].content }}{{ '\ud83d' }}", "the tokenizer cannot take this text"),
    ],
)
def test_what_a_chat_template_does_is_a_sentence(template, sentence, tmp_path):
    listed = (
        [{"name": name, "template": text} for name, text in template.items()]
        if isinstance(template, dict)
        else template
    )
    text = Text(texts.of_bytes(tmp_path, listed))
    with pytest.raises(Unservable) as raised:
        text.ids_of("abc")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_template_that_loops_is_cut_off_in_any_thread_and_sooner_each_time(tmp_path):
    text = Text(
        texts.of_bytes(
            tmp_path,
            "{% if 'loop' in messages[0].content %}" + FOREVER + "{% endif %}{{ messages[0].content }}",
        )
    )
    text.rendered.limit_s = 0.4
    caught = []

    def ask():
        try:
            text.ids_of("loop")
        except Unservable as error:
            caught.append(str(error))

    for limit in (0.4, 0.2):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert f"cut off after {limit:g} s" in caught[-1]
    assert text.tokenizer.decode(text.ids_of("else")) == "else"


def test_a_machine_that_is_busy_elsewhere_cuts_no_template_off():
    """A stopped process uses no processor time."""
    aside = Aside(lambda of: of)
    assert aside.text("first", 1.0, 1 << 28) == "first"
    child = aside.child
    os.kill(child, signal.SIGSTOP)
    later = threading.Timer(0.5, os.kill, (child, signal.SIGCONT))
    later.start()
    assert aside.text("second", 0.05, 1 << 28) == "second"
    assert aside.child == child


IN_C = [  # each a single call, with no line of Python in between
    "{{ messages|length|round(999999999, 'ceil') }}",
    "{{ 'a'|center(4000000000) }}",
    "{{ '%4000000000d' % 1 }}",
    "{{ '{:4000000000}'.format(1) }}",
    "{{ 'a'.ljust(9000000000) }}{{ (1).to_bytes(9000000000, 'big') }}",
    "{{ [messages]|slice(2000000000)|list|length }}",
    "{{ (messages[-1].content * 100000).replace('h', 'x' * 1000000) }}",
    "{{ {'a': 1}|tojson(indent=4000000000) }}",
    "{% set n = namespace(l=['a'], m=['a']) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% set n.m = [n.m, n.m] %}"
    "{% endfor %}{{ n.l == n.m }}",
    "{% set n = namespace(l=['a']) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
]


@pytest.mark.parametrize("fault", IN_C)
def test_a_template_that_stays_in_one_call_is_ended_and_costs_no_other_prompt(fault, tmp_path):
    template = "{% if 'hang' in messages[-1].content %}" + fault + "{% endif %}{{ messages[-1].content }}"
    text = Text(texts.of_bytes(tmp_path, template))
    text.rendered.limit_s = 1.0
    assert text.tokenizer.decode(text.ids_of("one")) == "one"
    with pytest.raises(
        Unservable, match=r"chat template (was cut off after 1 s|does not take this|wants too)"
    ):
        text.ids_of("hang here")
    text.rendered.limit_s = 4.0
    assert text.tokenizer.decode(text.ids_of("two")) == "two"


def test_a_template_that_takes_for_ever_to_be_compiled_is_cut_off(tmp_path):
    """jinja computes constants while it compiles, and ignores exceptions there."""
    text = Text(texts.of_bytes(tmp_path, "{{ [1]|slice(2000000000)|list|length }}{{ messages[-1].content }}"))
    text.rendered.limit_s = 0.5
    with pytest.raises(Unservable, match=r"was cut off after 0.5 s of work"):
        text.ids_of("one")


def test_what_renders_may_be_killed_meanwhile_or_not_be_had(tmp_path, monkeypatch):
    text = Text(texts.of_bytes(tmp_path, "[{{ messages[-1].content }}]"))
    assert text.tokenizer.decode(text.ids_of("one")) == "[one]"
    os.kill(text.rendered.aside.child, signal.SIGKILL)
    assert text.tokenizer.decode(text.ids_of("two")) == "[two]"
    text.rendered.aside.end()
    monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(OSError(12, "no memory")))
    assert text.tokenizer.decode(text.ids_of("three")) == "[three]"


ENDS = """
import os, signal, sys
from jarvis_mpi.model.aside import Aside
aside = Aside(lambda of: "x" if of == "well" else "y" * sum(1 for _ in iter(int, 1)))
print(aside.text("well", 1.0, 1 << 28), aside.child, flush=True)
if sys.argv[1] == "busy":
    pid = os.getpid()
    if not os.fork():
        import time
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
    aside.text("for ever", 1.0, 1 << 28)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["idle", "busy"])
def test_nothing_that_renders_outlives_the_process_it_renders_for(when):
    done = subprocess.run([sys.executable, "-c", ENDS, when], capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGKILL
    rendered, child = done.stdout.split()
    assert rendered == "x"
    end = time.monotonic() + 25  # 1 s of processor time, at most 22 s of the clock
    while psutil.pid_exists(int(child)) and psutil.Process(int(child)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_template_that_keeps_no_answers_is_rendered_whole(tmp_path):
    text = Text(texts.of_bytes(tmp_path, "[{{ messages[-1].content }}]"))
    ids = text.after([], "one")
    text.asked.append("one")
    assert text.tokenizer.decode(text.after([*ids, 5, 6], "two")) == "[two]"


# -- tokenizer folders


def spoil(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "fault",
    [
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        lambda folder: (folder / "tokenizer.json").write_text("[]"),
        lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe\x00"),
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: spoil(folder, "tokenizer.json", model={"type": "BPE", "vocab": 5, "merges": []}),
        lambda folder: spoil(folder, "tokenizer.json", decoder={"type": "Nonsense"}),
        lambda folder: spoil(folder, "tokenizer_config.json", eos_token=5),
        lambda folder: spoil(folder, "tokenizer_config.json", eos_token={"a": 1}),
        lambda folder: spoil(folder, "tokenizer_config.json", tokenizer_class=7),
        lambda folder: spoil(folder, "tokenizer_config.json", added_tokens_decoder=[1]),
        lambda folder: (folder / "tokenizer_config.json").write_text("[1, 2]"),
        lambda folder: (folder / "tokenizer_config.json").write_bytes(b"\xff"),
        lambda folder: spoil(folder, "config.json", eos_token_id="</s>"),
        lambda folder: spoil(folder, "config.json", eos_token_id={"a": 1}),
        lambda folder: (folder / "generation_config.json").write_text("[]"),
        lambda folder: (folder / "generation_config.json").write_text("{"),
    ],
)  # fmt: skip
def test_a_broken_tokenizer_folder_is_one_sentence(fault, tmp_path):
    fault(texts.of_bytes(tmp_path))
    with pytest.raises(Unservable) as raised:
        Text(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_sentencepiece_model_alone_is_described_truthfully(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(Unservable) as raised:
        Text(tmp_path)
    assert "tiktoken" not in str(raised.value)
    assert "is a SentencePiece model" in str(raised.value) or "stands alone" in str(raised.value)
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(
        Unservable, match="is neither a SentencePiece model nor a list of tokens: fetch it again"
    ):
        Text(tmp_path)


def trained_sentencepiece(folder, kind, config):
    pieces = pytest.importorskip(
        "sentencepiece", reason="the packages sentencepiece and protobuf are not installed"
    )
    pytest.importorskip("google.protobuf")
    corpus = folder / "corpus.txt"
    corpus.write_text(
        "\n".join(f"hello world, this is line {number} of a small book. Grüße!" for number in range(300))
    )
    pieces.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=340, model_type=kind, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "config.json").write_text('{"model_type": "llama", "eos_token_id": 2}')
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return pieces.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


LLAMA = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}


def test_a_sentencepiece_model_alone_gives_the_same_tokens(tmp_path):
    own = trained_sentencepiece(tmp_path, "bpe", LLAMA)
    text = Text(tmp_path)
    assert text.ids_of("hello small world 世") == [1, *own.encode("hello small world 世")]


def test_a_sentencepiece_model_that_would_be_read_wrong_is_refused(tmp_path):
    trained_sentencepiece(tmp_path, "unigram", LLAMA)
    with pytest.raises(
        Unservable, match="is read otherwise by transformers' LlamaTokenizer than by SentencePiece"
    ):
        Text(tmp_path)


def test_a_sentencepiece_model_without_a_word_on_how_texts_begin_is_refused(tmp_path):
    trained_sentencepiece(tmp_path, "bpe", None)
    with pytest.raises(Unservable, match="stands alone"):
        Text(tmp_path)


# -- unknown tokens


def test_a_token_beyond_the_embedding_is_that_prompts_error(tmp_path):
    text = Text(texts.of_bytes(tmp_path, words=["<new>"]), vocabulary=257)
    assert askable(text, (), "abc", 128)
    with pytest.raises(
        Unservable, match=r"the prompt has token 257 \('<new>'\), but the model knows 257 tokens"
    ):
        askable(text, (), "a <new> one", 128)
    with pytest.raises(Unservable, match="the prompt has token 257"):
        text.after([5], "a <new> one")


def test_a_token_that_the_tokenizer_does_not_know_says_nothing(tmp_path):
    for folder in (texts.of_bytes(tmp_path / "a"), texts.with_fallback(tmp_path / "b")):
        text = Text(folder)
        ids = text.encode("hello")
        piece = text.pieces()
        assert "".join(map(piece, [*ids, 600, 2**31, *ids[1:]])) == text.tokenizer.decode([*ids, *ids[1:]])


# -- pieces


def test_half_a_character_of_bytes_then_a_word(tmp_path):
    text = Text(texts.with_fallback(tmp_path))
    whole, half = [3 + byte for byte in "世".encode()], [3 + 0xE4]
    hello, world, x = (text.tokenizer.convert_tokens_to_ids(word) for word in ("▁hello", "▁world", "x"))
    for ids, words in (
        ([hello, *whole, world], "hello世 world"),
        ([hello, *half, world], "hello\ufffd world"),
        ([*half, *half, x], "\ufffd\ufffdx"),
        ([hello, *whole, *whole, world], "hello世世 world"),
    ):
        assert "".join(map(text.pieces(), ids)) == words == text.tokenizer.decode(ids)
    # Shown text stays, where all bytes of the run become unreadable together.
    assert "".join(map(text.pieces(), [hello, *whole, *half, world])) == "hello世\ufffd world"


@pytest.mark.parametrize("make", [texts.of_bytes, texts.with_fallback])
def test_pieces_of_any_tokens_are_the_decoded_text_but_for_a_half_at_the_end(make, tmp_path):
    text, draw = Text(make(tmp_path)), random.Random(5)
    known = sorted(text.tokenizer.get_vocab().values())
    same = 0
    for _ in range(400):
        words = "".join(
            draw.choices(
                ["hello", " world", " ", "  ", "世", "é", "👩‍🚀", "\n", "x", "\ufffd"], k=draw.randrange(1, 8)
            )
        )
        ids = text.encode(words)
        if draw.random() < 0.6:
            ids = [each for each in ids if draw.random() > 0.1] + draw.choices(known, k=draw.randrange(3))
        whole = text.tokenizer.decode(ids, skip_special_tokens=True)
        joined = "".join(map(text.pieces(), ids))
        if whole.rstrip("\ufffd") == whole and not any(3 <= each < 259 for each in ids):
            assert joined == whole
        same += joined == whole or joined == whole.rstrip("\ufffd")
        assert joined.replace("\ufffd", "") or not whole.replace("\ufffd", "")
    assert same > 300


def test_a_tokenizer_that_tidies_spaces_away(tmp_path):
    """The pieces, with the text held back at the end, are decode's text."""
    text, draw, tidied = Text(texts.tidying(tmp_path)), random.Random(5), 0
    for _ in range(500):
        ids = draw.choices(range(len(text.tokenizer)), k=draw.randrange(1, 12))
        piece, whole = text.pieces(), text.decode(ids)
        assert "".join(map(piece, ids)) + piece.rest() == whole
        tidied += whole != text.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    assert tidied > 50


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
    import os

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
        {"temperature": 1e-30}, {"temperature": 1e-37}, {"temperature": 1e-300}, {"temperature": 5e-324}, {"temperature": 1e-20},
        {"temperature": 1.0, "top_p": 1e-30}, {"temperature": 1.0, "top_p": 5e-324}, {"temperature": 1.0, "top_k": 1},
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
