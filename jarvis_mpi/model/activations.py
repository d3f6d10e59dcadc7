"""An activation as it travels: bytes, S rows of D numbers in the run's dtype."""

import torch
from torch import Tensor


def to_bytes(h: Tensor) -> bytes:  # [1, S, D] -> S rows
    return h.contiguous().view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16


def from_bytes(body: bytes | memoryview, width: int, dtype: torch.dtype) -> Tensor:  # S rows -> [1, S, D]
    return torch.frombuffer(bytearray(body), dtype=dtype).view(1, -1, width)
