"""Fit a patch (model/patch.py): ridge least squares in each channel's own units, then, where that is not
enough, distillation.

The closed form is that of ReplaceMe (arXiv:2505.02819), y ~ x + x D, but on z = (x - mean) / std: a ridge
then weighs on all channels alike, and a few huge ones do not decide alone. Distillation moves the same
numbers towards the whole model's next-token probabilities (Kullback-Leibler, on the teacher's likely tokens),
with everything else frozen.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..model.patch import Patch
from .whole_model import ROWS, Whole

RIDGE = 0.03  # of a channel's variance
LIKELY = 16  # likely tokens of the teacher at each position: a step's loss is over those of all its positions
AT_ONCE = 2  # windows a step of distillation


@dataclass
class Sums:
    """Sums of states, streamed over calibration text, of all positions but the first of each window.

    The first is the attention sink of every later position, and unlike all others: a patch has its own shift
    for it.
    """

    x: dict[int, Tensor] = field(default_factory=dict)  # boundary -> [D]
    xx: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # two boundaries -> [D, D]
    first: dict[int, Tensor] = field(default_factory=dict)  # boundary -> [D], of the windows' first positions
    count: int = 0
    windows: int = 0

    def add(self, states: dict[int, Tensor], pairs: Iterable[tuple[int, int]]) -> None:
        """Add states [W, S, D] by their boundary, and the products of the `pairs` of boundaries."""
        rows = {at: h[:, 1:].flatten(0, 1).double() for at, h in states.items()}
        for at, h in rows.items():
            self.x[at] = self.x.get(at, 0) + h.sum(0)
            self.first[at] = self.first.get(at, 0) + states[at][:, 0].double().sum(0)
        for a, b in pairs:
            self.xx[a, b] = self.xx.get((a, b), 0) + rows[a].T @ rows[b]
        any_ = next(iter(states.values()))
        self.count += any_.shape[0] * (any_.shape[1] - 1)
        self.windows += any_.shape[0]


class Units(NamedTuple):
    """The units of a hole's channels, [D] each: of its input, and of what it adds."""

    mean: Tensor
    std: Tensor
    added_mean: Tensor
    added_std: Tensor
    added_first: Tensor  # at a text's first position


class Fit(NamedTuple):
    """A patch in these units: added = (bias + z down [up]) * added_std."""

    down: Tensor
    up: Tensor | None
    bias: Tensor

    def scaled(self, by: float) -> "Fit":
        return Fit(by * self.down, self.up, by * self.bias)

    def patch(self, units: Units, by: float = 1.0) -> Patch:
        down = self.down / units.std[:, None]
        up = self.up
        if up is None:
            down = down * units.added_std
        else:
            up = up * units.added_std
        half = torch.bfloat16  # as the file holds it, so that the measured patch is the used one
        return Patch(
            down.to(half).to(down.dtype), None if up is None else up.to(half).to(down.dtype),
            self.bias * units.added_std,
            units.mean, by * units.added_first,
        )  # fmt: skip


def least_squares(sums: Sums, a: int, b: int, rank: int = 0) -> tuple[Units, Fit]:
    """Fit the hole between boundaries a and b in closed form; `rank` 0: full (else reduced-rank
    regression)."""
    n = sums.count
    mean, after = sums.x[a] / n, sums.x[b] / n
    added = after - mean
    covariance = sums.xx[a, a] / n - mean.outer(mean)
    crossed = sums.xx[a, b] / n - mean.outer(after) - covariance
    variance = (
        (sums.xx[b, b] / n - after.outer(after)).diagonal() - covariance.diagonal() - 2 * crossed.diagonal()
    )
    std, added_std = (each.clamp(min=1e-12).sqrt() for each in (covariance.diagonal(), variance))
    gram = covariance / std.outer(std) + RIDGE * torch.eye(len(mean), dtype=torch.double)
    down = torch.linalg.solve(gram, crossed / std.outer(added_std))
    up = None
    if rank:
        root = torch.linalg.cholesky(gram)
        _, _, directions = torch.linalg.svd(root.T @ down, full_matrices=False)
        up = directions[:rank].float()
        down = down @ directions[:rank].T
    units = Units(mean, std, added, added_std, (sums.first[b] - sums.first[a]) / sums.windows)
    return (
        Units(*(each.float() for each in units)),
        Fit(down.float(), up, (added / added_std).float()),
    )


def gain(sums: Sums, a: int, b: int) -> Patch:
    """Fit a gain and a shift a channel, to compare with."""
    units, full = least_squares(sums, a, b)
    n, mean, after = sums.count, sums.x[a] / sums.count, sums.x[b] / sums.count
    covariance = sums.xx[a, a].diagonal() / n - mean * mean
    crossed = sums.xx[a, b].diagonal() / n - mean * after - covariance
    down = (crossed / covariance.clamp(min=1e-12)).float() * units.std / units.added_std
    return Fit(torch.diag(down), None, full.bias).patch(units)


class PatchLesson(NamedTuple):
    """Windows for distillation."""

    x: Tensor  # [W, S, D] before the hole
    final: Tensor  # [W, S, D] the teacher's, before the output layer
    likely: Tensor  # [W, S, LIKELY] its likely tokens


def likely(whole: Whole, final: Tensor) -> Tensor:
    with torch.no_grad():
        tokens = [whole.logits(rows).topk(LIKELY).indices for rows in final.flatten(0, 1).split(ROWS)]
    return torch.cat(tokens).view(*final.shape[:2], LIKELY)


def train(
    whole: Whole, lesson: PatchLesson, units: Units, start: Fit, b: int, steps: int, rate: float,
    each: Callable[[int, Fit], None],
) -> None:  # fmt: skip
    """Distil with Adam from `start`; `each(step, fit)` is called after every step.
    `b`: the boundary behind the hole."""
    learned = [part.clone().requires_grad_() for part in start if part is not None]
    adam = torch.optim.Adam(learned, betas=(0.9, 0.98))
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 5) * (1 - step / steps)
        pick = torch.arange(step * AT_ONCE, (step + 1) * AT_ONCE) % len(lesson.x)
        tokens = torch.unique(lesson.likely[pick])
        x = lesson.x[pick]
        down, *up, bias = learned
        moved = (x - units.mean) / units.std @ down
        y = x + (bias + (moved @ up[0] if up else moved)) * units.added_std
        y = torch.cat([x[:, :1] + units.added_first, y[:, 1:]], 1)
        ours = whole.behind(b, y)[:, 1:].flatten(0, 1)
        theirs = lesson.final[pick][:, 1:].flatten(0, 1)
        loss = nn.functional.kl_div(
            torch.log_softmax(whole.logits(ours, tokens), -1),
            torch.log_softmax(whole.logits(theirs, tokens), -1),
            log_target=True,
            reduction="batchmean",
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
        now = [part.detach().clone() for part in learned]
        each(step + 1, Fit(now[0], now[1] if up else None, now[-1]))
