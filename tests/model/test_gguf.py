"""GGUF files: the same model as the one that they were made of, or one sentence; converted once, by one of the processes that need it."""

import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import ggufs
import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from jarvis_mpi.common import sealed_folder
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint, download, gguf
from jarvis_mpi.model.gguf_header import read, read_shards
from jarvis_mpi.model.gguf_rope import FREQUENCIES
from jarvis_mpi.model.tokenizer import Text, end_ids

IDS = torch.tensor([[65, 17, 3, 142, 9, 31, 77, 8, 65, 100, 12]])
PARTS = (
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_norm",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64, "rope_theta": 10000.0}  # fmt: skip


def converted(path: Path) -> Path:
    folder = path.with_suffix(f".{time.monotonic_ns()}")
    folder.mkdir()
    gguf.make(str(path), str(folder))
    return folder


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model.float()(IDS).logits


def same(folder: Path, model) -> bool:
    # Two float32 forms of the same bfloat16 numbers; an epsilon in float32 differs from Python's.
    return torch.allclose(
        logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3"])
def test_a_file_becomes_the_model_that_it_was_made_of(family, tmp_path):
    model = ggufs.write(tmp_path / "a.gguf", family)
    assert same(converted(tmp_path / "a.gguf"), model)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("adapter", "but an adapter .LoRA., which is to be merged"),
        ("mmproj", "but .*sees pictures"),
        ("imatrix", "but a table of importances"),
        ("another", "but another"),
    ],
)
def test_a_file_that_is_no_model_says_what_it_is_and_what_to_do(kind, named, tmp_path):
    ggufs.write(tmp_path / "a.gguf", more=lambda writer: writer.add_string("general.type", kind))
    with pytest.raises(
        Unservable, match=f"a.gguf is no model, {named}.*: give --model the file of the model"
    ):
        converted(tmp_path / "a.gguf")


def test_all_files_of_a_split_model_are_read_and_a_missing_one_is_named(tmp_path):
    model = ggufs.write(tmp_path / "a.gguf")
    parts = ggufs.split(tmp_path / "a.gguf", 3)
    assert same(converted(parts[0]), model)
    assert [part.path for part in read_shards(parts[2])] == parts  # any of them names the model
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(parts[0].read_bytes())
    with pytest.raises(Unservable, match=r"alone.gguf is one of 3 files, of which 1 are here"):
        read_shards(alone)
    parts[1].rename(tmp_path / "elsewhere")
    with pytest.raises(Unservable, match=r"a-00002-of-00003.gguf is missing"):
        checkpoint.locate(str(parts[0]))
    ggufs.write(tmp_path / "b.gguf", intermediate_size=64)
    parts[1].write_bytes(ggufs.split(tmp_path / "b.gguf", 3)[2].read_bytes())
    with pytest.raises(Unservable, match=r"part 2 of 3"):
        read_shards(parts[0])


def llama3_table(width: int = 8, **changes) -> np.ndarray:
    """Return the table as llama.cpp's converter writes it: the frequencies without scaling over those with it."""
    config = LlamaConfig(head_dim=width, rope_parameters={**LLAMA3, **changes}, max_position_embeddings=128)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    return (10000.0 ** -(np.arange(0, width, 2) / width) / scaled.numpy()).astype(np.float32)


@pytest.mark.parametrize(
    "scaling", [{}, {"original_max_position_embeddings": 100, "high_freq_factor": 9.0, "factor": 3.0}]
)
def test_rope_freqs_are_the_scaling_of_llama_3(scaling, tmp_path):
    shape = {"hidden_size": 64, "head_dim": 16}
    model = ggufs.write(
        tmp_path / "a.gguf", tensors={FREQUENCIES: llama3_table(16, **scaling)},
        rope_parameters={**LLAMA3, **scaling}, **shape,
    )  # fmt: skip
    folder = converted(tmp_path / "a.gguf")
    assert json.loads((folder / "config.json").read_text())["rope_parameters"]["rope_type"] == "llama3"
    assert same(folder, model)
    unscaled = AutoModelForCausalLM.from_pretrained(
        folder, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    )
    assert not same(folder, unscaled)


@pytest.mark.parametrize("table", [[1.0, 3.0, 2.0, 8.0], [1.0, 1.0], [1.0, float("nan"), 2.0, 8.0]])
def test_rope_freqs_of_no_known_kind_are_refused(table, tmp_path):
    ggufs.write(tmp_path / "a.gguf", tensors={FREQUENCIES: np.array(table, np.float32)})
    with pytest.raises(Unservable, match=FREQUENCIES):
        converted(tmp_path / "a.gguf")


