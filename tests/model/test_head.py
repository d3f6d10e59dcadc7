"""The end user's part of the model: past the family's forward where that gives the same bits, through it
elsewhere."""

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from jarvis_mpi.model.activations import from_bytes, to_bytes
from jarvis_mpi.model.head import Head

POSITIONS = {"gpt2", "opt"}  # embedded, each in its place
FURTHER = {"opt"}  # something between the norm and the output layer


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_by_the_shorter_way(family, dtype, tmp_path):
    head = Head(tiny.make(family, tmp_path / "model"), dtype)
    assert (head.factor is None) == (family in POSITIONS)
    assert (head.norm is None) == (family in FURTHER)
    ids = list(range(0, 97, 7))
    with torch.inference_mode():
        for start in (0, 50):
            rows = from_bytes(head.embed(ids, start), head.width, dtype)
            assert torch.equal(rows, head.through_gap(ids, start))
        h = torch.randn(1, 9, head.width, generator=torch.Generator().manual_seed(1)).to(dtype)
        wanted = head.around_gap(h)[0].float()
    assert torch.equal(head.rows_logits(to_bytes(h), 0, None), wanted)
    assert torch.equal(head.logits(to_bytes(h)), wanted[-1])


def test_a_family_that_scales_the_logits(tmp_path):
    folder = tiny.make("gemma2", tmp_path / "model", final_logit_softcapping=5.0)
    head = Head(folder, torch.float32)
    assert head.norm is not None
    h = torch.randn(1, 3, head.width) * 10
    assert head.rows_logits(to_bytes(h), 0, None).abs().max() < 5.0


@pytest.mark.parametrize("zeros", [range(3, 5), range(97)])
def test_rows_of_zeros_tell_no_factor(zeros, tmp_path):
    """As of tokens that nobody uses: any factor fits them."""
    folder = tiny.make("gemma", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][list(zeros)] = 0
    save_file(tensors, folder / "model.safetensors")
    head = Head(folder, torch.float32)
    ids = list(range(97))
    with torch.inference_mode():
        rows = from_bytes(head.embed(ids, 0), head.width, torch.float32)
        assert torch.equal(rows, head.through_gap(ids, 0))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_vocabulary_of_few_tokens(size, tmp_path):
    head = Head(tiny.make("llama", tmp_path / "model", vocab_size=size), torch.float32)
    ids = [0, size - 1]
    with torch.inference_mode():
        rows = from_bytes(head.embed(ids, 0), head.width, torch.float32)
        assert torch.equal(rows, head.through_gap(ids, 0))
