"""Gaussian policies with explicit, stacked parameters."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest
import torch
from helpers import perturbed, same_bits
from torch import Tensor
from torch.distributions import Independent, Normal

from warprl.agents.policy import GaussianPolicy, PolicyConfig, gaussian_log_prob
from warprl.types import Params
from warprl.warp import WARP_KINDS, WarpKind

T, N, O, A = 3, 5, 4, 2  # noqa: E741 - the project's axis letters
each_warp = pytest.mark.parametrize("warp", WARP_KINDS)
each_warp_and_none = pytest.mark.parametrize("warp", [*WARP_KINDS, None])


def policy_with(warp: WarpKind | None) -> GaussianPolicy:
    return GaussianPolicy(O, A, PolicyConfig(hidden=(8, 6), warp=warp, log_std=-0.5))


def stacked(policy: GaussianPolicy, seed: int = 0) -> tuple[Params, Params, Tensor, Tensor]:
    """A different theta for each task, phi off the identity, observations and actions."""
    rng = np.random.default_rng(seed)
    theta, phi = policy.init(rng)
    copies = [perturbed(theta, rng, 0.3) for _ in range(T)]
    obs, act = (torch.as_tensor(rng.standard_normal((T, N, size))) for size in (O, A))
    together = {name: torch.stack([copy[name] for copy in copies]) for name in theta}
    return together, perturbed(phi, rng, 0.3), obs, act


@each_warp_and_none
def test_log_prob_is_that_of_torch_distributions(warp: WarpKind | None) -> None:
    policy = policy_with(warp)
    theta, phi, obs, act = stacked(policy)
    mean, log_std = policy.distribution(theta, phi, obs)
    assert mean.shape == (T, N, A)
    normal = Normal(mean, log_std.exp().expand_as(mean))
    expected = Independent(normal, 1).log_prob(act)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(policy.log_prob(theta, phi, obs, act), expected, rtol=1e-12, atol=0)


@each_warp_and_none
def test_mean_is_that_of_the_naive_network(warp: WarpKind | None) -> None:
    policy = policy_with(warp)
    theta, phi, obs, _ = stacked(policy)
    found = policy.mean(theta, phi, obs)
    for t in range(T):
        one = {name: value[t] for name, value in theta.items()}
        for n in range(N):
            expected = naive.mean_action(warp, one, phi, obs[t, n])
            torch.testing.assert_close(found[t, n], expected, rtol=1e-12, atol=1e-14)


@each_warp_and_none
def test_folding_ahead_of_many_steps_changes_no_bit_of_an_action(warp: WarpKind | None) -> None:
    policy = policy_with(warp)
    theta, phi, obs, _ = stacked(policy)
    before = {name: value.clone() for name, value in theta.items()}
    folded = policy.fold(theta, phi)
    assert torch.equal(policy.mean(*folded, obs), policy.mean(theta, phi, obs))
    assert same_bits(theta, before)  # what is folded is a copy


@each_warp_and_none
def test_a_stack_of_tasks_equals_a_loop_over_them_bit_for_bit(warp: WarpKind | None) -> None:
    policy = policy_with(warp)
    theta, phi, obs, act = stacked(policy)
    together = policy.log_prob(theta, phi, obs, act)
    for t in range(T):
        one = {name: value[t : t + 1] for name, value in theta.items()}
        alone = policy.log_prob(one, phi, obs[t : t + 1], act[t : t + 1])
        assert torch.equal(together[t : t + 1], alone)


@each_warp
def test_a_fresh_warped_policy_is_the_plain_one_bit_for_bit(warp: WarpKind) -> None:
    plain, warped = policy_with(None), policy_with(warp)
    theta, no_phi = plain.init(np.random.default_rng(5))
    same_theta, phi = warped.init(np.random.default_rng(5))
    assert no_phi == {} and phi
    assert same_bits(theta, same_theta)
    obs, act = torch.randn(1, N, O), torch.randn(1, N, A)
    one = {name: value.unsqueeze(0) for name, value in theta.items()}
    assert torch.equal(plain.mean(one, {}, obs), warped.mean(one, phi, obs))
    assert torch.equal(plain.log_prob(one, {}, obs, act), warped.log_prob(one, phi, obs, act))


def test_one_warp_stands_behind_each_hidden_layer_and_none_behind_the_output() -> None:
    theta, phi = policy_with("gate").init(np.random.default_rng(0))
    assert {name: tuple(value.shape) for name, value in theta.items()} == {
        "weight_0": (O, 8),
        "bias_0": (8,),
        "weight_1": (8, 6),
        "bias_1": (6,),
        "weight_2": (6, A),
        "bias_2": (A,),
        "log_std": (A,),
    }
    assert {name: tuple(value.shape) for name, value in phi.items()} == {
        "warp_0.weight": (8, 8),
        "warp_0.bias": (8,),
        "warp_1.weight": (6, 6),
        "warp_1.bias": (6,),
    }


def test_a_fresh_policy_is_glorot_uniform_with_the_configured_deviation() -> None:
    policy = GaussianPolicy(20, 3, PolicyConfig(hidden=(64, 64), log_std=-0.7))
    theta, _ = policy.init(np.random.default_rng(0))
    for layer, (fan_in, fan_out) in enumerate([(20, 64), (64, 64), (64, 3)]):
        bound = math.sqrt(6 / (fan_in + fan_out))
        weight = theta[f"weight_{layer}"]
        assert float(weight.abs().max()) <= bound
        # The standard deviation of a uniform on [-b, b] is b / sqrt(3).
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not theta[f"bias_{layer}"].any()
    assert theta["log_std"].tolist() == pytest.approx([-0.7] * 3)


def test_density_of_noise_is_the_density_of_the_action_it_makes() -> None:
    noise = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    log_std = torch.tensor([math.log(2.0), math.log(0.5)], dtype=torch.float64)
    # log N(0.5; 0, 1) - log 2 + log N(-1; 0, 1) + log 2 = -log(2 pi) - (0.25 + 1) / 2
    expected = -math.log(2 * math.pi) - 0.625
    assert gaussian_log_prob(noise, log_std).item() == pytest.approx(expected, rel=1e-14)
