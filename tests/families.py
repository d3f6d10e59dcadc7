"""All decoder families that the installed transformers can make: which are served, which refused, and why.

`python tests/families.py > docs/families.md` writes the table; test_families.py holds it against what is
found.
"""

import contextlib
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from jarvis_mpi.common.boundary import guarded
from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.model import trial, twin
from jarvis_mpi.model.family import context_of, quiet, read_config
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage

PIECE = 7  # rows of a prompt that are sent at a time
OTHER_SEED = 11  # than the trial's own
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64, "factor": 4.0,
    "short_factor": [1.0] * 64, "long_factor": [1.0 + k for k in range(64)],
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention"] * 16
SMALL = {
    "hidden_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 8,
    "intermediate_size": 512,
}


@dataclass(frozen=True)
class Variant:
    """A family, with what its default config does not say."""

    kind: str
    note: str = ""
    changes: dict[str, Any] = field(default_factory=dict, hash=False)


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **more}, "max_position_embeddings": 256}


VARIANTS = [
    Variant("llama", "rope linear", rope("linear", factor=4.0)),
    Variant("llama", "rope dynamic", rope("dynamic", factor=4.0)),
    Variant("llama", "rope yarn", rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    Variant("llama", "rope llama3", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                         original_max_position_embeddings=64)),
    Variant("llama", "rope longrope", {**SMALL, "rope_parameters": LONGROPE, "max_position_embeddings": 256}),
    Variant("phi3", "rope longrope", {**SMALL, "pad_token_id": 0, "rope_parameters": LONGROPE,
                                  "max_position_embeddings": 256, "original_max_position_embeddings": 64}),
    Variant("llama", "biases, untied", {"attention_bias": True, "mlp_bias": True}),
    Variant("llama", "tied", {"tie_word_embeddings": True}),
    Variant("llama", "one head of keys", {**SMALL, "num_key_value_heads": 1}),
    Variant("llama", "heads of 20 numbers", {**SMALL, "hidden_size": 80, "head_dim": 20}),
    Variant("llama", "heads wider than the model", {**SMALL, "hidden_size": 256, "head_dim": 128}),
    Variant("llama", "gelu", {"hidden_act": "gelu_new"}),
    Variant("mistral", "window", {"sliding_window": 64}),
    Variant("mistral", "no window", {"sliding_window": None}),
    Variant("ministral3", "yarn as shipped", {}),
    Variant("qwen2", "windows in upper layers", {"use_sliding_window": True, "sliding_window": 64,
                                                 "max_window_layers": 4}),
    Variant("qwen2", "windows in every second layer", {"use_sliding_window": True, "sliding_window": 64,
                                                       "num_hidden_layers": 32, "layer_types": MIXED}),
    Variant("qwen3", "windows in every second layer", {"use_sliding_window": True, "sliding_window": 64,
                                                       "num_hidden_layers": 32, "layer_types": MIXED}),
    Variant("phi", "norms of queries and keys", {"hidden_size": 2560, "qk_layernorm": True,
                                                 "partial_rotary_factor": 0.4}),
    Variant("phi3", "window", {"pad_token_id": 0, "sliding_window": 64}),
    Variant("gpt2", "attention scaled by the layer's number", {"scale_attn_by_inverse_layer_idx": True}),
    Variant("gpt2", "attention reordered and upcast", {"reorder_and_upcast_attn": True}),
    Variant("gpt_bigcode", "many heads of keys", {"multi_query": False}),
    Variant("gpt_neox", "one after the other", {"use_parallel_residual": False, "attention_bias": False}),
    Variant("falcon", "new decoder architecture", {"new_decoder_architecture": True, "num_kv_heads": 8,
                                                   "num_attention_heads": 32, "hidden_size": 2048}),
    Variant("falcon", "alibi", {"alibi": True}),
    Variant("falcon", "many heads of keys, one after the other", {"multi_query": False,
                                                                  "parallel_attn": False, "bias": True}),
    Variant("bloom", "with its length", {"seq_length": 2048}),
    Variant("mpt", "without alibi", {"attn_config": {"alibi": False}}),
    Variant("mpt", "norms of queries and keys", {"attn_config": {"qk_ln": True, "clip_qkv": 4.0}}),
    Variant("opt", "norm behind", {"do_layer_norm_before": False, "word_embed_proj_dim": 512,
                                   "hidden_size": 1024}),
    Variant("stablelm", "parallel, norms of queries and keys", {"use_parallel_residual": True,
                                                                "qk_layernorm": True, "use_qkv_bias": True}),
    Variant("cohere", "norms of queries and keys", {"use_qk_norm": True}),
    Variant("olmo", "clipped", {"clip_qkv": 0.5}),
    Variant("granite", "as shipped", {"embedding_multiplier": 12.0, "logits_scaling": 8.0,
                                      "residual_multiplier": 0.22, "attention_multiplier": 0.0078125}),
    Variant("gemma2", "capped", {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}),
    Variant("gemma3_text", "heads of 20 numbers", {**SMALL, "hidden_size": 80, "head_dim": 20,
                                                   "query_pre_attn_scalar": 20, "sliding_window": 64}),
    Variant("gemma2", "heads of 20 numbers, capped", {**SMALL, "hidden_size": 80, "head_dim": 20,
                                                   "query_pre_attn_scalar": 20, "sliding_window": 64,
                                                      "attn_logit_softcapping": 5.0}),
    Variant("smollm3", "windows where no RoPE is", {"use_sliding_window": True, "sliding_window": 64}),
    Variant("llama4_text", "chunks, no experts", {**SMALL, "intermediate_size_mlp": 512, "head_dim": 128,
                                                  "moe_layers": [], "attention_chunk_size": 64,
                                                  "num_local_experts": 1}),
    Variant("lfm2", "convolutions", {"full_attn_idxs": [2, 5, 8]}),
    Variant("starcoder2", "window", {"sliding_window": 64}),
    Variant("nemotron", "rope partial", {"partial_rotary_factor": 0.5}),
    Variant("apertus", "rope llama3", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                           original_max_position_embeddings=64)),
]  # fmt: skip


