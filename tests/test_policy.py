"""Policies with explicit, stacked parameters."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest
import torch
from helpers import perturbed, same_bits
from torch import Tensor

from warprl.agents.distributions import ActionDistribution, Categorical, Gaussian
from warprl.agents.policy import Policy, PolicyConfig
from warprl.types import Params, Spaces
from warprl.warp import WARP_KINDS, WarpKind

T, N, O, A = 3, 5, 4, 2  # noqa: E741 - the project's axis letters
each_warp = pytest.mark.parametrize("warp", WARP_KINDS)
each_warp_and_none = pytest.mark.parametrize("warp", [*WARP_KINDS, None])


GAUSSIAN, CATEGORICAL = Gaussian(A), Categorical(A)
each_distribution = pytest.mark.parametrize("distribution", [GAUSSIAN, CATEGORICAL])


def policy_with(
    warp: WarpKind | None,
    distribution: ActionDistribution = GAUSSIAN,
    warped: tuple[int, ...] | None = None,
) -> Policy:
    shape = PolicyConfig(hidden=(8, 6), warp=warp, log_std=-0.5, warped=warped)
    return Policy(O, distribution, shape)


def stacked(policy: Policy, seed: int = 0) -> tuple[Params, Params, Tensor, Tensor]:
    """A different theta for each task, phi off the identity, observations and actions."""
    rng = np.random.default_rng(seed)
    theta, phi = policy.init(rng)
    copies = [perturbed(theta, rng, 0.3) for _ in range(T)]
    obs, act = (torch.as_tensor(rng.standard_normal((T, N, size))) for size in (O, A))
    together = {name: torch.stack([copy[name] for copy in copies]) for name in theta}
    return together, perturbed(phi, rng, 0.3), obs, act


@each_warp_and_none
@each_distribution
def test_log_prob_is_that_of_the_distribution_at_the_outputs(
    warp: WarpKind | None, distribution: ActionDistribution
) -> None:
    policy = policy_with(warp, distribution)
    theta, phi, obs, act = stacked(policy)
    outputs = policy.outputs(theta, phi, obs)
    assert outputs.shape == (T, N, A)
    expected = distribution.log_prob(outputs, theta, act)
    assert torch.equal(policy.log_prob(theta, phi, obs, act), expected)


@each_warp_and_none
@pytest.mark.parametrize("warped", [None, (0,), (1,), (0, 1)])
def test_outputs_are_those_of_the_naive_network(
    warp: WarpKind | None, warped: tuple[int, ...] | None
) -> None:
    policy = policy_with(warp, warped=warped)
    theta, phi, obs, _ = stacked(policy)
    found = policy.outputs(theta, phi, obs)
    for t in range(T):
        one = {name: value[t] for name, value in theta.items()}
        for n in range(N):
            expected = naive.outputs(warp, one, phi, obs[t, n])
            torch.testing.assert_close(found[t, n], expected, rtol=1e-12, atol=1e-14)


@each_warp_and_none
@pytest.mark.parametrize("warped", [None, (0,), (1,)])
def test_folding_ahead_of_many_steps_changes_no_bit_of_an_action(
    warp: WarpKind | None, warped: tuple[int, ...] | None
) -> None:
    policy = policy_with(warp, warped=warped)
    theta, phi, obs, _ = stacked(policy)
    before = {name: value.clone() for name, value in theta.items()}
    folded = policy.fold(theta, phi)
    assert torch.equal(policy.outputs(*folded, obs), policy.outputs(theta, phi, obs))
    assert same_bits(theta, before)  # what is folded is a copy


@each_warp_and_none
@each_distribution
def test_a_stack_of_tasks_equals_a_loop_over_them_bit_for_bit(
    warp: WarpKind | None, distribution: ActionDistribution
) -> None:
    policy = policy_with(warp, distribution)
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
    assert torch.equal(plain.outputs(one, {}, obs), warped.outputs(one, phi, obs))
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


@pytest.mark.parametrize(("warped", "names"), [((0,), ["warp_0"]), ((1,), ["warp_1"])])
def test_warps_stand_only_where_they_are_wanted(warped: tuple[int, ...], names: list[str]) -> None:
    _, phi = policy_with("gate", warped=warped).init(np.random.default_rng(0))
    assert sorted({name.partition(".")[0] for name in phi}) == names


def test_where_a_warp_stands_does_not_move_the_start_of_training() -> None:
    every, one = (policy_with("gate", warped=places) for places in (None, (1,)))
    assert same_bits(every.init(np.random.default_rng(4))[0], one.init(np.random.default_rng(4))[0])


@pytest.mark.parametrize(
    ("spaces", "distribution", "names"),
    [
        (Spaces(5, 3, ((-1.0,) * 3, (1.0,) * 3)), Gaussian(3), ["weight_1", "bias_1", "log_std"]),
        (Spaces(5, 4), Categorical(4), ["weight_1", "bias_1"]),
    ],
)
def test_the_action_space_decides_about_the_distribution(
    spaces: Spaces, distribution: ActionDistribution, names: list[str]
) -> None:
    policy = Policy.for_spaces(spaces, PolicyConfig(hidden=(8,)))
    assert policy.distribution == distribution
    assert policy.layers("head") == names
    theta, _ = policy.init(np.random.default_rng(0))
    assert list(theta) == policy.layers("all")
    assert theta["weight_1"].shape == (8, policy.act_dim)


def test_a_fresh_policy_is_glorot_uniform_with_the_configured_deviation() -> None:
    policy = Policy(20, Gaussian(3), PolicyConfig(hidden=(64, 64), log_std=-0.7))
    theta, _ = policy.init(np.random.default_rng(0))
    for layer, (fan_in, fan_out) in enumerate([(20, 64), (64, 64), (64, 3)]):
        bound = math.sqrt(6 / (fan_in + fan_out))
        weight = theta[f"weight_{layer}"]
        assert float(weight.abs().max()) <= bound
        # The standard deviation of a uniform on [-b, b] is b / sqrt(3).
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not theta[f"bias_{layer}"].any()
    assert theta["log_std"].tolist() == pytest.approx([-0.7] * 3)
