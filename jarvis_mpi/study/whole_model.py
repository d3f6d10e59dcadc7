"""Run the whole model in one process, with any layers left out."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ..model.family import decoder_layers, hidden_of
from ..model.head import logits

ROWS = 128  # logits at a time


class Through(nn.Module):
    """Stands in the place of a layer that is not run; the last of them returns what enters the model
    there."""

    def __init__(self, layer: nn.Module, entering: Tensor | None = None):
        super().__init__()
        # Some families ask each layer which mask it wants.
        self.attention_type = getattr(layer, "attention_type", None)
        self.entering = entering

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        return hidden_states if self.entering is None else self.entering


def read(folder: Path, dtype: torch.dtype) -> Any:
    """Load a whole model, frozen."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)


class Whole:
    """A whole model, frozen, that can be entered before any layer, and returns its intermediate states."""

    def __init__(self, folder: Path, dtype: torch.dtype):
        self.model = read(folder, dtype)
        _, self.layers = decoder_layers(self.model)
        self.real = list(self.layers)
        self.depth, self.width = len(self.real), self.model.config.hidden_size

    def states(self, ids: Tensor, at: Iterable[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Run ids [W, S]; return the states before each layer of `at` (the depth: behind the last), and
        before the output layer, [W, S, D]."""
        seen: dict[int, Tensor] = {}

        def before(layer: int) -> Callable[..., None]:
            return lambda _, args, kwargs: seen.__setitem__(
                layer, args[0] if args else kwargs["hidden_states"]
            )

        def behind(_layer: nn.Module, _args: Any, out: Any) -> None:
            seen[self.depth] = hidden_of(out)

        hooks = [self.real[-1].register_forward_hook(behind)]
        hooks += [
            self.real[layer].register_forward_pre_hook(before(layer), with_kwargs=True)
            for layer in at
            if layer < self.depth
        ]
        with torch.no_grad():
            final = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        for hook in hooks:
            hook.remove()
        return {layer: seen[layer] for layer in at}, final

    def behind(self, layer: int, h: Tensor) -> Tensor:
        """Run states that enter before `layer`; return those before the output layer, both [W, S, D]; with
        gradients if `h` has any."""
        try:
            for skipped in range(layer):
                entering = h if skipped == layer - 1 else None
                self.layers[skipped] = Through(self.real[skipped], entering)
            nothing = h.new_zeros(*h.shape[:2], self.model.get_input_embeddings().embedding_dim)
            return self.model.base_model(inputs_embeds=nothing, use_cache=False).last_hidden_state
        finally:
            for skipped in range(layer):
                self.layers[skipped] = self.real[skipped]

    def logits(self, rows: Tensor, tokens: Tensor | None = None) -> Tensor:
        return logits(self.model, rows, tokens)

    @torch.no_grad()
    def nats(self, final: Tensor, ids: Tensor) -> float:
        """Return the mean of -log p of each window's tokens after the first."""
        rows, wanted = final[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        parts = zip(rows.split(ROWS), wanted.split(ROWS), strict=True)
        return sum(
            nn.functional.cross_entropy(self.logits(part).float(), of_it, reduction="sum").item()
            for part, of_it in parts
        ) / len(wanted)