def test_linear_yarn_and_longrope_are_honoured(tmp_path):
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    model = ggufs.write(
        tmp_path / "a.gguf", rope_parameters=linear,
        more=lambda writer: (writer.add_string("llama.rope.scaling.type", "linear"), writer.add_rope_scaling_factor(4.0)),
    )  # fmt: skip
    assert same(converted(tmp_path / "a.gguf"), model)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
    model = ggufs.write(
        tmp_path / "b.gguf", "qwen2", rope_parameters=yarn,
        more=lambda writer: (writer.add_string("qwen2.rope.scaling.type", "yarn"), writer.add_rope_scaling_factor(4.0),
                             writer.add_rope_scaling_orig_ctx_len(32)),
    )  # fmt: skip
    assert same(converted(tmp_path / "b.gguf"), model)
    short, long = [1.0, 1.1, 1.2, 1.3], [4.0, 5.0, 6.0, 20.0]
    longrope = {"rope_type": "longrope", "short_factor": short, "long_factor": long, "rope_theta": 10000.0,
                "original_max_position_embeddings": 32}  # fmt: skip
    tables = {"rope_factors_long.weight": np.array(long), "rope_factors_short.weight": np.array(short)}
    model = ggufs.write(
        tmp_path / "c.gguf", "phi3", tensors=tables, rope_parameters=longrope, original_max_position_embeddings=32,
        more=lambda writer: writer.add_rope_scaling_orig_ctx_len(32),
    )  # fmt: skip
    folder = converted(tmp_path / "c.gguf")
    assert same(folder, model)
    parameters = json.loads((folder / "config.json").read_text())["rope_parameters"]
    assert np.allclose(parameters["long_factor"], long)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (lambda writer: writer.add_string("llama.rope.scaling.type", "dynamic"), "rope.scaling.type"),
        (lambda writer: writer.add_sliding_window(8), "llama.attention.sliding_window"),
        (lambda writer: writer.add_logit_scale(0.5), "llama.logit_scale"),
        (lambda writer: writer.add_expert_count(4), "mixture of experts"),
        (lambda writer: writer.add_causal_attention(False), "llama.attention.causal"),
        (lambda writer: writer.add_float32("llama.attention.something_new", 0.5), "something_new"),
        (lambda writer: writer.add_eot_token_id(10**6), "eot_token_id"),
    ],
)
def test_what_transformers_does_not_read_is_refused_by_name(more, named, tmp_path):
    ggufs.write(tmp_path / "a.gguf", more=more)
    with pytest.raises(Unservable, match=named):
        converted(tmp_path / "a.gguf")


def test_every_token_that_ends_an_answer_ends_it(tmp_path):
    ggufs.write(
        tmp_path / "a.gguf",
        more=lambda writer: (writer.add_eot_token_id(ggufs.EOT), writer.add_eom_token_id(ggufs.EOM)),
    )
    folder = converted(tmp_path / "a.gguf")
    assert end_ids(folder) == {ggufs.EOS, ggufs.EOT, ggufs.EOM}
    assert AutoTokenizer.from_pretrained(folder)("ab")["input_ids"] == [ggufs.TOKENS.index("ab")]


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ({"without": ["blk.3.ffn_up.weight"]}, r"numbers, and its metadata ask for"),
        ({"without": [f"blk.5.{part}.weight" for part in PARTS]}, r"6 layers .*holds 5"),
        (
            {"tensors": {"blk.2.attn_q.bias": np.ones(32)}},
            r"blk.2.attn_q.bias, which transformers' llama has not",
        ),
        ({"tensors": {"something.weight": np.ones(32)}}, r"something.weight"),
        (
            {"tensors": {"blk.1.ffn_up.weight": np.full((48, 32), np.nan)}},
            r"no numbers .*layers.1.mlp.up_proj",
        ),
    ],
)
def test_nothing_is_drawn_and_nothing_passed_over(what, named, tmp_path):
    ggufs.write(tmp_path / "a.gguf", **what)
    with pytest.raises(Unservable, match=named):
        converted(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("pre", "pieces"), [("gpt-2", ["a", "12"]), ("smollm", ["a", "1", "2"]), ("llama-bpe", ["a", "12"])]
)
def test_text_is_split_as_the_file_says(pre, pieces, tmp_path):
    ggufs.write(tmp_path / "a.gguf", pre=pre)
    splits = AutoTokenizer.from_pretrained(converted(tmp_path / "a.gguf")).backend_tokenizer.pre_tokenizer
    assert [piece for piece, _ in splits.pre_tokenize_str("a12")] == pieces


def test_a_way_of_splitting_that_is_not_known_is_refused(tmp_path):
    ggufs.write(tmp_path / "a.gguf", pre="chatglm-bpe")
    with pytest.raises(Unservable, match=r"tokenizer.ggml.pre = 'chatglm-bpe'"):
        converted(tmp_path / "a.gguf")


# -- in the cache folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quick(monkeypatch, convert):
    """Put `convert(source, folder)` in the place of the process that converts."""

    def run(words, **_):
        return subprocess.CompletedProcess(words, *convert(Path(words[-2]), Path(words[-1])))

    monkeypatch.setattr(download.subprocess, "run", run)


