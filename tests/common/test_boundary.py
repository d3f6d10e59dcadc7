"""Whatever a library raises on a user's data becomes one sentence: errors are injected into each boundary."""

import jinja2
import pytest
import texts
import tokenizers
import torch
import transformers
from transformers.utils import chat_template_utils

from jarvis_mpi.common.boundary import guarded
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.settings import Settings
from jarvis_mpi.model.askable import askable
from jarvis_mpi.model.sampler import Sampler
from jarvis_mpi.model.tokenizer import Text

pytestmark = pytest.mark.slow


class PanicException(BaseException):
    """pyo3's exception, which is no Exception."""


RAISED = [
    ValueError("no\nsecond line"), KeyError("a"), IndexError("out of range"), RuntimeError(""),
    TypeError("x"), MemoryError(),
    RecursionError("too deep"), jinja2.TemplateError("no"), UnicodeDecodeError("utf-8", b"x", 0, 1, "y"),
    OSError(5, "z"),
    AssertionError(), StopIteration(), ZeroDivisionError(),
    PanicException("called `Option::unwrap()` on a `None` value"),
]  # fmt: skip


def raises(error):
    def call(*_, **__):
        raise error

    return call


def sentence_of(call) -> str:
    with pytest.raises(Unservable) as raised:
        call()
    sentence = str(raised.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("words", ["\ud800 no", "\x1b[2J gone", "a\0b"])
def test_what_a_library_says_can_be_written_and_does_nothing_to_a_terminal(words):
    with pytest.raises(Unservable) as raised, guarded("it cannot be read"):
        raise ValueError(words)
    assert str(raised.value).encode()
    assert str(raised.value).isprintable() or "\ufffd" in str(raised.value)


def test_of_what_the_system_says_no_number_and_no_second_name_is_told(tmp_path):
    sentence = r"^x cannot be read: No such file or directory$"
    with pytest.raises(Unservable, match=sentence), guarded("x cannot be read"):
        (tmp_path / "none").open()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return texts.of_bytes(tmp_path_factory.mktemp("boundary"), "{{ messages[0].content }}")


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
class TestEachBoundary:
    def test_loading_a_tokenizer(self, error, folder, monkeypatch):
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", raises(error))
        sentence = sentence_of(lambda: Text(folder))
        assert sentence.startswith(f"{folder} has no tokenizer that can be used: ")
        assert sentence.endswith(
            "free some" if isinstance(error, MemoryError) else "fetch its tokenizer files again"
        )

    def test_rendering_a_template(self, error, folder, monkeypatch):
        text = Text(folder)
        monkeypatch.setattr(chat_template_utils, "_compile_jinja_template", raises(error))
        sentence = sentence_of(lambda: askable(text, (), "abc", 100))
        assert sentence.startswith("the model's chat template does not take this: ")

    def test_encoding(self, error, folder, monkeypatch):
        text = Text(folder)
        monkeypatch.setattr(type(text.tokenizer), "__call__", raises(error))
        sentence = sentence_of(lambda: askable(text, (), "abc", 100))
        assert sentence.startswith("the tokenizer cannot take this text: ")

    def test_decoding(self, error, folder, monkeypatch):
        text = Text(folder)
        piece = text.pieces()
        monkeypatch.setattr(type(text.tokenizer), "decode", raises(error))
        sentence = sentence_of(lambda: piece(5))
        assert sentence.startswith("the tokenizer cannot make text of token 5: ")

    def test_drawing(self, error, monkeypatch):
        sampler = Sampler(Settings(temperature=1.0))
        monkeypatch.setattr(torch, "multinomial", raises(error))
        sentence = sentence_of(lambda: sampler.choose(torch.randn(9), [1], 0))
        assert sentence.startswith("no token can be drawn: ")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_who_ends_the_run_is_not_held_up(error):
    with pytest.raises(type(error)), guarded("this"):
        raise error


def test_a_real_panic_of_rust_is_a_sentence():
    """A panic of tokenizers' own, not an injected one."""
    with pytest.raises(Unservable) as raised, guarded("a tokenizer"):
        raise PanicException("index out of bounds")
    assert str(raised.value) == "a tokenizer: index out of bounds"
    assert tokenizers.__version__
