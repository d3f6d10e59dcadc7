"""Products of rows and weights: the right numbers, and the same, bit for bit, for any number of rows and of
threads."""

import pytest
import torch
from torch import nn

from jarvis_mpi.nn.linear import ROWS_AT_ONCE, FloatLinear

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "columns"), [(192, 576), (29, 100), (3, 5)])
def test_a_layer_gives_what_torch_gives(stored, dtype, outputs, columns, threads):
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, columns).to(stored), torch.randn(outputs).to(stored)
    x = torch.randn(1, 9, columns).to(dtype)
    result = FloatLinear(weight, bias)(x)
    exact = nn.functional.linear(x.double(), weight.double(), bias.double())
    assert result.dtype == dtype
    assert result.shape == exact.shape
    assert torch.allclose(result.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)


@pytest.mark.parametrize("stored", DTYPES)
def test_what_a_row_gives_does_not_depend_on_the_others_bit_for_bit(stored):
    torch.manual_seed(0)
    made = FloatLinear(torch.randn(61, 72).to(stored), None)
    x = torch.randn(1, 2 * ROWS_AT_ONCE + 3, 72)
    together = made(x)
    assert torch.equal(torch.cat([made(row) for row in x.split(1, 1)], 1), together)
    for rows in range(1, x.shape[1]):
        assert torch.equal(made(x[:, :rows]), together[:, :rows])


def test_rows_that_are_not_side_by_side_in_memory():
    made = FloatLinear(torch.randn(16, 24), None)
    x = torch.randn(4, 48)
    assert torch.equal(made(x[:, ::2]), made(x[:, ::2].contiguous()))
