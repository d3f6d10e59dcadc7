"""Damaged GGUF files: transformers' model of the same file, or a sentence."""

import random
import shutil
import warnings

import ggufs
import pytest
import torch
from mutations import mutate
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import gguf, gguf_header
from jarvis_mpi.model.family import quiet
from jarvis_mpi.model.tokenizer import Text, end_ids

pytestmark = pytest.mark.slow

IDS = torch.tensor([[65, 17, 3, 142, 9, 31]])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    for family in ("llama", "qwen3", "gemma3_text", "phi3"):
        ggufs.write(folder / f"{family}.gguf", family, num_hidden_layers=2, **ggufs.plain(family))
    whole = [folder / f"{family}.gguf" for family in ("llama", "qwen3", "gemma3_text", "phi3")]
    return [(path.read_bytes(), gguf_header.read(path).data_at) for path in whole]


# Keys that transformers does not read of such files (test_gguf.py compares them with the models that they
# were made of).
OURS = (
    "head_dim",
    "query_pre_attn_scalar",
    "sliding_window",
    "pad_token_id",
    "rope_parameters",
    "rms_norm_eps",
)


@torch.inference_mode()
def logits(folder, **more) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **more).float()(IDS).logits


def theirs(folder, source: str, made) -> torch.Tensor:
    config, ours = AutoConfig.from_pretrained(folder, gguf_file=source), AutoConfig.from_pretrained(made)
    for name in OURS:
        if hasattr(ours, name):
            setattr(config, name, getattr(ours, name))
    return logits(folder, gguf_file=source, config=config, quantization_config=GgufConfig(dequantize=True))


def test_headers(files, tmp_path):
    def one(number):
        quiet()
        warnings.simplefilter("ignore")
        draw = random.Random(number)
        good, header = draw.choice(files)
        source, made = tmp_path / f"{number}.gguf", tmp_path / str(number)
        # Half of them where the numbers are, past the long list of tokens.
        within = header if draw.random() < 0.5 else 600
        source.write_bytes(mutate.damaged(draw, good, within))
        made.mkdir()
        try:
            gguf.main(str(source), str(made))
            Text(made)
            end_ids(made)
        except Unservable as error:
            sentence = str(error)
        else:
            ours, other = logits(made), theirs(tmp_path, source.name, made)
            assert ours.allclose(other, atol=1e-3, rtol=1e-3), f"{float((ours - other).abs().max())} off"
            sentence = "the same"
        assert sentence.strip()
        assert "\n" not in sentence
        shutil.rmtree(made)
        source.unlink()

    mutate.survives(mutate.numbers(mutate.MANY // 2 if mutate.MANY < 1000 else mutate.MANY), one)
