"""A model cut in pieces gives the whole model's answer: every family, every cut, past every window."""

import json

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import Deaf, chain
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.llama import LlamaConfig

from jarvis_mpi.common.errors import Unservable
from jarvis_mpi.common.layers import named
from jarvis_mpi.model.activations import to_bytes
from jarvis_mpi.model.family import load_config
from jarvis_mpi.model.head import Head
from jarvis_mpi.model.stage import Stage
from jarvis_mpi.nn.kv_cache import new_cache
from jarvis_mpi.protocol import placement as blocks

pytestmark = pytest.mark.slow

PROMPT = list(range(3, 22))  # longer than the windows of tiny.WINDOW
TOKENS = 24


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def folder(request, tmp_path_factory):
    return tiny.make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def whole(folder):
    """Return the whole model's greedy answer, computed without any cache: ids, and the logits of each
    step."""
    return answer_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


@torch.inference_mode()
def answer_of(model) -> tuple[list[int], list[torch.Tensor]]:
    ids, logits = list(PROMPT), []
    for _ in range(TOKENS):
        logits.append(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1])
        ids.append(int(logits[-1].argmax()))
    return ids[len(PROMPT) :], logits


def ask(folder, placement, dtype=torch.float32, prefill_rows=128):
    seen = []

    def choose(logits, text, sequence):
        seen.append(logits)
        return int(logits.argmax())

    stages = {
        node: {block: Stage(folder, block, dtype) for block in held} for node, held in placement.items()
    }
    with chain(Head(folder, dtype), stages, choose, prefill_rows=prefill_rows) as coordinator:
        return [token.id for token in coordinator.generate(PROMPT, TOKENS, set())], seen


@pytest.mark.parametrize("workers", [1, 2, 3, tiny.LAYERS])
def test_any_number_of_stages_gives_the_whole_models_tokens_and_logits(folder, whole, workers):
    placement = blocks.place(tiny.LAYERS, workers, split="even", end_user_layers="none")
    tokens, logits = ask(folder, placement)
    assert tokens == whole[0]
    assert len(set(tokens)) > 3  # a repeated token would hide errors
    assert max((a - b).abs().max() for a, b in zip(logits, whole[1], strict=True)) < 1e-4


def test_the_end_user_may_keep_layers_and_the_prompt_may_come_in_pieces(folder, whole):
    placement = blocks.place(tiny.LAYERS, 2, split="1,3", end_user_layers="first,last")
    assert ask(folder, placement, prefill_rows=7)[0] == whole[0]


def test_a_copy_takes_over_in_the_middle_of_the_text(folder, whole):
    """Node 2 falls silent; node 1 catches up on its layers in one pass, past every window."""
    placement = blocks.place(tiny.LAYERS, 3, split="even", end_user_layers="first,last")
    taken = placement[2][0]
    held = {node: list(own) for node, own in placement.items()}
    held[1].append(taken)
    stages = {
        node: {
            block: Stage(folder, block, torch.float32, asleep=node == 1 and block == taken) for block in mine
        }
        for node, mine in held.items()
    }
    announced = Announced()
    with chain(
        Head(folder, torch.float32),
        stages,
        lambda logits, text, sequence: int(logits.argmax()),
        observer=announced,
        copies={taken: (1,)},
        fault="mute 2 @ 12",
    ) as coordinator:
        tokens = [token.id for token in coordinator.generate(PROMPT, TOKENS, set())]
    assert tokens == whole[0]
    assert announced.lines == [f"node 2 silent at step 12: {named(taken)} from the copy on node 1"]


class Announced(Deaf):
    def __init__(self):
        self.lines = []

    def change(self, at_s, change):
        self.lines.append(str(change))


def test_dropping_any_layer_changes_the_text(folder, whole):
    for dropped in range(tiny.LAYERS):
        placement = {0: (), 1: tuple(range(i, i + 1) for i in range(tiny.LAYERS) if i != dropped)}
        assert ask(folder, placement)[0] != whole[0], f"layer {dropped} does not matter in this tiny model"


def test_every_family_takes_the_fast_step_and_agrees_with_the_familys_forward(folder):
    stage = Stage(folder, range(1, 5), torch.float32)
    assert stage.fast_step.possible
    counts = [1] * 2 * tiny.WINDOW + [3, 5, 1, tiny.WINDOW + 2, 2]
    starts = [sum(counts[:step]) for step in range(len(counts))]
    steps = [to_bytes(torch.randn(1, count, stage.width)) for count in counts]
    ours = [stage.run(step, start) for start, step in zip(starts, steps, strict=True)]
    stage.fast_step.possible, stage.fast_step.parts = False, []
    for got_bytes, start, step in zip(ours, starts, steps, strict=True):
        got, expected = (
            torch.frombuffer(bytearray(b), dtype=torch.float32) for b in (got_bytes, stage.run(step, start))
        )
        assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_stage_holds_the_blocks_layers_and_no_embedding(folder):
    stage = Stage(folder, range(2, 4), torch.float32)
    assert len(stage.layers) == 2
    assert stage.model.get_input_embeddings().weight.numel() <= stage.width
    assert not any(parameter.is_meta for parameter in stage.model.parameters())


