"""Damaged tokenizer folders: transformers' ids and text with the same files, or a sentence."""

import json
import random
import shutil
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import texts
from mutations import mutate
from transformers import AutoTokenizer
from transformers.utils import logging

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint
from jarvis_mpi.model.askable import askable
from jarvis_mpi.model.tokenizer import Text

pytestmark = pytest.mark.slow

VOCABULARY, CONTEXT = 262, 400
PROMPTS = ("abc", "Grüße, 世界! 👩‍🚀", "  two\n<|start|> spaces ", "hello world x", "<end></s>\ttab")
CHAT = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}"
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n"
    "' + message['content'] | trim + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
LARGE_EVERY = 25  # the default model's tokenizer takes a second to read


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    base = tmp_path_factory.mktemp("whole")
    folders = [
        texts.of_bytes(base / "bytes", CHAT, special=texts.SPECIAL, words=["<new>"]),
        texts.of_bytes(base / "plain", words=["hello", "world"]),
        texts.with_fallback(base / "fallback"),
    ]
    for folder in folders:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    return folders


def spoil(number: int, draw: random.Random, folders: list[Path], bad: Path) -> Path:
    """Copy one of the folders and damage one of its files."""
    large = checkpoint.locate("smollm2-135m-instruct") if number % LARGE_EVERY == LARGE_EVERY - 1 else None
    bad.mkdir()
    for file in (large or draw.choice(folders)).iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, bad)
    names = [path for path in sorted(bad.iterdir()) if path.name != "config.json" or draw.random() < 0.3]
    target = draw.choice([*names, bad / "tokenizer.json"])
    good = target.read_bytes()
    match draw.choice(("bytes", "json", "json", "gone" if draw.random() < 0.2 else "json")):
        case "json" if target.suffix == ".json":
            content = json.loads(good)
            # Or else nearly all is vocabulary.
            inside = draw.choice((content, content, content.get("model", content)))
            if inside is content and "model" in content:
                model = content.pop("model")
                content = mutate.swapped(draw, content)
                if isinstance(content, dict):
                    content.setdefault("model", model)
            else:
                content = mutate.swapped(draw, content)
            target.write_bytes(mutate.as_json(content))
        case "gone":
            target.unlink()
        case _:
            target.write_bytes(mutate.damaged(draw, good))
    return bad


def ours(folder: Path, ids_of: dict[str, list[int]], decoded: dict[str, str]) -> None:
    """Fill in the ids and the text of each prompt that can be encoded."""
    text = Text(folder, VOCABULARY)
    text.rendered.limit_s = 2.0
    if folder.name.endswith("large"):
        text.vocabulary = 49152
    for prompt in PROMPTS:
        try:
            ids_of[prompt] = askable(text, (), prompt, CONTEXT)
            text.begin_conversation()
            text.add_turn(prompt, text.decode([5]))
            text.after([*ids_of[prompt], 5], "more")
            decoded[prompt] = "".join(map(text.pieces(), ids_of[prompt]))
        except Unservable as error:
            assert_sentence(error)


def assert_sentence(error: Unservable) -> None:
    assert str(error).strip()
    assert "\n" not in str(error)


def assert_as_transformers(folder: Path, ids_of: dict[str, list[int]], decoded: dict[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary_ids = tokenizer.get_vocab().values()
    # Two tokens of one id: tokenizers itself takes either, at each load.
    if len(set(vocabulary_ids)) < len(vocabulary_ids):
        return
    for prompt, ids in ids_of.items():
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}]
            words = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            assert ids == tokenizer(words, add_special_tokens=False)["input_ids"]
        else:
            assert ids == tokenizer(prompt)["input_ids"]
        if prompt in decoded:
            whole = tokenizer.decode(ids, skip_special_tokens=True)
            assert decoded[prompt] in (whole, whole.rstrip("\ufffd")) or odd(tokenizer, ids), (
                decoded[prompt],
                whole,
            )


def odd(tokenizer, ids: list[int]) -> bool:
    """Return whether the decoder's text of some tokens is no beginning of its text of more: then shown text
    stays."""
    prefixes = [
        tokenizer.decode(ids[:end], skip_special_tokens=True).rstrip("\ufffd") for end in range(len(ids) + 1)
    ]
    return any(not more.startswith(less) for less, more in pairwise(prefixes))


def test_a_damaged_tokenizer_is_transformers_or_a_sentence(whole, tmp_path):
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")

    def one(number: int) -> None:
        draw = random.Random(number)
        folder = spoil(
            number,
            draw,
            whole,
            tmp_path / f"{number}{'large' if number % LARGE_EVERY == LARGE_EVERY - 1 else ''}",
        )
        ids_of, decoded = dict[str, list[int]](), dict[str, str]()
        try:
            ours(folder, ids_of, decoded)
        except Unservable as error:
            assert_sentence(error)
        else:
            assert_as_transformers(folder, ids_of, decoded)
        finally:
            shutil.rmtree(folder)

    mutate.survives(mutate.numbers(), one)
