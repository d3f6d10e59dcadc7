"""Tokenizers of a few hundred tokens, made on the spot."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|start|>", "<|end|>"]


def of_bytes(folder: Path, template: Any = None, special=(), words=()) -> Path:
    """Each byte is a token, as GPT-2 spells it; `special` tokens have the ids from 257 on, behind them
    `words` that are none."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in special])
    tokenizer.add_tokens(list(words))
    return saved(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>"), folder, template)


def with_fallback(folder: Path, words=("▁hello", "▁world", "hello", "x")) -> Path:
    """As Llama 2's: words, and a token for each byte of what is none."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *words]
    tokenizer = Tokenizer(
        models.BPE(vocab={word: at for at, word in enumerate(vocabulary)}, merges=[], byte_fallback=True,
                   unk_token="<unk>", fuse_unk=True)
    )  # fmt: skip
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in ("<s>", "</s>")])
    return saved(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>"), folder)


def tidying(folder: Path) -> Path:
    """As SentencePiece's of some older checkpoints: `decode` takes the space out before a full stop."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<unk>", "</s>", "▁", "a", "b", "▁a", ".", ",", "n't", "n", "'", "▁.", "▁n't", "▁'", "▁'s", "s"]
    tokenizer = Tokenizer(models.Unigram([(word, -float(at)) for at, word in enumerate(words)], 0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return saved(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", clean_up_tokenization_spaces=True
        ),
        folder,
    )


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path, template: Any = None) -> Path:
    tokenizer.save_pretrained(folder)
    if template is not None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    config = folder / "config.json"
    if not config.exists():
        config.write_text(json.dumps({"model_type": "llama"}))
    return folder
