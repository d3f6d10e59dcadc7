"""What it costs to bypass layers, as a skip study and a fit of patches have measured it; and what follows for
a run.

Nats a token of text over the whole model's, of greedy next-token prediction: e^loss is how many times less
likely the text becomes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..common.errors import Unservable
from ..common.layers import Block, Case, layers

TOO_MUCH = 1.0  # nats a token: e times less likely, where study/grading.py ends "functioning"


@dataclass(frozen=True)
class ExpectedLoss:
    """`skipped` of any layers, `patched` of holes with a patch."""

    skipped: Mapping[Case, float] = field(default_factory=dict)
    patched: Mapping[Block, float] = field(default_factory=dict)

    def sentence(self, block: Block, patch: Block | None) -> str:
        """What is expected of a hole; '' if nothing is known. `patch`: the one that is put over it."""
        nats = self.patched.get(patch) if patch else self.skipped.get(frozenset(block))
        together = f" together with {layers(patch)}" if patch and patch != block else ""
        return "" if nats is None else f"expected loss {max(nats, 0):.2f} nats a token{together}"

    def never_skip(self) -> frozenset[int]:
        """Layers that cost more than TOO_MUCH, each by itself.
        Raises Unservable where no single layer was measured."""
        singles = {min(case): cost for case, cost in self.skipped.items() if len(case) == 1}
        if not singles:
            raise Unservable("--never-skip auto needs a study of every single layer: say --study FILE")
        return frozenset(layer for layer, cost in singles.items() if cost > TOO_MUCH)

    def worst(self, blocks: Iterable[Block], count: int) -> list[Block]:
        """The `count` blocks whose loss costs most, patched where there is a patch.
        Raises Unservable where one is not known."""

        def cost(block: Block) -> float:
            nats = self.patched.get(block, self.skipped.get(frozenset(block)))
            if nats is None:
                raise Unservable(
                    f"what layers {layers(block)} are worth is not known: say --study FILE (with --cases "
                    f"blocks-{len(block)})"
                )
            return nats

        return sorted(blocks, key=cost, reverse=True)[:count]


NO_LOSS_KNOWN = ExpectedLoss()
