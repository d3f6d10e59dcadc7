"""Answers in flight over a network in memory: one bad prompt hurts only itself."""

import io
import json
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import texts
import tiny
import torch
from loopback import Deaf, chain

from jarvis_mpi.app import chat
from jarvis_mpi.app.batch import Batch
from jarvis_mpi.app.conversation import Conversation
from jarvis_mpi.app.keyboard import Key
from jarvis_mpi.common import prompt_file
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.sampler import Sampler
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.model.tokenizer import Text
from jarvis_mpi.protocol import placement as blocks
from jarvis_mpi.record.questions import Question

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% if 'raise' in messages[-1].content %}{{ raise_exception('not this one') }}{% endif %}"
    "{% if 'loop' in messages[-1].content %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% endif %}{% for m in messages %}[{{ m.content }}]{% endfor %}"
)
NEW = 259  # a token that the model does not know


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny.make("llama", tmp_path_factory.mktemp("batch"), vocab_size=NEW)
    return texts.of_bytes(folder, TEMPLATE, special=texts.SPECIAL, words=["<new>"])


class Spoils(Sampler):
    """What the model says of a prompt that begins with '!' is no number."""

    def choose(self, logits, text, sequence):
        letters = ["<end>", *sorted(texts.pre_tokenizers.ByteLevel.alphabet())]
        begun = (letters.index("["), letters.index("!"))
        spoilt = begun in pairwise(text)
        return super().choose(logits * float("nan") if spoilt else logits, text, sequence)


class Heard(Deaf):
    """A record or a screen."""

    def __init__(self):
        self.refusals, self.lines, self.answers, self.path = [], [], [], None

    def refused(self, at_s, step, number, why):
        self.refusals.append((number, why))

    def tell(self, line):
        self.lines.append(line)

    def answered(self, *what):
        self.answers.append(what)


@contextmanager
def talking(folder, **wishes):
    placement = blocks.place(tiny.LAYERS, 3, split="even", end_user_layers="first,last")
    stages = {
        node: {block: Stage(folder, block, torch.float32) for block in held}
        for node, held in placement.items()
    }
    settings = Settings(max_new_tokens=6, ignore_eos=True, **wishes)
    with chain(Head(folder, torch.float32), stages, Spoils(settings).choose) as asker:
        text = Text(folder, NEW)
        text.rendered.limit_s = 0.5
        yield Conversation(asker, text, 128, settings, Heard(), Heard())


def asked(folder, lines, at_once, spoil=lambda talk: None, **wishes):
    """-> the lines that come out, and how many failed."""
    out = io.StringIO()
    with talking(folder, **wishes) as talk:
        spoil(talk)
        failed = Batch(talk, at_once, out).ask_all(list(prompt_file.prompts_in(lines, False)))
    return [json.loads(line) for line in out.getvalue().splitlines()], failed


GOOD = [b"one", b"and two", b"three?", b"the fourth", b"5"]
BAD = [
    (b"please raise", "the model's chat template does not take this: not this one"),
    (b"loop for ever", "the model's chat template was cut off after"),
    (b"a <new> word", "the prompt has token 259 ('<new>'), but the model knows 259 tokens"),
    (b"!not this", "no numbers any more (NaN or infinity) at token"),
    (b"x" * 500, "the prompt has 502 tokens, the model takes 128: shorten it"),
    (b"x" * 10_000_000, "tokens, the model takes 128: shorten it"),
    (b"\xff\xfe", "is not UTF-8 text"),
    (b'{"prompt": "\\ud800"}', "holds half a character"),
    (b'{"prompt": 3}', 'is no object with a text "prompt"'),
    (b'{"prompt": "a", "prompt": "b"}', 'names "prompt" twice'),
    (
        b'{"prompt": "a", "temperature": 2, "max_tokens": 3, "id": 7}',
        "asks for max_tokens, temperature of its own",
    ),
    (b"a\0b", "holds zero bytes"),
    ("\u3000".encode(), "the prompt is empty"),
    (b"{" + b'"a":{' * 5000, "is no JSON"),
]


@pytest.fixture(scope="module")
def alone(folder):
    return {line: asked(folder, [line], 1)[0][0]["text"] for line in GOOD}


