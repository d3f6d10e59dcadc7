"""A model's tokenizer, read from its folder and looked at before it is trusted."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from .boundary import guarded
from .link import Unservable

SENTENCEPIECE = "tokenizer.model"
CONFIG = "tokenizer_config.json"
PROBES = (
    "Hello, world! 12 x",
    "a\nb",
    "Grüße, 世界",
)  # without what readers of one file are known to differ in
NEEDED = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}  # module -> its package


def tokenizer_of(folder: Path) -> Any:
    """As transformers reads it. Raises Unservable where there is none that can be used."""
    with guarded(f"{folder} has no tokenizer that can be used", "fetch its tokenizer files again"):
        only_sentencepiece = (folder / SENTENCEPIECE).is_file() and not (folder / "tokenizer.json").is_file()
        if only_sentencepiece and not is_tiktoken(folder / SENTENCEPIECE):
            check_readable(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            check_alike(folder, tokenizer)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if not isinstance(tokenizer.eos_token_id, int | None):
            raise Unservable(
                f"{folder / CONFIG} has an eos_token that is no token: fetch its tokenizer files again"
            )
        return tokenizer


def is_tiktoken(path: Path) -> bool:
    """Of a file that is a list of tokens in base64 with their ranks, as Llama 3's original tokenizer.model is."""
    with path.open("rb") as file:
        words = file.readline(4096).split()
    return len(words) == 2 and words[1].isdigit()


def check_readable(folder: Path) -> None:
    """Raises Unservable where a SentencePiece model alone cannot be read here."""
    path = folder / SENTENCEPIECE
    if lacking := [package for module, package in NEEDED.items() if not there(module)]:
        raise Unservable(
            f"{path} is a SentencePiece model, and without a tokenizer.json beside it"
            f" {' and '.join(lacking)} must be installed to read it: pip install {' '.join(lacking)},"
            " or put the model's tokenizer.json beside it"
        )
    config = folder / CONFIG
    said = json.loads(config.read_text()) if config.is_file() else {}
    if not isinstance(said, dict) or not said.get("tokenizer_class"):
        raise Unservable(
            f"{path} stands alone: {CONFIG}, which says how a text begins (tokenizer_class, add_bos_token),"
            " must be beside it"
        )


def there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def check_alike(folder: Path, tokenizer: Any) -> None:
    """Raises Unservable unless `tokenizer` finds the tokens that SentencePiece itself finds."""
    from sentencepiece import SentencePieceProcessor

    own = SentencePieceProcessor()
    own.Load(str(folder / SENTENCEPIECE))
    for probe in PROBES:
        if list(tokenizer(probe, add_special_tokens=False)["input_ids"]) != own.EncodeAsIds(probe):
            raise Unservable(
                f"{folder / SENTENCEPIECE} is read otherwise by transformers' {type(tokenizer).__name__} than by"
                " SentencePiece, so the text would be wrong: put the model's tokenizer.json beside it"
            )
