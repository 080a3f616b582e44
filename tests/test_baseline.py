"""The linear feature baseline against hand-worked numbers and a second least-squares solver."""

from __future__ import annotations

import naive
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warprl.agents.baseline import features, fit_predict


def test_features_by_hand() -> None:
    # t = 0 and t = 1; 12 is clipped to 10 before it is squared.
    found = features(torch.tensor([[1.0, 2.0], [12.0, -3.0]]))
    assert found.dtype == torch.float64
    expected = [
        [1.0, 2.0, 1.0, 4.0, 0.0, 0.0, 0.0, 1.0],
        [10.0, -3.0, 100.0, 9.0, 0.01, 1e-4, 1e-6, 1.0],
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_fit_by_hand() -> None:
    # One step of two episodes at the origin: only the constant feature is not zero, and
    # w = (1 + 3) / (1 + 1 + 1e-5) = 4 / 2.00001 = 1.999990000049...
    value = fit_predict(torch.zeros(2, 1, 1), torch.tensor([[1.0], [3.0]]), torch.ones(2, 1))
    assert value.flatten().tolist() == pytest.approx([1.99999000005, 1.99999000005], abs=1e-11)


def test_fit_by_hand_with_two_features() -> None:
    # Without ridge: returns 1, 5 and 9 at x = -1, 0 and 1, all at t = 0. The mean is 5; x explains
    # (-1 * 1 + 1 * 9) / 2 = 4 a unit; the squares, 1, 0 and 1, explain nothing of the rest (0).
    obs = torch.tensor([[[-1.0]], [[0.0]], [[1.0]]])
    value = fit_predict(obs, torch.tensor([[1.0], [5.0], [9.0]]), torch.ones(3, 1))
    assert value.flatten().tolist() == pytest.approx([1.0, 5.0, 9.0], abs=1e-3)
    # With returns 1, 5 and 1 the square explains -4 and x nothing.
    value = fit_predict(obs, torch.tensor([[1.0], [5.0], [1.0]]), torch.ones(3, 1))
    assert value.flatten().tolist() == pytest.approx([1.0, 5.0, 1.0], abs=1e-3)


def test_invalid_steps_do_not_enter_the_fit() -> None:
    obs, returns = torch.zeros(3, 1, 1), torch.tensor([[1.0], [3.0], [1000.0]])
    value = fit_predict(obs, returns, torch.tensor([[1.0], [1.0], [0.0]]))
    assert value.flatten()[:2].tolist() == pytest.approx([1.99999000005] * 2, abs=1e-11)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_fit_equals_another_solver(seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    horizon = max(lengths)
    obs = rng.normal(0.0, 4.0, (len(lengths), horizon, 2))
    returns = rng.normal(size=(len(lengths), horizon))
    valid = np.arange(horizon) < np.array(lengths)[:, None]
    found = fit_predict(*(torch.as_tensor(x) for x in (obs, returns, valid.astype(float))))
    expected = naive.baseline(
        [obs[e, :n] for e, n in enumerate(lengths)],
        [returns[e, :n].tolist() for e, n in enumerate(lengths)],
    )
    for e, n in enumerate(lengths):
        np.testing.assert_allclose(found[e, :n].numpy(), expected[e], rtol=0.0, atol=1e-6)


def test_single_precision_data_are_solved_in_double() -> None:
    rng = torch.Generator().manual_seed(0)
    obs, returns = torch.randn(2, 5, 3, generator=rng), torch.randn(2, 5, generator=rng)
    found = fit_predict(obs, returns, torch.ones(2, 5))
    assert found.dtype == torch.float64
    assert torch.equal(found, fit_predict(obs.double(), returns.double(), torch.ones(2, 5)))