@pytest.mark.parametrize("at_once", [1, 3])
def test_every_bad_line_is_an_error_of_that_line_and_all_others_are_answered(folder, alone, at_once):
    lines = [line for number, (bad, _) in enumerate(BAD) for line in (bad, GOOD[number % len(GOOD)])]
    results, failed = asked(folder, lines, at_once)
    assert failed == len(BAD)
    assert [each["line"] for each in results] == list(range(1, len(lines) + 1))
    for number, (_, sentence) in enumerate(BAD):
        assert sentence in results[2 * number]["error"], results[2 * number]["error"]
        assert "\n" not in results[2 * number]["error"]
        assert results[2 * number + 1]["text"] == alone[GOOD[number % len(GOOD)]]


def test_a_nul_in_json_is_a_prompt_as_any(folder):
    results, failed = asked(folder, [b'{"prompt": "a\\u0000b"}', b"one"], 2)
    assert failed == 0
    assert all(each["tokens"] == 6 for each in results)


def test_a_tokenizer_that_cannot_decode_spoils_the_answers_it_cannot_decode(folder, alone):
    def spoil(talk):
        decode, count = talk.text.tokenizer.decode, iter(range(1000))

        def sometimes(*words, **more):
            if next(count) == 7:
                raise RuntimeError("Invalid prefix encountered while decoding stream")
            return decode(*words, **more)

        talk.text.tokenizer.decode = sometimes

    results, failed = asked(folder, GOOD, 2, spoil)
    assert failed == 1
    errors = [each["error"] for each in results if "error" in each]
    assert errors[0].startswith("the tokenizer cannot make text of token")
    assert "Invalid prefix encountered while decoding stream" in errors[0]
    assert [each["text"] for each in results if "text" in each] == [
        alone[line] for line, each in zip(GOOD, results, strict=True) if "text" in each
    ]


def test_too_few_nodes_still_end_all(folder):
    def spoil(talk):
        def gone(*_):
            raise Unservable("too few nodes are left")

        talk.asker.add_request = gone

    with pytest.raises(Unservable, match="too few nodes"):
        asked(folder, GOOD, 2, spoil)


class Typed:
    """Lines that are all there."""

    sees_the_end, is_terminal, interrupts = True, False, 0

    def __init__(self, *lines):
        self.lines = [*lines, Key.END]

    def next(self, timeout_s):
        return self.lines.pop(0)


@pytest.mark.parametrize("bad", ["please raise", "a <new> word", "!not this", "loop", "x" * 500])
def test_a_bad_line_of_a_chat_is_named_and_later_lines_are_answered(folder, bad):
    with talking(folder) as talk:
        screen = talk.screen
        failed = chat.chat(talk, Typed("one", bad, "two", "/reset", "one"), screen)
    assert failed == 1
    answers = [(prompt, answer.tokens) for prompt, answer, _ in screen.answers if answer.ended == "length"]
    assert [prompt for prompt, _ in answers] == ["one", "two", "one"]
    texts_of = [answer.text for _, answer, _ in screen.answers if answer.ended == "length"]
    assert texts_of[0] == texts_of[-1]
    assert len([line for line in screen.lines if ": " in line]) == 1


def test_a_stop_of_special_tokens_ends_an_answer_of_the_chain(folder):
    """The likeliest token of each step is made the special one."""

    def spoil(talk):
        services, count = talk.asker.services, iter(range(1000))
        talk.asker.services = replace(
            services, choose=lambda *what: 258 if next(count) % 4 == 3 else services.choose(*what)
        )

    results, _ = asked(folder, [b"one"], 1, spoil, stop=("<|end|>",))
    assert (results[0]["tokens"], results[0]["ended"]) == (4, "stop")
    assert "<|end|>" not in results[0]["text"]


def test_without_mpirun_what_was_under_way_is_answered_and_nothing_else(folder, alone):
    out = io.StringIO()
    with talking(folder) as talk:
        before = [Question(0, 0, 0.0, "one", talk.ids_with("one"), [], "", "")]
        talk.asker.services.link.orphaned = True  # and another node has taken over
        batch = Batch(talk, 1, out, before)
        assert batch.ask_all(list(prompt_file.prompts_in(GOOD, False))) == 0
    assert [json.loads(line)["text"] for line in out.getvalue().splitlines()] == [alone[b"one"]]
    assert batch.left == len(GOOD) - 1