def test_capital_endings_other_names_and_links_are_one_model(cache, tmp_path, monkeypatch):
    ggufs.write(tmp_path / "a.gguf")
    folder, times = converted(tmp_path / "a.gguf"), []

    def convert(source, into):
        times.append(source)
        for path in folder.iterdir():
            (into / path.name).write_bytes(path.read_bytes())
        return 0, "", ""

    quick(monkeypatch, convert)
    (tmp_path / "B.GGUF").write_bytes((tmp_path / "a.gguf").read_bytes())
    (tmp_path / "no-ending").symlink_to("a.gguf")
    found = {checkpoint.locate(str(tmp_path / name)) for name in ("a.gguf", "B.GGUF", "no-ending")}
    assert len(found) == len(times) == 1
    made = found.pop()
    assert made.name.endswith(f"-{download.CONVERTER}")
    assert sealed_folder.sealed(made)["converter"] == download.CONVERTER
    # An older version's result is not used, and a damaged one is made again.
    (made / "model.safetensors").write_bytes(b"short")
    assert checkpoint.locate(str(tmp_path / "a.gguf")) == made
    assert len(times) == 2
    monkeypatch.setattr(download, "CONVERTER", download.CONVERTER + 1)
    assert checkpoint.locate(str(tmp_path / "a.gguf")) != made
    assert len(times) == 3


def test_a_whole_conversion_with_capitals(cache, tmp_path):
    ggufs.write(tmp_path / "A.GGUF")
    made = checkpoint.locate(str(tmp_path / "A.GGUF"))
    assert sorted(path.suffix for path in cache.iterdir() if path.is_file()) == [".lock"]
    assert list(sealed_folder.damage(made, lambda path: None)) == []


def test_those_that_waited_hear_at_once_why_it_failed(cache, tmp_path, monkeypatch):
    ggufs.write(tmp_path / "a.gguf")
    times, reasons = [], []

    def convert(source, into):
        times.append(source)
        time.sleep(0.5)
        return 1, "", "OSError: [Errno 28] No space left on device"

    def ask():
        with pytest.raises(Unservable) as error:
            checkpoint.locate(str(tmp_path / "a.gguf"))
        reasons.append(str(error.value))

    quick(monkeypatch, convert)
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(times) == 1
    assert len(reasons) == 3
    assert len(set(reasons)) == 1
    assert "No space left on device" in reasons[0]
    assert "JARVIS_CACHE" in reasons[0]
    assert "transformers" not in reasons[0]
    monkeypatch.setattr(download, "BEGUN", time.time() + 1)  # another run tries again
    ask()
    assert len(times) == 2


def test_a_file_system_that_says_beforehand_that_it_is_full(cache, tmp_path, monkeypatch):
    ggufs.write(tmp_path / "a.gguf")
    quick(monkeypatch, lambda source, into: pytest.fail("it was tried"))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(Unservable, match=r"needs .* GB are free.*JARVIS_CACHE"):
        checkpoint.locate(str(tmp_path / "a.gguf"))


def test_a_disk_that_fills_up_in_a_real_conversion(cache, tmp_path):
    ggufs.write(tmp_path / "a.gguf", intermediate_size=4096)
    code = "import sys; from jarvis_mpi.model import checkpoint; checkpoint.locate(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.gguf")], capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert "File too large" in last
    assert "JARVIS_CACHE" in last
    # No folder of a model; transformers' import has a file there too.
    assert not [path for path in cache.iterdir() if path.is_dir() and path.name != "transformers"]


def test_a_hostile_header_costs_nothing(tmp_path):
    ggufs.write(tmp_path / "a.gguf")
    good = (tmp_path / "a.gguf").read_bytes()
    for at, number in ((8, 2**40), (16, 2**40), (8, 2**63), (24, 2**50)):
        (tmp_path / "b.gguf").write_bytes(good[:at] + number.to_bytes(8, "little") + good[at + 8 :])
        begun = time.monotonic()
        with pytest.raises(Unservable, match=r"b.gguf is damaged"):
            read(tmp_path / "b.gguf")
        assert time.monotonic() - begun < 2
    (tmp_path / "b.gguf").write_bytes(good[:-1])
    with pytest.raises(Unservable, match=r"has \d+ bytes, but its header asks for \d+"):
        read(tmp_path / "b.gguf")


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
    folder = converted(tmp_path / "a.gguf")
    assert same(folder, model)
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
        text = Text(converted(tmp_path / "a.gguf"))
        ids = text.encode("hello hello", begin=False)
        assert text.tokenizer.convert_ids_to_tokens(ids) == ["▁hello" if first else "hello", "▁hello"]
        assert text.decode(ids) == "hello hello"
        assert text.decode(ids[1:]) == ("hello" if first else " hello")


def test_tokens_beyond_the_alphabet_are_taken_whole(tmp_path):
    """Added tokens as in DeepSeek's distilled models, and runs of spaces, as in OLMo."""
    further = {"<｜begin｜>": 3, "<｜User｜>": 3, "<think>": 4, "<｜sep▁1｜>": 4, "  ": 4}
    first = len(ggufs.TOKENS)

    def begins(writer):
        writer.add_bos_token_id(first)
        writer.add_add_bos_token(True)

    model = ggufs.write(tmp_path / "a.gguf", more=begins, further=further)
    text = Text(converted(tmp_path / "a.gguf"), model.config.vocab_size)
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
