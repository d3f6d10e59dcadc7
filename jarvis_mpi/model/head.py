"""The model without its decoder layers: embedding, final norm, output layer. The end user runs it.

Shapes: S rows (positions) in this message, D hidden size, V vocabulary; a batch is always 1.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ..common.boundary import guarded, of_model
from ..common.errors import Unservable
from ..nn.batch_invariant import is_rotary
from ..nn.norm import BatchInvariantNorm
from ..nn.quantisation import OUTPUT_LAYER
from .activations import from_bytes, to_bytes
from .family import context_of, cut_config, decoder_layers, load_config
from .fast_step import positions
from .not_a_number import Wanted, refuse_unsound
from .weights import AS_THEY_ARE, Rename, empty_parameters, fill

TRIED = range(3, 5)  # tokens, and as many rows
MOST_ZEROS = 256  # rows of tokens that are looked at for some that are not zero


class Head:
    """The family's own forward around a gap where the layers were.
    Where a shortcut gives the same bits it is taken: that forward takes as long as reading a tenth of a small
    model's weights."""

    @of_model
    def __init__(self, folder: Path, dtype: torch.dtype, weights: str = AS_THEY_ARE):
        with empty_parameters():
            self.model = AutoModelForCausalLM.from_config(
                cut_config(load_config(folder), range(1)), dtype=dtype
            )
        name, layers = decoder_layers(self.model)
        self.gap = layers[0] = Gap()
        rename: Rename = lambda tensor: None if f"{name}." in tensor else tensor  # noqa: E731
        for table in [name for name, module in self.model.named_modules() if is_rotary(module)]:
            self.model.set_submodule(table, Nothing(self.model.config))
        used = fill(self.model, folder, rename, dtype, OUTPUT_LAYER.get(weights, weights))
        self.width, self.dtype = self.model.config.hidden_size, dtype
        self.table = self.model.get_input_embeddings().weight
        self.choose_gap()
        # Both calls read the weights in, so that the first token does not wait for the disk.
        self.factor = self.embedding_factor()
        self.norm = self.final_norm()
        # A bias of the output layer may rule tokens out with -inf.
        own: Wanted = lambda name: name in used and not name.endswith("lm_head.bias")  # noqa: E731
        refuse_unsound(folder, "the embedding or the output layer", own)

    @torch.inference_mode()
    def choose_gap(self) -> None:
        """Find whether the forward takes a layer's output as a tensor or as a tuple that begins with it."""
        rows = len(TRIED)
        for self.gap.gives_tuple in (False, True):
            with (
                contextlib.suppress(Unservable),
                guarded(f"a model of kind {self.model.config.model_type!r} cannot be cut"),
            ):
                result = self.around_gap(torch.zeros(1, rows, self.width, dtype=self.dtype))
                if result.shape[:2] == (1, rows):
                    return
        raise Unservable(
            f"a model of kind {self.model.config.model_type!r} cannot be cut: its forward does more with a "
            "layer's output than hand it on"
        )

    @torch.inference_mode()
    def embedding_factor(self) -> Tensor | None:
        """Return the factor from a token's row of the table to the first layer's input, at any position; None
        where there is no such factor."""
        tokens = self.telling_tokens()
        tables = [module for module in self.model.base_model.modules() if isinstance(module, nn.Embedding)]
        if len(tokens) < len(TRIED) or len(tables) > 1:
            return None
        last = context_of(self.model.config) - len(tokens)
        given = [self.through_gap(tokens, start) for start in (0, last)]
        roots = torch.tensor([1.0, self.width**0.5], dtype=self.dtype)
        fitting = (root for root in roots if all(same(self.table[tokens] * root, rows[0]) for rows in given))
        return next(fitting, None)

    def telling_tokens(self) -> list[int]:
        """Return the first tokens whose rows are not zero, from TRIED on: any factor fits zeros, of tokens
        that nobody uses."""
        rows = self.table[TRIED.start : TRIED.start + MOST_ZEROS]
        return [TRIED.start + at for at in rows.any(-1).nonzero().flatten().tolist()[: len(TRIED)]]

    @torch.inference_mode()
    def final_norm(self) -> nn.Module | None:
        """Return the norm that only the output layer follows; None where the family does more."""
        h = torch.randn(1, len(TRIED), self.width, generator=torch.Generator().manual_seed(0)).to(self.dtype)
        norms = [
            module
            for module in self.model.base_model.children()
            if isinstance(module, (BatchInvariantNorm, nn.LayerNorm))
        ]
        given = self.around_gap(h)
        return next((norm for norm in norms if same(logits(self.model, norm(h)), given)), None)

    @torch.inference_mode()
    def embed(self, ids: Sequence[int], start: int) -> bytes:
        """Embed token ids at positions start, start + 1, ... -> S rows."""
        if self.factor is None:
            return to_bytes(self.through_gap(ids, start))
        return to_bytes(self.table[list(ids)] * self.factor)

    def through_gap(self, ids: Sequence[int], start: int) -> Tensor:  # -> [1, S, D]
        self.gap.answer = None
        tokens = torch.tensor([list(ids)])
        self.model.base_model(input_ids=tokens, position_ids=positions(start, len(ids)), use_cache=False)
        return self.gap.seen

    def logits(self, body: bytes | memoryview) -> Tensor:
        """Return the logits of the last of S rows, [V], in float32."""
        return self.rows_logits(body, -1, None)[0]

    @torch.inference_mode()
    def rows_logits(self, body: bytes | memoryview, first: int, end: int | None) -> Tensor:
        """Return the logits of the rows from `first` to before `end`, [R, V], in float32."""
        h = from_bytes(body, self.width, self.dtype)[:, first:end]
        result = self.around_gap(h) if self.norm is None else logits(self.model, self.norm(h))
        return result[0].float()

    def around_gap(self, h: Tensor) -> Tensor:  # [1, R, D] -> [1, R, V]
        self.gap.answer = h
        nothing = h.new_zeros(1, h.shape[1], self.model.get_input_embeddings().embedding_dim)
        return self.model(
            inputs_embeds=nothing, position_ids=positions(0, h.shape[1]), use_cache=False
        ).logits


def logits(model: Any, rows: Tensor, tokens: Tensor | None = None) -> Tensor:
    """Return the logits of rows behind the final norm: [..., D] -> [..., V], or those of `tokens`."""
    output = model.get_output_embeddings()
    values = output(rows) if tokens is None else rows @ output.weight[tokens].T
    scale = getattr(model.config, "logits_scaling", None) or 1.0
    cap = getattr(model.config, "final_logit_softcapping", None)
    return cap * torch.tanh(values / scale / cap) if cap else values / scale


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


class Gap(nn.Module):
    """Stands in the place of the decoder layers: stores its input, returns `answer` if there is one."""

    seen: Tensor
    answer: Tensor | None = None
    gives_tuple = False

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> Tensor | tuple[Tensor]:
        self.seen = hidden_states
        result = hidden_states if self.answer is None else self.answer
        return (result,) if self.gives_tuple else result


class Nothing(nn.Module):
    """Stands in the place of rotary tables, which no layer needs."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    def forward(self, *args, **kwargs) -> None:
        pass
