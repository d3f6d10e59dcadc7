"""A position's result is the same, bit for bit, whatever other rows its message holds: prompts, drafts, a
copy's catching up."""

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Llama4ForCausalLM, Llama4TextConfig

from jarvis_mpi.model.activations import to_bytes
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage

pytestmark = pytest.mark.slow

POSITIONS = 50  # several windows of the sliding ones
PIECES = [POSITIONS, 40, 33, 9, 2]


def in_bfloat16(family: str, folder):
    """A tiny model whose file holds 16 bits."""
    tiny.make(family, folder, **tiny.WHOLE_BLOCKS)  # so that layers can be fused
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = AutoConfig.from_pretrained(folder)
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    return folder


def in_pieces(stage: Stage, text: bytes, rows: int) -> bytes:
    size = rows * stage.row_bytes
    return b"".join(
        stage.run(text[at : at + size], at // stage.row_bytes, sequence=rows)
        for at in range(0, len(text), size)
    )


@pytest.mark.parametrize(
    ("family", "how"),
    tiny.families_with(
        [(torch.float32, "auto"), (torch.bfloat16, "auto"), (torch.float32, "int8"), (torch.bfloat16, "int4")]
    ),
)
def test_a_text_in_one_piece_or_in_many(family, how, tmp_path, monkeypatch):
    dtype, weights = how
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    folder = in_bfloat16(family, tmp_path / "model")
    stage, head = (
        Stage(folder, range(0, tiny.LAYERS), dtype, weights=weights),
        Head(folder, dtype, weights),
    )
    text = to_bytes(
        torch.randn(1, POSITIONS, stage.width, generator=torch.Generator().manual_seed(0)).to(dtype)
    )
    one_by_one = in_pieces(stage, text, 1)
    assert all(in_pieces(stage, text, rows) == one_by_one for rows in PIECES)
    logits = torch.stack([head.logits(one_by_one[: (at + 1) * stage.row_bytes]) for at in range(POSITIONS)])
    assert torch.equal(head.rows_logits(one_by_one, 0, None), logits)


@pytest.mark.parametrize("threads", [1, 3, 4])
def test_with_several_threads_and_layers_as_wide_as_real_ones(threads, tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for family, width in (("llama", 14336), ("gemma3_text", 16384)):
            folder = tiny.make(
                family,
                tmp_path / family,
                hidden_size=64,
                intermediate_size=width,
                num_hidden_layers=2,
                head_dim=256,
                layer_types=["sliding_attention", "full_attention"] if family != "llama" else None,
            )
            stage = Stage(folder, range(2), torch.float32, weights="int8")
            text = to_bytes(torch.randn(1, 70, stage.width, generator=torch.Generator().manual_seed(0)))
            assert stage.fast_step.parts[0].fused
            for _ in range(2):
                one_by_one = in_pieces(stage, text, 1)
                assert all(in_pieces(stage, text, rows) == one_by_one for rows in (70, 5))
                stage.fast_step.parts = []  # once more, by the family's own forward
    finally:
        torch.set_num_threads(before)


def test_chunked_attention_sees_one_chunk(tmp_path, monkeypatch):
    monkeypatch.setenv("JARVIS_CACHE", str(tmp_path / "cache"))
    config = Llama4TextConfig(
        **{**tiny.SHAPE, "num_hidden_layers": 4}, intermediate_size_mlp=48, moe_layers=[],
        attention_chunk_size=8,
        layer_types=["chunked_attention", "full_attention"] * 2, no_rope_layers=[1, 1, 1, 1],
    )  # fmt: skip
    torch.manual_seed(0)
    Llama4ForCausalLM(config).save_pretrained(tmp_path / "model")
    stage, whole = (Stage(tmp_path / "model", range(4), torch.float32, weights="int8") for _ in range(2))
    whole.model.config._attn_implementation = "sdpa"
    text = to_bytes(torch.randn(1, 30, stage.width, generator=torch.Generator().manual_seed(0)))
    one_by_one = in_pieces(stage, text, 1)
    assert in_pieces(stage, text, 30) == in_pieces(stage, text, 7) == one_by_one
    ours, theirs = (
        torch.frombuffer(bytearray(rows), dtype=torch.float32)
        for rows in (one_by_one, in_pieces(whole, text, 30))
    )
    assert torch.nn.functional.cosine_similarity(ours, theirs, 0) > 0.9999
