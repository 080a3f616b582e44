"""Returns and advantages against numbers worked by hand and against their definitions."""

from __future__ import annotations

import naive
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warprl.agents.returns import discounted_returns, gae, normalise

numbers = st.floats(-10.0, 10.0, width=32)
discounts = st.floats(0.0, 1.0, width=32)
rewards_and_values = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_returns_by_hand() -> None:
    # gamma = 1/2:  G_2 = 3,  G_1 = 2 + 3/2 = 3.5,  G_0 = 1 + 3.5/2 = 2.75
    found = discounted_returns(row(1, 2, 3), row(1, 1, 1), 0.5)
    assert found.tolist() == [2.75, 3.5, 3.0]


def test_returns_end_with_the_last_valid_step() -> None:
    # The padding (reward 100) is no reward:  G_1 = 2,  G_0 = 1 + 2/2 = 2
    found = discounted_returns(row(1, 2, 100), row(1, 1, 0), 0.5)
    assert found.tolist() == [2.0, 2.0, 0.0]


def test_gae_by_hand() -> None:
    # gamma = lambda = 1/2, V = (0.5, 1, 2), zero behind the horizon:
    # delta_0 = 1 + 1/2 - 0.5 = 1,  delta_1 = 2 + 2/2 - 1 = 2,  delta_2 = 3 + 0 - 2 = 1
    # A_2 = 1,  A_1 = 2 + 1/4 = 2.25,  A_0 = 1 + 2.25/4 = 1.5625
    found = gae(row(1, 2, 3), row(0.5, 1, 2), row(1, 1, 1), 0.5, 0.5)
    assert found.tolist() == [1.5625, 2.25, 1.0]


def test_gae_does_not_bootstrap_from_behind_a_termination() -> None:
    # The value 2 of the padding does not count:  delta_1 = 2 + 0 - 1 = 1,  A_1 = 1,
    # A_0 = 1 + 1/4 = 1.25
    found = gae(row(1, 2, 100), row(0.5, 1, 2), row(1, 1, 0), 0.5, 0.5)
    assert found.tolist() == [1.25, 1.0, 0.0]


@given(rewards_and_values, discounts, discounts)
def test_gae_is_the_weighted_mean_of_n_step_advantages(
    steps: list[tuple[float, float]], gamma: float, lam: float
) -> None:
    reward, value = (list(x) for x in zip(*steps, strict=True))
    found = gae(row(*reward), row(*value), torch.ones(len(steps)), gamma, lam)
    assert found.tolist() == pytest.approx(naive.gae(reward, value, gamma, lam), abs=1e-9)


@given(rewards_and_values, discounts)
def test_gae_with_lambda_one_is_the_return_less_the_value(
    steps: list[tuple[float, float]], gamma: float
) -> None:
    reward, value = (list(x) for x in zip(*steps, strict=True))
    found = gae(row(*reward), row(*value), torch.ones(len(steps)), gamma, 1.0)
    returns = naive.discounted_returns(reward, gamma)
    expected = [g - v for g, v in zip(returns, value, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@given(st.lists(numbers, min_size=1, max_size=8), st.lists(numbers, max_size=4), discounts)
def test_padding_changes_nothing(real: list[float], padding: list[float], gamma: float) -> None:
    valid = row(*[1.0] * len(real), *[0.0] * len(padding))
    found = discounted_returns(row(*real, *padding), valid, gamma)
    expected = naive.discounted_returns(real, gamma)
    assert found.tolist() == pytest.approx([*expected, *[0.0] * len(padding)], abs=1e-9)


def test_episodes_and_tasks_are_independent() -> None:
    rng = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(3, 4, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    valid = (torch.rand(3, 4, 5, generator=rng) > 0.3).double().cummin(-1).values
    together = gae(reward, value, valid, 0.9, 0.8)
    for t in range(3):
        for e in range(4):
            alone = gae(reward[t, e], value[t, e], valid[t, e], 0.9, 0.8)
            assert torch.equal(together[t, e], alone)


def test_normalise_by_hand() -> None:
    # Valid: 1, 2, 3 and 6 over two episodes: mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5
    advantage = torch.stack([row(1, 2, 3), row(6, 70, 80)])
    valid = torch.stack([row(1, 1, 1), row(1, 0, 0)])
    found = normalise(advantage, valid)
    std = 3.5**0.5
    expected = torch.stack([row(-2 / std, -1 / std, 0), row(3 / std, 0, 0)])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0.0)


def test_normalise_treats_each_task_alone() -> None:
    # The second task is the first times 1000: apart, they have the same normal form.
    first = torch.stack([row(1, 2), row(5, 3)])
    found = normalise(torch.stack([first, 1000 * first]), torch.ones(2, 2, 2))
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("valid", [1.0, 0.0])
def test_normalise_gives_zero_where_there_is_nothing_to_tell_apart(valid: float) -> None:
    found = normalise(torch.full((2, 3), 7.0), torch.full((2, 3), valid))
    assert torch.equal(found, torch.zeros(2, 3))
