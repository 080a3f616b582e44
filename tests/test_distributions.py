"""Distributions over actions against torch's own, numbers worked by hand, and what they draw."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, OneHotCategorical, kl_divergence

from warprl.agents.distributions import ActionDistribution, Categorical, Gaussian
from warprl.types import Params

T, N, A = 3, 7, 4
DISTRIBUTIONS = (Gaussian(A), Categorical(A))
each_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(distribution: ActionDistribution, seed: int = 0) -> tuple[Tensor, Params, Tensor]:
    """Outputs, stacked parameters and noise of T tasks."""
    rng = np.random.default_rng(seed)
    theta = {
        name: torch.as_tensor(rng.standard_normal((T, *value.shape)))
        for name, value in distribution.init(0.0).items()
    }
    noise = torch.from_numpy(distribution.noise(rng, T, N)).double()
    return torch.as_tensor(3.0 * rng.standard_normal((T, N, A))), theta, noise


def reference(outputs: Tensor, theta: Params) -> torch.distributions.Distribution:
    """torch's distribution with this network output."""
    if "log_std" not in theta:
        return OneHotCategorical(logits=outputs)
    std = theta["log_std"].exp().unsqueeze(1).expand_as(outputs)
    return Independent(Normal(outputs, std), 1)


@each_distribution
def test_log_prob_is_that_of_torch_distributions(distribution: ActionDistribution) -> None:
    outputs, theta, noise = drawn(distribution)
    act = distribution.sample(outputs, theta, noise)
    expected = reference(outputs, theta).log_prob(act)
    found = distribution.log_prob(outputs, theta, act)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@each_distribution
def test_the_probability_of_a_sample_is_that_of_the_action_it_is(
    distribution: ActionDistribution,
) -> None:
    outputs, theta, noise = drawn(distribution)
    act = distribution.sample(outputs, theta, noise)
    found = distribution.log_prob_of_sample(outputs, theta, noise)
    assert found.shape == (T, N)
    torch.testing.assert_close(found, distribution.log_prob(outputs, theta, act))


@each_distribution
def test_kl_is_that_of_torch_distributions(distribution: ActionDistribution) -> None:
    (p, theta_p, _), (q, theta_q, _) = (drawn(distribution, seed) for seed in range(2))
    expected = kl_divergence(reference(p, theta_p), reference(q, theta_q))
    torch.testing.assert_close(distribution.kl(p, theta_p, q, theta_q), expected)


def test_density_of_noise_is_the_density_of_the_action_it_makes() -> None:
    log_std = doubles(math.log(2.0), math.log(0.5)).reshape(1, 2)
    noise = doubles(0.5, -1.0).reshape(1, 1, 2)
    # log N(0.5; 0, 1) - log 2 + log N(-1; 0, 1) + log 2 = -log(2 pi) - (0.25 + 1) / 2
    found = Gaussian(2).log_prob_of_sample(torch.zeros(1, 1, 2), {"log_std": log_std}, noise)
    assert found.item() == pytest.approx(-math.log(2 * math.pi) - 0.625, rel=1e-14)


def test_kl_of_gaussians_by_hand() -> None:
    # N(1, 1) against N(0, 2^2): log 2 + (1 + 1) / 8 - 1/2; and two equal Gaussians.
    at, other = doubles(1, 5).reshape(1, 1, 2), doubles(0, 5).reshape(1, 1, 2)
    theta, other_theta = ({"log_std": doubles(x, 3).reshape(1, 2)} for x in (0.0, math.log(2.0)))
    found = Gaussian(2).kl(at, theta, other, other_theta)
    assert found.item() == pytest.approx(math.log(2) - 0.25, rel=1e-14)


def test_a_choice_by_hand() -> None:
    """Probabilities 1/2, 1/3 and 1/6: logits log 3, log 2 and log 1, plus any constant."""
    logits = torch.log(doubles(3, 2, 1)).reshape(1, 1, 3) + 7.0
    act = doubles(0, 1, 0).reshape(1, 1, 3)
    assert Categorical(3).log_prob(logits, {}, act).item() == pytest.approx(-math.log(3))
    even = torch.zeros_like(logits)
    # sum p log(3 p) = 1/2 log(3/2) + 1/3 log 1 + 1/6 log(1/2)
    expected = 0.5 * math.log(1.5) + math.log(0.5) / 6
    assert Categorical(3).kl(logits, {}, even, {}).item() == pytest.approx(expected)


def test_choices_are_one_hot_and_as_frequent_as_their_probabilities() -> None:
    number, p = 100_000, np.array([0.5, 0.3, 0.15, 0.05])
    noise = torch.from_numpy(Categorical(A).noise(np.random.default_rng(0), 1, number))
    logits = torch.as_tensor(np.log(p), dtype=torch.float32).expand(1, number, A)
    act = Categorical(A).sample(logits, {}, noise)
    assert act.shape == (1, number, A) and act.dtype == torch.float32
    assert ((act == 0.0) | (act == 1.0)).all() and (act.sum(-1) == 1.0).all()
    error = np.sqrt(p * (1.0 - p) / number)
    assert (np.abs(act[0].double().mean(0).numpy() - p) < 4.0 * error).all()


def test_a_choice_that_is_all_but_certain_has_a_finite_gradient() -> None:
    logits = doubles(1000, 0, 0).reshape(1, 1, 3).requires_grad_()
    logp = Categorical(3).log_prob(logits, {}, doubles(0, 1, 0).reshape(1, 1, 3))
    logp.sum().backward()  # type: ignore[no-untyped-call]
    assert logp.item() == -1000.0
    assert logits.grad is not None and logits.grad.flatten().tolist() == [-1.0, 1.0, 0.0]


@each_distribution
def test_noise_is_single_precision_and_follows_from_its_generator_alone(
    distribution: ActionDistribution,
) -> None:
    first, again, other = (distribution.noise(np.random.default_rng(s), 5, 2) for s in (0, 0, 1))
    assert first.shape == (5, 2, A) and first.dtype == np.float32
    assert np.array_equal(first, again) and not np.array_equal(first, other)
