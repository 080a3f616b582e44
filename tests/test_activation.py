"""The hyperbolic tangent has torch's values and derivatives."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from warprl.activation import tanh


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_torchs_to_the_last_bits(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-12.0, 12.0, 10_001, dtype=dtype), torch.tensor([1e-30, 1e3])])
    found = tanh(x)
    assert found.dtype == x.dtype
    torch.testing.assert_close(found, torch.tanh(x), rtol=4 * torch.finfo(dtype).eps, atol=0.0)
    assert tanh(torch.zeros(3, dtype=dtype)).tolist() == [0.0] * 3, "or warps were no identity"


def test_a_value_does_not_depend_on_where_it_stands() -> None:
    # A task's bits would depend on its neighbours otherwise.
    x = torch.linspace(-3.0, 3.0, 257)
    whole = tanh(x)
    alone = torch.stack([tanh(value) for value in x])
    assert torch.equal(whole, alone)
    assert torch.equal(tanh(x[1:]), whole[1:])
    assert torch.equal(tanh(x[::2]), whole[::2])


def test_first_and_second_derivatives_are_those_of_the_value() -> None:
    x = torch.linspace(-2.0, 2.0, 7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(tanh, (x,))
    assert gradgradcheck(tanh, (x,))


def test_what_is_not_finite_stays_so() -> None:
    assert tanh(torch.tensor([torch.inf, -torch.inf])).tolist() == [1.0, -1.0]
    assert torch.isnan(tanh(torch.tensor([torch.nan]))).all()


def test_on_an_accelerator_the_value_stays_there() -> None:
    assert tanh(torch.zeros(3, device="meta")).device.type == "meta"