def test_a_stage_refuses_a_step_out_of_order(folder):
    stage = Stage(folder, range(0, 2), torch.float32)
    row = to_bytes(torch.zeros(1, 1, stage.width))
    stage.run(row, 0)
    with pytest.raises(AssertionError, match="1 positions cached, 3 expected"):
        stage.run(row, 3)


def test_sequences_do_not_see_each_other(folder):
    stage = Stage(folder, range(0, 3), torch.float32)
    one, other = (to_bytes(torch.randn(1, 5, stage.width)) for _ in range(2))
    alone = stage.run(one, 0, sequence=1)
    stage.run(other, 0, sequence=2)
    again = stage.run(one, 0, sequence=3)
    assert alone == again
    stage.forget(1)
    assert set(stage.caches) == {2, 3}


def test_bfloat16_is_as_near_to_float32_as_transformers_is(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokens, logits = ask(folder, {0: (), 1: (range(0, tiny.LAYERS),)}, dtype=torch.bfloat16)
    ids, answered = torch.tensor([PROMPT + tokens[:-1]]), slice(len(PROMPT) - 1, None)
    with torch.inference_mode():
        theirs = model(input_ids=ids).logits[0, answered].float()
        exact = model.float()(input_ids=ids).logits[0, answered]
    ours = torch.stack(list(logits))  # the prompt's many rows, then single ones
    assert (ours - exact).norm() < 2 * (theirs - exact).norm()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.sampled_from([None, 4, 100]))
def test_a_growing_cache_holds_what_transformers_cache_holds(chunks, window):
    kind = "sliding_attention" if window else "full_attention"
    config = LlamaConfig(num_hidden_layers=1, sliding_window=window, layer_types=[kind])
    ours, theirs = new_cache(config), DynamicCache(config=config)
    assert type(ours.layers[0]) is not type(theirs.layers[0])
    for rows in chunks:
        assert ours.layers[0].get_mask_sizes(rows) == theirs.layers[0].get_mask_sizes(rows)
        new = torch.randn(2, 1, 2, rows, 3)
        for a, b in zip(ours.update(*new, 0), theirs.update(*new, 0), strict=True):
            assert torch.equal(a, b)
        assert ours.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "t5"}, "which generates no text|an encoder"),
        ({"num_kv_shared_layers": 2}, "layers that share keys and values"),
        ({"hidden_size_per_layer_input": 256}, "an input of its own to each layer"),
        ({"vision_config": {"hidden_size": 8}}, "an encoder for pictures"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights"),
        ({"model_type": "no-such-family"}, "cannot be used"),
    ],
)
def test_what_a_cut_cannot_honour_is_refused_by_name(tmp_path, change, sentence):
    tiny.make("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(Unservable, match=sentence):
        load_config(tmp_path)


def test_a_missing_tensor_and_one_of_the_wrong_shape_are_named(tmp_path):
    tiny.make("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(Unservable, match=r"mlp.* has the shape \[.*48.*\] .* asks for \[.*64.*\]"):
        Stage(tmp_path, range(0, 1), torch.float32)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    with pytest.raises(Unservable, match="asks for 7 layers, its files have 6"):
        Stage(tmp_path, range(6, 7), torch.float32)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    left = {name: tensor for name, tensor in tensors.items() if "layers.2.mlp" not in name}
    save_file(left, tmp_path / "model.safetensors")
    with pytest.raises(Unservable, match=r"has no weights for layers\.2\.mlp.* and 2 more"):
        Stage(tmp_path, range(2, 3), torch.float32)


@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_a_tied_matrix_may_stand_under_the_heads_name(tmp_path, weights):
    folder = tiny.make("llama", tmp_path, tie_word_embeddings=True, **tiny.WHOLE_BLOCKS)
    before = head_says(folder, weights)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors")
    assert torch.equal(head_says(folder, weights), before)


def test_two_matrices_that_differ_are_not_tied_whatever_the_config_says(tmp_path):
    folder = tiny.make("llama", tmp_path, tie_word_embeddings=False)
    before = head_says(folder, "auto")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert torch.equal(head_says(folder, "auto"), before)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)  # as transformers has it


def head_says(folder, weights):
    head = Head(folder, torch.float32, weights)
    return head.rows_logits(head.embed(PROMPT, 0), 0, None)
