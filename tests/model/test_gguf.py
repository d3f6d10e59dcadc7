"""GGUF files: the same model as the one that they were made of, or one sentence; converted once, by one of
the processes that need it."""

import json

import gguf
import ggufs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import checkpoint, gguf_config
from jarvis_mpi.model.family import load_config
from jarvis_mpi.model.gguf_header import read, read_shards
from jarvis_mpi.model.gguf_rope import FREQUENCIES

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "phi3"])
def test_a_file_becomes_the_model_that_it_was_made_of(family, tmp_path):
    model = ggufs.write(tmp_path / "a.gguf", family)
    assert ggufs.same(ggufs.converted(tmp_path / "a.gguf"), model)


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
        ggufs.converted(tmp_path / "a.gguf")


def test_all_files_of_a_split_model_are_read_and_a_missing_one_is_named(tmp_path):
    model = ggufs.write(tmp_path / "a.gguf")
    parts = ggufs.split(tmp_path / "a.gguf", 3)
    assert ggufs.same(ggufs.converted(parts[0]), model)
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
    """Return the table as llama.cpp's converter writes it: the frequencies without scaling over those with
    it."""
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
    folder = ggufs.converted(tmp_path / "a.gguf")
    assert json.loads((folder / "config.json").read_text())["rope_parameters"]["rope_type"] == "llama3"
    assert ggufs.same(folder, model)
    unscaled = AutoModelForCausalLM.from_pretrained(
        folder, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    )
    assert not ggufs.same(folder, unscaled)


@pytest.mark.parametrize("table", [[1.0, 3.0, 2.0, 8.0], [1.0, 1.0], [1.0, float("nan"), 2.0, 8.0]])
def test_rope_freqs_of_no_known_kind_are_refused(table, tmp_path):
    ggufs.write(tmp_path / "a.gguf", tensors={FREQUENCIES: np.array(table, np.float32)})
    with pytest.raises(Unservable, match=FREQUENCIES):
        ggufs.converted(tmp_path / "a.gguf")


def test_linear_yarn_and_longrope_are_honoured(tmp_path):
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    model = ggufs.write(
        tmp_path / "a.gguf", rope_parameters=linear,
        more=lambda writer: (writer.add_string("llama.rope.scaling.type", "linear"),
                             writer.add_rope_scaling_factor(4.0)),
    )  # fmt: skip
    assert ggufs.same(ggufs.converted(tmp_path / "a.gguf"), model)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
    model = ggufs.write(
        tmp_path / "b.gguf", "qwen2", rope_parameters=yarn,
        more=lambda writer: (writer.add_string("qwen2.rope.scaling.type", "yarn"),
                             writer.add_rope_scaling_factor(4.0),
                             writer.add_rope_scaling_orig_ctx_len(32)),
    )  # fmt: skip
    assert ggufs.same(ggufs.converted(tmp_path / "b.gguf"), model)
    short, long = [1.0, 1.1, 1.2, 1.3], [4.0, 5.0, 6.0, 20.0]
    longrope = {"rope_type": "longrope", "short_factor": short, "long_factor": long, "rope_theta": 10000.0,
                "original_max_position_embeddings": 32}  # fmt: skip
    tables = {"rope_factors_long.weight": np.array(long), "rope_factors_short.weight": np.array(short)}
    model = ggufs.write(
        tmp_path / "c.gguf", "phi3", tensors=tables, rope_parameters=longrope,
        original_max_position_embeddings=32,
        more=lambda writer: writer.add_rope_scaling_orig_ctx_len(32),
    )  # fmt: skip
    folder = ggufs.converted(tmp_path / "c.gguf")
    assert ggufs.same(folder, model)
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
        ggufs.converted(tmp_path / "a.gguf")


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
        ggufs.converted(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("matrices", "few_bits", "dtype"),
    [
        (np.float32, False, torch.float32),
        (np.float16, False, torch.float16),
        (np.float32, True, torch.bfloat16),
    ],
)
def test_numbers_that_are_not_quantised_stay_what_they_are(matrices, few_bits, dtype, tmp_path):
    """In the fewest bits that hold them; norms and biases as they are."""
    draw = np.random.default_rng(0)
    made = {} if few_bits else {"blk.1.ffn_up.weight": draw.normal(size=(48, 32)).astype(matrices)}
    norm = draw.normal(size=32).astype(np.float32)
    ggufs.write(tmp_path / "a.gguf", tensors={**made, "blk.1.ffn_norm.weight": norm}, matrices=matrices)
    folder = ggufs.converted(tmp_path / "a.gguf")
    tensors = load_file(folder / "model.safetensors")
    assert tensors["model.layers.1.self_attn.v_proj.weight"].dtype == dtype
    assert load_config(folder).dtype == dtype
    assert torch.equal(tensors["model.layers.1.post_attention_layernorm.weight"], torch.from_numpy(norm))
    for numbers in made.values():
        found = tensors["model.layers.1.mlp.up_proj.weight"]
        assert torch.equal(found.float(), torch.from_numpy(numbers).float())


def test_a_gpt2_of_another_context_is_read(tmp_path):
    """As Cerebras-GPT's 2,048; transformers leaves it at 1,024."""
    writer = gguf.GGUFWriter(path := tmp_path / "a.gguf", "gpt2")
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read(path)
    config, _ = gguf_config.corrected(GPT2Config(n_embd=32, n_layer=2, n_head=4), file)
    assert config.n_positions == config.max_position_embeddings == 2048
