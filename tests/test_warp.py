"""Warp layers: the identity at the start, the printed formula everywhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import as_leaves, perturbed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from warprl.warp import WARP_KINDS, WarpKind, apply_warp, init_warp

each_kind = pytest.mark.parametrize("kind", WARP_KINDS)


@each_kind
@given(width=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), double=st.booleans())
def test_a_fresh_warp_is_the_identity_bit_for_bit(
    kind: WarpKind, width: int, seed: int, double: bool
) -> None:
    rng = np.random.default_rng(seed)
    dtype = torch.float64 if double else torch.float32
    params = {n: v.to(dtype) for n, v in init_warp(kind, width, rng).items()}
    x = torch.as_tensor(rng.normal(0.0, 3.0, (2, 4, width))).to(dtype)
    assert torch.equal(apply_warp(kind, params, x), x)


@each_kind
def test_a_fresh_warp_can_learn(kind: WarpKind) -> None:
    rng = np.random.default_rng(0)
    params = as_leaves(init_warp(kind, 3, rng))
    x = torch.as_tensor(rng.standard_normal((2, 4, 3), dtype=np.float32))
    loss = apply_warp(kind, params, x).square().sum()
    slopes = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    assert any(slope is not None and bool((slope != 0).any()) for slope in slopes)


def one(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_linear_by_hand() -> None:
    # (1, 2) [[1, 3], [5, 7]] + (10, 20) = (1 + 10, 3 + 14) + (10, 20)
    params = {"weight": torch.stack([one(1, 3), one(5, 7)]), "bias": one(10, 20)}
    assert apply_warp("linear", params, one(1, 2).reshape(1, 1, 2)).flatten().tolist() == [21, 37]


def test_residual_by_hand() -> None:
    # 2 + 5 tanh(3 * 2 - 5.5) + 7 = 9 + 5 tanh(1/2)
    params = {
        "weight_in": one(3).reshape(1, 1),
        "bias_in": one(-5.5),
        "weight_out": one(5).reshape(1, 1),
        "bias_out": one(7),
    }
    found = apply_warp("residual", params, one(2).reshape(1, 1, 1)).item()
    assert found == pytest.approx(9 + 5 * math.tanh(0.5), rel=1e-14)


def test_gate_by_hand() -> None:
    # 2 (1 + tanh(3 * 2 - 5.5)) = 2 (1 + tanh(1/2))
    params = {"weight": one(3).reshape(1, 1), "bias": one(-5.5)}
    found = apply_warp("gate", params, one(2).reshape(1, 1, 1)).item()
    assert found == pytest.approx(2 * (1 + math.tanh(0.5)), rel=1e-14)


@each_kind
def test_neighbours_in_a_stack_do_not_change_the_bits_of_a_task(kind: WarpKind) -> None:
    rng = np.random.default_rng(0)
    params = {n: v.float() for n, v in perturbed(init_warp(kind, 64, rng), rng, 0.3).items()}
    x = torch.as_tensor(rng.standard_normal((7, 50, 64), dtype=np.float32))
    together = apply_warp(kind, params, x)
    for t in range(len(x)):
        assert torch.equal(apply_warp(kind, params, x[t : t + 1])[0], together[t])


@each_kind
def test_equal_generators_give_equal_warps(kind: WarpKind) -> None:
    first, second = (init_warp(kind, 5, np.random.default_rng(3)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
