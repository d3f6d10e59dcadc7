"""Linear layers with 8-bit weights: half the bytes of bfloat16 to read for each token, a quarter of float32.

y = x W^T, W in int8 with a scale for each output channel (its largest weight is 127), by torch's dynamic int8 kernels (fbgemm on x86,
where they read at the memory's speed; qnnpack on Arm). Those give a message's activations 7 or 8 bits, by one scale: too coarse where a
few channels are a hundred times the others. Here each row has its own scale and goes through twice in one call, once its
whole steps and once what they leave: 13 to 15 bits, for one reading of the weights. The scale is fixed beforehand, so what comes
out of a row does not depend on the other rows of its message, bit for bit.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .pack import Reread, rows_a_part


def steps() -> int:
    """Of an activation, in each direction. The x86 kernels without VNNI add pairs of products in 16 bits: 7 bits then."""
    x86 = torch.backends.quantized.engine in ("x86", "fbgemm", "onednn")
    return 63 if x86 and not torch.cpu._is_vnni_supported() else 127


class Rows:
    """Of the last input that was quantised: query, key and value have the same, gate and up too."""

    def __init__(self) -> None:
        self.steps = steps()
        self.step = 2 / (2 * self.steps + 1)  # as the kernels reckon for a range from -1 to 1
        self.x = self.quantised = self.scales = torch.empty(0)

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[..., in] -> [2 S + 1, in]: whole steps, finer ones, and a row that sets the range to -1 to 1; scales [S, 1]."""
        if x is not self.x:
            rows = x.reshape(-1, x.shape[-1]).float()
            largest = rows.abs().amax(-1, keepdim=True).clamp_(min=1e-12)
            counted = rows * (self.steps / largest)
            whole = counted.round()
            finer = ((counted - whole) * (2 * self.steps)).round_()
            limits = rows.new_zeros(1, rows.shape[1])
            limits[0, 0], limits[0, 1] = -1 / self.step, 1 / self.step
            self.quantised = torch.cat([whole, finer, limits]).mul_(self.step)
            self.scales = largest / (self.steps * self.step)
            self.x = x
        return self.quantised, self.scales


class Int8Linear(nn.Module):
    """nn.Linear for inference: [..., in] -> [..., out]."""

    def __init__(self, rows: Rows, weight: Reread, shape: Sequence[int], bias: Tensor | None):
        super().__init__()
        self.rows, self.out = rows, shape[0]
        self.bias = None if bias is None else bias.float()
        self.parts = [quantise(weight()[part]) for part in slices(shape)]

    def forward(self, x: Tensor) -> Tensor:
        quantised, scales = self.rows.of(x)
        linear = torch.ops.quantized.linear_dynamic
        done = [linear(quantised, part, self.rows.steps < 127) for part in self.parts]
        whole, finer, _ = (done[0] if len(done) == 1 else torch.cat(done, -1)).split(
            [len(scales), len(scales), 1]
        )
        y = torch.add(whole, finer, alpha=1 / (2 * self.rows.steps)).mul_(scales)
        if self.bias is not None:
            y += self.bias
        return y.to(x.dtype).view(*x.shape[:-1], self.out)


def slices(shape: Sequence[int]) -> list[slice]:
    rows = rows_a_part(shape[1])
    return [slice(first, first + rows) for first in range(0, shape[0], rows)]


def quantise(weight: Tensor):
    """[out, in] -> the kernels' own form."""
    weight = weight.float()
    scales = (weight.abs().amax(1) / 127).clamp(min=1e-12).double()
    with warnings.catch_warnings():
        # That quantised tensors will go: torch is pinned, see constraints.txt.
        warnings.simplefilter("ignore")
        channels = torch.quantize_per_channel(
            weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
        )
    return torch.ops.quantized.linear_prepack(channels, None)
