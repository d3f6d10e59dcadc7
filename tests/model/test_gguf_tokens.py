"""Tokenizers of GGUF files: texts are split and ended as the file says."""

import ggufs
import pytest
from gguf import GGUFWriter
from transformers import AutoTokenizer

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model.tokenizer import Text, end_ids

pytestmark = pytest.mark.slow


def test_every_token_that_ends_an_answer_ends_it(tmp_path):
    ggufs.write(
        tmp_path / "a.gguf",
        more=lambda writer: (writer.add_eot_token_id(ggufs.EOT), writer.add_eom_token_id(ggufs.EOM)),
    )
    folder = ggufs.converted(tmp_path / "a.gguf")
    assert end_ids(folder) == {ggufs.EOS, ggufs.EOT, ggufs.EOM}
    assert AutoTokenizer.from_pretrained(folder)("ab")["input_ids"] == [ggufs.TOKENS.index("ab")]


@pytest.mark.parametrize(
    ("pre", "pieces"), [("gpt-2", ["a", "12"]), ("smollm", ["a", "1", "2"]), ("llama-bpe", ["a", "12"])]
)
def test_text_is_split_as_the_file_says(pre, pieces, tmp_path):
    ggufs.write(tmp_path / "a.gguf", pre=pre)
    splits = AutoTokenizer.from_pretrained(
        ggufs.converted(tmp_path / "a.gguf")
    ).backend_tokenizer.pre_tokenizer
    assert [piece for piece, _ in splits.pre_tokenize_str("a12")] == pieces


def test_a_way_of_splitting_that_is_not_known_is_refused(tmp_path):
    ggufs.write(tmp_path / "a.gguf", pre="chatglm-bpe")
    with pytest.raises(Unservable, match=r"tokenizer.ggml.pre = 'chatglm-bpe'"):
        ggufs.converted(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("padding", 2**32 - 1),
        ("bos", 2**32 - 1),
        ("eot", 2**32 - 1),
        ("unknown", 2**32 - 1),
        ("padding", len(ggufs.TOKENS)),
    ],
)
def test_a_special_token_that_a_file_has_not_is_passed_over(key, number, tmp_path):
    name = f"tokenizer.ggml.{key}_token_id"
    model = ggufs.write(tmp_path / "a.gguf", more=lambda writer: writer.add_uint32(name, number))
    folder = ggufs.converted(tmp_path / "a.gguf")
    assert ggufs.same(folder, model)
    assert end_ids(folder) == {ggufs.EOS}


def test_a_text_begins_with_a_space_only_where_the_file_has_it_so(tmp_path, monkeypatch):
    words = ["▁", "h", "e", "l", "o", "he", "hel", "hell", "hello", "▁hello"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    add_model, add_types = GGUFWriter.add_tokenizer_model, GGUFWriter.add_token_types
    kinds = [2, 3, 3] + [6] * 256 + [1] * len(words)
    monkeypatch.setattr(ggufs, "TOKENS", tokens)
    monkeypatch.setattr(GGUFWriter, "add_tokenizer_model", lambda writer, _: add_model(writer, "llama"))
    monkeypatch.setattr(GGUFWriter, "add_token_types", lambda writer, _: add_types(writer, kinds))
    for name in ("add_tokenizer_pre", "add_token_merges"):
        monkeypatch.setattr(GGUFWriter, name, lambda *_: None)
    for first in (True, False):

        def more(writer, first=first):
            writer.add_token_scores([0.0] * 259 + [-float(at) for at in range(len(words))])
            writer.add_add_space_prefix(first)

        ggufs.write(tmp_path / "a.gguf", more=more)
        text = Text(ggufs.converted(tmp_path / "a.gguf"))
        ids = text.encode("hello hello", begin=False)
        assert text.tokenizer.convert_ids_to_tokens(ids) == ["▁hello" if first else "hello", "▁hello"]
        assert text.decode(ids) == "hello hello"
        behind = text.encode("</s>hello hello</s><s>hello", begin=False)
        word = "▁hello" if first else "hello"
        assert text.tokenizer.convert_ids_to_tokens(behind) == ["</s>", word, "▁hello", "</s>", "<s>", word]
        assert text.decode(ids[1:]) == ("hello" if first else " hello")


def test_tokens_beyond_the_alphabet_are_taken_whole(tmp_path):
    """Added tokens as in DeepSeek's distilled models, and runs of spaces, as in OLMo."""
    further = {"<｜begin｜>": 3, "<｜User｜>": 3, "<think>": 4, "<｜sep▁1｜>": 4, "  ": 4}
    first = len(ggufs.TOKENS)

    def begins(writer):
        writer.add_bos_token_id(first)
        writer.add_add_bos_token(True)

    model = ggufs.write(tmp_path / "a.gguf", more=begins, further=further)
    text = Text(ggufs.converted(tmp_path / "a.gguf"), model.config.vocab_size)
    ids = {words: first + at for at, words in enumerate(further)}
    for words, id in ids.items():
        assert text.encode(f"a{words}b", begin=False) == [ids_of_a(text), id, *text.encode("b", begin=False)]
    assert text.encode("a")[0] == first
    assert text.encode("a", begin=False) == [ids_of_a(text)]
    assert text.decode([*ids.values(), ids_of_a(text)]) == "<think><｜sep▁1｜>  a"
    assert text.tokenizer.bos_token_id == first


def ids_of_a(text: Text) -> int:
    (id,) = text.encode("a", begin=False)
    return id


@pytest.mark.parametrize(("says", "begins"), [(None, [1]), (True, [1]), (False, [])])
def test_what_llama_3s_way_of_splitting_stands_for_is_done(says, begins, tmp_path):
    """bos before a text where the file does not say otherwise, and a word that is a token in one piece."""

    def more(writer):
        writer.add_bos_token_id(1)
        if says is not None:
            writer.add_add_bos_token(says)

    ggufs.write(tmp_path / "a.gguf", more=more, pre="llama-bpe", further={"xyz": 1})
    text = Text(ggufs.converted(tmp_path / "a.gguf"))
    assert text.encode("xyz") == [*begins, len(ggufs.TOKENS)]
    assert text.beginning == begins
