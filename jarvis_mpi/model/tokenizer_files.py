"""Read a model's tokenizer from its folder, and check it."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ..common.boundary import guarded
from ..common.errors import Unservable

CONFIG = "tokenizer_config.json"
# Without text in which readers of one file are known to differ.
PROBES = ("Hello, world! 12 x", "a\nb", "Grüße, 世界")
NEEDED = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}  # module -> its package


def tokenizer_of(folder: Path) -> Any:
    """Return transformers' tokenizer of the folder.
    Raises Unservable where there is none that can be used."""
    with guarded(f"{folder} has no tokenizer that can be used", "fetch its tokenizer files again"):
        pieces = only_sentencepiece(folder)
        if pieces:
            check_readable(pieces)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if pieces:
            check_alike(pieces, tokenizer)
        if not isinstance(tokenizer.eos_token_id, int | None):
            raise Unservable(
                f"{folder / CONFIG} has an eos_token that is no token: fetch its tokenizer files again"
            )
        return tokenizer


def only_sentencepiece(folder: Path) -> Path | None:
    """Return the SentencePiece model of a folder without any other tokenizer; None where there is none."""
    found = sorted(path for path in folder.glob("[!.]*.model") if path.is_file())
    if not found or any(
        (folder / name).is_file() for name in ("tokenizer.json", "tekken.json", "vocab.json")
    ):
        return None
    with found[0].open("rb") as file:
        line = file.readline(4096)
    words = line.split()
    # Tokens in base64 with their ranks, as Llama 3's original file is.
    if len(words) == 2 and words[1].isdigit():
        return None
    if not line.startswith(b"\n"):  # protobuf's mark of the first piece
        raise Unservable(f"{found[0]} is neither a SentencePiece model nor a list of tokens: fetch it again")
    return found[0]


def check_readable(path: Path) -> None:
    """Check that a SentencePiece model alone can be read here. Raises Unservable."""
    if lacking := [package for module, package in NEEDED.items() if not is_installed(module)]:
        raise Unservable(
            f"{path} is a SentencePiece model, and without a tokenizer.json beside it"
            f" {' and '.join(lacking)} must be installed to read it: pip install {' '.join(lacking)},"
            " or put the model's tokenizer.json beside it"
        )
    config = path.with_name(CONFIG)
    content = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if not isinstance(content, dict) or not content.get("tokenizer_class"):
        raise Unservable(
            f"{path} stands alone: {CONFIG}, which says how a text begins (tokenizer_class, add_bos_token),"
            " must be beside it"
        )


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def check_alike(path: Path, tokenizer: Any) -> None:
    """Raises Unservable unless `tokenizer` finds the pieces that SentencePiece itself finds."""
    from sentencepiece import SentencePieceProcessor

    own = SentencePieceProcessor()
    own.Load(str(path))
    for probe in PROBES:
        ids = tokenizer(probe, add_special_tokens=False)["input_ids"]
        if tokenizer.convert_ids_to_tokens(ids) != own.EncodeAsPieces(probe):
            raise Unservable(
                f"{path} is read otherwise by transformers' {type(tokenizer).__name__} than by SentencePiece,"
                " so the text would be wrong: put the model's tokenizer.json beside it"
            )
