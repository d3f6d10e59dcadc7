"""Tokenizers of strangers: what is wrong with one is a sentence, and pieces are the decoded text."""

import json
import random

import pytest
import texts
from transformers import CTRLTokenizer

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.askable import askable
from jarvis_mpi.model.detokenizer import Pieces
from jarvis_mpi.model.tokenizer import Text, check_template

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
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=340, model_type=kind,
        byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False,
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
    # Beside each file, on a disk that a Mac wrote.
    (tmp_path / "._tokenizer.model").write_bytes(b"\0\5\x16\7Mac OS X")
    assert Text(tmp_path).ids_of("hello") == text.ids_of("hello")
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


def test_a_template_that_writes_a_token_beyond_the_embedding_is_refused_before_anything_is_asked(tmp_path):
    template = "{% for turn in messages %}{{ turn.content }}<new>{% endfor %}"
    text = Text(texts.of_bytes(tmp_path, template, words=["<new>"]), vocabulary=257)
    with pytest.raises(Unservable, match=r"^the model's chat template writes token 257 \('<new>'\), but the"):
        check_template(text)
    check_template(Text(tmp_path, vocabulary=258))
    check_template(Text(texts.of_bytes(tmp_path / "bare", words=["<new>"]), vocabulary=257))


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
def test_pieces_of_any_tokens_and_the_rest_are_the_decoded_text(make, tmp_path):
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
        pieces = text.pieces()
        joined = "".join(map(pieces, ids)) + pieces.rest()
        if "\ufffd" not in whole and not any(3 <= each < 259 for each in ids):
            assert joined == whole
        same += joined == whole
        assert joined.replace("\ufffd", "") or not whole.replace("\ufffd", "")
    assert same > 300


def test_an_answer_that_is_cut_within_a_character_is_what_decode_says():
    """Tokens of SmolLM2 hold whole letters and half of the next."""
    text = Text(checkpoint.locate("smollm2-135m-instruct"))
    words = "хорошо, около שלום ラーメン नमस्ते สวัสดี 👩‍🚀 é"
    ids, halves = text.encode(words), 0
    for end in range(1, len(ids) + 1):
        pieces, whole = text.pieces(), text.decode(ids[:end])
        assert "".join(map(pieces, ids[:end])) + pieces.rest() == whole
        halves += whole.endswith("\ufffd")
    assert halves > 10


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


def test_pieces_of_a_decoder_that_changes_the_end_of_a_text(tmp_path):
    """CTRL's tokens that go on end with "@@", which the next one takes away."""
    names = ["<unk>", *"abcdefgh", *(f"{letter}@@" for letter in "abcdefgh")]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    draw = random.Random(1)
    for _ in range(50):
        ids = draw.choices(range(1, len(names)), k=draw.randint(1, 12))
        pieces = Pieces(tokenizer)
        given = [pieces(token) for token in ids]
        assert "".join(given) + pieces.rest() == tokenizer.decode(ids)
    assert "".join(given)
