"""Correct transformers' tokenizer of a GGUF file where it reads the file otherwise."""

import json
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence
from tokenizers.processors import TemplateProcessing

from ..common.errors import Unservable
from .gguf_header import Gguf

try:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS as SPLITS
except ImportError:  # another version has it elsewhere
    SPLITS = {}
# The names of llama.cpp (src/llama-vocab.cpp).
AS_GPT2 = (
    "gpt-2",
    "default",
    "phi-2",
    "mpt",
    "olmo",
    "jais",
    "trillion",
    "roberta-bpe",
    "gigachat",
    "mellum",
)
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
# In these a word that is a token stays one, and a text begins with bos where the file does not say otherwise.
AS_LLAMA3 = (
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "tekken",
)
BOS, ADDS_BOS = "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"
SPACE, SPACE_FIRST = "▁", "tokenizer.ggml.add_space_prefix"
CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


def correct(tokenizer: Any, file: Gguf) -> None:
    """Correct `tokenizer`, which transformers read from `file`.
    Raises Unservable where that cannot be done."""
    split_as_declared(tokenizer, file)
    begin_as_declared(tokenizer, file)
    if file.values.get("tokenizer.ggml.model") == "gpt2":
        if file.values.get("tokenizer.ggml.pre") in AS_LLAMA3:
            as_llama3(tokenizer, file)
        keep_whole(tokenizer, file)


def split_as_declared(tokenizer: Any, file: Gguf) -> None:
    """Split text by the file's tokenizer.ggml.pre, where transformers does not know it and splits as GPT-2
    does."""
    pre = file.values.get("tokenizer.ggml.pre")
    if file.values.get("tokenizer.ggml.model") != "gpt2" or pre is None or pre in (*AS_GPT2, *SPLITS):
        return
    if pre not in SINGLE_DIGITS:
        raise Unservable(
            f"{file.path} splits text in a way that is not known here (tokenizer.ggml.pre = {pre!r}): take "
            "the model's safetensors"
        )
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )


def as_llama3(tokenizer: Any, file: Gguf) -> None:
    """Do what the file's tokenizer.ggml.pre stands for beside the splitting, which is all that transformers
    reads of it."""
    backend, bos = tokenizer.backend_tokenizer, file.values.get(BOS)
    backend.model.ignore_merges = True
    if bos is not None and ADDS_BOS not in file.values:
        token = tokenizer.convert_ids_to_tokens(bos)
        backend.post_processor = TemplateProcessing(
            single=[token, "$A"], pair=[token, "$A", token, "$B:1"], special_tokens=[(token, bos)]
        )


def begin_as_declared(tokenizer: Any, file: Gguf) -> None:
    """Add a space before a text, and before what follows a special token, or none, as the file says.

    transformers adds one to a text's first word in any case, and nowhere else; llama.cpp, and Llama 2's own
    tokenizer, do so behind special tokens too.
    """
    backend = tokenizer.backend_tokenizer
    if file.values.get("tokenizer.ggml.model") != "llama":
        return
    if file.values.get(SPACE_FIRST) is not False:
        if isinstance(backend.pre_tokenizer, Metaspace):
            backend.normalizer = normalizers.Sequence(
                [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
            )
            backend.pre_tokenizer = None
        return
    if isinstance(backend.pre_tokenizer, Metaspace):
        backend.pre_tokenizer = Metaspace(replacement=SPACE, prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    words = backend.normalizer.normalize_str("a") if backend.normalizer else "a"
    if backend.pre_tokenizer:
        words = backend.pre_tokenizer.pre_tokenize_str(words)[0][0]
    if words.startswith(SPACE):
        raise Unservable(
            f"{file.path} has {SPACE_FIRST} = False, which cannot be honoured here: take the model's "
            "safetensors"
        )


def keep_whole(tokenizer: Any, file: Gguf) -> None:
    """Never split a control token or a user-defined one of the file, wherever it stands in a text.

    transformers spells those with letters beyond ASCII in GPT-2's alphabet of bytes, where no text has them,
    and adds the first token of a text again, behind all tokens that the model knows.
    """
    tokens = file.values["tokenizer.ggml.tokens"]
    control = {words: control for words, control in control_of(file).items() if tokens.count(words) == 1}
    whole = {words: tokens.index(words) for words in control}
    if all(tokenizer(words, add_special_tokens=False)["input_ids"] == [id] for words, id in whole.items()):
        return
    form = json.loads(tokenizer.backend_tokenizer.to_str())
    form["added_tokens"] = [
        {"id": id, "content": words, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": control[words]}
        for words, id in whole.items()
    ]  # fmt: skip
    taken = set(whole.values())
    vocabulary = {words: id for words, id in form["model"]["vocab"].items() if id not in taken}
    form["model"]["vocab"] = vocabulary | whole
    for each in ((form.get("post_processor") or {}).get("special_tokens") or {}).values():
        each["ids"] = [whole.get(words, id) for words, id in zip(each["tokens"], each["ids"], strict=True)]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(form))
    for words, id in whole.items():
        if tokenizer(words, add_special_tokens=False)["input_ids"] != [id]:
            raise Unservable(
                f"{file.path} has a tokenizer whose token {words!r} cannot be taken whole here: take the "
                "model's safetensors"
            )


def control_of(file: Gguf) -> dict[str, bool]:
    """Return the tokens that are never split -> whether they are control tokens, which are not shown."""
    tokens, kinds = file.values["tokenizer.ggml.tokens"], file.values.get("tokenizer.ggml.token_type") or []
    return {
        words: kind == CONTROL
        for words, kind in zip(tokens, kinds, strict=False)
        if kind in (CONTROL, USER_DEFINED) and words
    }