def all_families() -> list[Variant]:
    return [Variant(kind) for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)] + VARIANTS


def config_of(variant: Variant) -> Any:
    """The family's default config, with what its own code cannot do without."""
    with warnings.catch_warnings(), guarded(f"a config of kind {variant.kind!r} cannot be made"):
        warnings.simplefilter("ignore")
        config = AutoConfig.for_model(variant.kind, **variant.changes)
        heads = getattr(config, "num_attention_heads", 0)
        if heads and getattr(config, "head_dim", 0) is None:
            config.head_dim = config.hidden_size // heads
        return config


class Verdict(NamedTuple):
    word: str  # same, refused, wrong, traceback
    why: str = ""


def judged(variant: Variant, cache: Path) -> Verdict:
    """What becomes of a model of this config; where it is served, compared once more, with other weights and
    questions."""
    with tempfile.TemporaryDirectory() as name, environment(JARVIS_CACHE=str(cache)):
        folder = Path(name) / variant.kind
        try:
            with guarded(f"a config of kind {variant.kind!r} cannot be saved"):
                config_of(variant).save_pretrained(folder)
            trial.check(folder)
            off = farthest(read_config(folder), Path(name) / "twin")
            return Verdict("same") if off < trial.NEAR else Verdict("wrong", f"logits {off:.0e} apart")
        except Unservable as error:
            return Verdict("refused", str(error).replace(str(folder), "").strip())
        except Exception:
            return Verdict("traceback", traceback.format_exc().strip().splitlines()[-1])


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    with patch.dict("os.environ", variables):
        yield


def farthest(config: Any, folder: Path) -> float:
    """How far any logit is from what `generate` has for the same tokens."""
    with patch.object(twin, "SEED", OTHER_SEED):
        model = trial.twin_that_answers(config)
        trial.answers_of(model)  # leaves it with weights of the right strength
    asked = trial.questions(context_of(model.config))
    said = [generated(model, each, OTHER_SEED + seed) for seed, each in enumerate(asked)]
    model.save_pretrained(folder)
    head, depth = Head(folder, torch.float32), model.config.num_hidden_layers
    off = 0.0
    for count in (1, 2, depth):
        stages = [Stage(folder, block, torch.float32) for block in trial.blocks_of(depth, count)]
        for stage in stages:
            stage.check_against_family()
        off = max([off, *(trial.apart(in_pieces(head, stages, *each[:2]), each.logits) for each in said)])
    return off


@torch.inference_mode()
def generated(model: Any, asked: trial.TrialText, seed: int) -> trial.Reference:
    """The greedy answer of `generate` to random tokens, with its own cache."""
    among = torch.Generator().manual_seed(seed)
    prompt = torch.randint(3, model.config.vocab_size, (1, asked.prompt), generator=among)
    told = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=asked.answer,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    answer = told.sequences[0, asked.prompt :].tolist()
    return trial.Reference(prompt[0].tolist(), answer, torch.cat(told.logits).float())


def in_pieces(head: Head, stages: list[Stage], prompt: list[int], answer: list[int]) -> torch.Tensor:
    """As a run does it: a long prompt in pieces, then token by token."""
    logits, ids = [], prompt + answer[:-1]
    bounds = [*range(0, len(prompt), PIECE), *range(len(prompt), len(ids)), len(ids)]
    for start, end in pairwise(bounds):
        body = head.embed(ids[start:end], start)
        for stage in stages:
            body = stage.run(body, start)
        if end >= len(prompt):
            logits.append(head.logits(body))
    return torch.stack(logits)


def table(verdicts: dict[Variant, Verdict]) -> str:
    words = [verdict.word for verdict in verdicts.values()]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("same", "refused", "wrong", "traceback"))
    lines = [
        "# Which families are served",
        "",
        f"Every decoder family of transformers {transformers.__version__} (torch "
        f"{torch.__version__.partition('+')[0]}), made small from its default config, some",
        "with further settings, with random weights: the same greedy tokens as `generate`, "
        "and logits within 1e-4 of the largest in float32, in 1 stage,",
        "in 2 and in one for each layer, past windows, with the prompt at once and in pieces; "
        "or refused by name before any weight is read.",
        "`python tests/families.py > docs/families.md` writes this page.",
        "",
        f"**{counts}.**",
        "",
        "| family | with | | why |",
        "|---|---|---|---|",
    ]
    rows = [
        f"| {variant.kind} | {variant.note} | {verdict.word} | {verdict.why.replace('|', '/')} |"
        for variant, verdict in sorted(verdicts.items(), key=lambda each: (each[0].kind, each[0].note))
    ]
    return "\n".join([*lines, *rows])


if __name__ == "__main__":
    quiet()
    torch.set_num_threads(1)
    asked = [each for each in all_families() if not sys.argv[1:] or each.kind in sys.argv[1:]]
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for each in asked:
            found[each] = judged(each, Path(scratch))
            print(each.kind, each.note, *found[each], file=sys.stderr, flush=True)
    print(table(found))
