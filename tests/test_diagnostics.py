"""What is measured of an inner step, against numbers by hand, naive loops and differences."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest
import torch
from helpers import finite_difference, make_problem, perturbed
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from warprl.agents.diagnostics import (
    SAMPLE,
    condition_number,
    diagnose,
    step_kl,
    warp_condition,
    warp_cosine,
    warp_jacobian,
)
from warprl.agents.distributions import Gaussian
from warprl.agents.policy import Policy, PolicyConfig
from warprl.params import select
from warprl.types import Batch, Params
from warprl.warp import WARP_KINDS, WarpKind, init_warp

each_kind = pytest.mark.parametrize("kind", WARP_KINDS)
TASKS, STEPS = 2, 3


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def row(batch: Batch, t: int, k: int) -> Batch:
    return Batch(*(tensor[t : t + 1, k] for tensor in batch))


# --- KL of a step -------------------------------------------------------------------------------


@each_kind
def test_the_kl_of_a_step_is_the_mean_over_its_real_transitions(kind: WarpKind) -> None:
    problem = make_problem(kind, STEPS)
    theta = problem.trajectory.theta
    for t, k in ((0, 0), (1, 2)):
        here, ahead = (select(theta, slice(t, t + 1), j) for j in (k, k + 1))
        found = step_kl(
            problem.policy, here, ahead, problem.phi, row(problem.trajectory.data, t, k)
        )
        total = 0.0
        for step in problem.paths[t].data[k]:
            ends = []
            for j in (k, k + 1):
                at = problem.paths[t].theta[j]
                mean = naive.outputs(kind, at, problem.phi, step.obs)
                ends.append(Normal(mean, at["log_std"].exp()))
            total += float(kl_divergence(*ends).sum())
        assert found.item() == pytest.approx(total / len(problem.paths[t].data[k]), rel=1e-10)
        assert found.item() > 0.0


# --- the task gradient with and without warps ---------------------------------------------------


def test_cosine_by_hand() -> None:
    """At x = 0 a linear warp with weight 3 trebles the gradient of the bias below and no other.

    With weight_1 = 1 and noise 1 (so that log_std has no gradient) the gradient is proportional to
    (bias_1: 1, bias_0: 3) with the warp and (1, 1) without.
    """
    policy = Policy(1, Gaussian(1), PolicyConfig(hidden=(1,), warp="linear"))
    theta = {
        "weight_0": doubles(7).reshape(1, 1, 1),
        "bias_0": doubles(0).reshape(1, 1),
        "weight_1": doubles(1).reshape(1, 1, 1),
        "bias_1": doubles(0).reshape(1, 1),
        "log_std": doubles(0).reshape(1, 1),
    }
    phi = {"warp_0.weight": doubles(3).reshape(1, 1), "warp_0.bias": doubles(0)}
    one = doubles(1).reshape(1, 1)
    batch = Batch(torch.zeros(1, 1, 1, dtype=torch.float64), one.unsqueeze(-1), -one, one, one)
    found = warp_cosine(policy, theta, phi, batch)
    assert found.tolist() == pytest.approx([4 / math.sqrt(10 * 2)], rel=1e-12)


@each_kind
def test_cosine_is_that_of_finite_differences_of_the_naive_loss(kind: WarpKind) -> None:
    problem = make_problem(kind, STEPS)
    t, k = 1, 1
    here = select(problem.trajectory.theta, slice(t, t + 1), k)
    found = warp_cosine(problem.policy, here, problem.phi, row(problem.trajectory.data, t, k))
    flat, at = [], problem.paths[t].theta[k]
    for warp in (kind, None):
        setting = problem.setting()._replace(warp=warp)
        data = [
            step._replace(logp=naive.log_prob(warp, at, problem.phi, step.obs, step.act).item())
            for step in problem.paths[t].data[k]
        ]
        slopes = finite_difference(
            lambda theta, s=setting, d=data: naive.task_loss(s, theta, problem.phi, d),  # type: ignore[misc]
            at,
        )
        flat.append(torch.cat([slope.flatten() for slope in slopes.values()]))
    expected = float(flat[0] @ flat[1] / (flat[0].norm() * flat[1].norm()))
    assert found.item() == pytest.approx(expected, rel=1e-7)
    assert found.item() < 0.999, "the warps turn the gradient"


@each_kind
def test_warps_at_the_identity_turn_nothing_and_stretch_nothing(kind: WarpKind) -> None:
    problem = make_problem(kind, STEPS)
    _, fresh = problem.policy.init(np.random.default_rng(0))
    identity = {name: value.double() for name, value in fresh.items()}
    found = diagnose(problem.policy, identity, problem.trajectory)
    one = torch.ones(TASKS, STEPS, dtype=torch.float64)
    torch.testing.assert_close(found["cosine"], one)
    torch.testing.assert_close(found["condition"], one)


# --- the Jacobian of a warp ---------------------------------------------------------------------


@each_kind
def test_the_jacobian_is_that_of_finite_differences_of_the_naive_warp(kind: WarpKind) -> None:
    rng = np.random.default_rng(1)
    params = perturbed(init_warp(kind, 3, rng), rng, 0.4)
    phi = {f"warp_0.{name}": value for name, value in params.items()}
    x = torch.as_tensor(rng.standard_normal((2, 4, 3)))
    found = warp_jacobian(kind, params, x)
    assert found.shape == (2, 4, 3, 3)
    for s in range(2):
        for n in range(4):
            for i in range(3):
                slope = finite_difference(
                    lambda at, i=i: naive.warp(kind, phi, 0, at["x"])[i],  # type: ignore[misc]
                    {"x": x[s, n]},
                )["x"]
                torch.testing.assert_close(found[s, n, i], slope, rtol=1e-8, atol=1e-9)


def test_condition_numbers_by_hand() -> None:
    matrices = torch.stack(
        [
            torch.diag(doubles(2, -8, 4)),  # 8 / 2
            torch.diag(doubles(1, 1, 0)),
            torch.zeros(3, 3, dtype=torch.float64),
            torch.diag(doubles(1, 1, math.nan)),
        ]
    )
    found = condition_number(matrices).tolist()
    assert found[0] == pytest.approx(4.0)
    assert found[1:3] == [math.inf, math.inf]
    assert math.isnan(found[3])


def test_condition_numbers_are_those_of_numpy() -> None:
    matrices = np.random.default_rng(0).standard_normal((5, 6, 6))
    found = condition_number(torch.as_tensor(matrices))
    np.testing.assert_allclose(found.numpy(), np.linalg.cond(matrices), rtol=1e-10)


def two_layers(
    kind: WarpKind, number: int, warped: tuple[int, ...] | None = None
) -> tuple[Policy, Params, Batch]:
    """A policy of widths 2 and 2, its stacked theta, and that many transitions of one task."""
    rng = np.random.default_rng(2)
    policy = Policy(2, Gaussian(1), PolicyConfig((2, 2), kind, warped=warped))
    theta, _ = policy.init(rng)
    stacked = {name: value.double().unsqueeze(0) for name, value in theta.items()}
    obs = torch.as_tensor(rng.standard_normal((1, number, 2)))
    one = torch.ones(1, number, dtype=torch.float64)
    return policy, stacked, Batch(obs, one.unsqueeze(-1), one, one, one)


def test_the_condition_is_the_lower_median_over_activations_and_layers() -> None:
    policy, theta, batch = two_layers("linear", 20)
    phi = {
        "warp_0.weight": torch.diag(doubles(1, 9)),
        "warp_0.bias": doubles(0, 0),
        "warp_1.weight": torch.diag(doubles(5, 1)),
        "warp_1.bias": doubles(0, 0),
    }
    assert warp_condition(policy, theta, phi, batch).tolist() == pytest.approx([5.0])


@pytest.mark.parametrize(("layer", "condition"), [(0, 9.0), (1, 5.0)])
def test_the_condition_is_that_of_the_layers_that_are_warped(layer: int, condition: float) -> None:
    policy, theta, batch = two_layers("linear", 20, warped=(layer,))
    size = (9.0, 5.0)[layer]
    phi = {
        f"warp_{layer}.weight": torch.diag(doubles(1, size)),
        f"warp_{layer}.bias": doubles(0, 0),
    }
    assert warp_condition(policy, theta, phi, batch).tolist() == pytest.approx([condition])


def test_the_condition_is_taken_at_evenly_spaced_real_transitions() -> None:
    policy, theta, batch = two_layers("gate", 30)
    rng = np.random.default_rng(3)
    _, fresh = policy.init(rng)
    phi = perturbed(fresh, rng, 1.0)
    valid = torch.zeros(1, 30, dtype=torch.float64)
    valid[0, 5:20] = 1.0  # 15 of them: 5, 7, ..., 19
    found = warp_condition(policy, theta, phi, batch._replace(valid=valid))
    values = []
    for n in range(5, 20, 2):
        x = batch.obs[0, n]
        for layer in range(2):
            x = torch.tanh(x @ theta[f"weight_{layer}"][0] + theta[f"bias_{layer}"][0])
            weight, bias = phi[f"warp_{layer}.weight"], phi[f"warp_{layer}.bias"]
            gate = torch.tanh(x @ weight + bias)
            # d/dx_j of x_i (1 + gate_i)
            jacobian = torch.diag(1 + gate) + (x * (1 - gate**2))[:, None] * weight.T
            values.append(np.linalg.cond(jacobian.numpy()))
            x = x * (1 + gate)
    assert len(values) == 2 * SAMPLE
    assert found.tolist() == pytest.approx([sorted(values)[SAMPLE - 1]], rel=1e-10)


def test_a_single_transition_is_sample_enough() -> None:
    policy, theta, batch = two_layers("gate", 1)
    _, phi = policy.init(np.random.default_rng(0))
    double = {name: value.double() for name, value in phi.items()}
    assert warp_condition(policy, theta, double, batch).tolist() == [1.0]


# --- all of it ----------------------------------------------------------------------------------


def test_every_step_is_diagnosed_on_its_own_data() -> None:
    problem = make_problem("residual", STEPS)
    theta, data = problem.trajectory.theta, problem.trajectory.data
    found = diagnose(problem.policy, problem.phi, problem.trajectory)
    assert {name: tuple(x.shape) for name, x in found.items()} == dict.fromkeys(
        ("kl", "cosine", "condition"), (TASKS, STEPS)
    )
    for t in range(TASKS):
        for k in range(STEPS):
            here, ahead = (select(theta, slice(t, t + 1), j) for j in (k, k + 1))
            known = (problem.policy, here, problem.phi, row(data, t, k))
            assert found["cosine"][t, k].item() == pytest.approx(warp_cosine(*known).item())
            assert found["condition"][t, k].item() == pytest.approx(warp_condition(*known).item())
            kl = step_kl(problem.policy, here, ahead, problem.phi, row(data, t, k))
            assert found["kl"][t, k].item() == pytest.approx(kl.item())


def test_without_warps_there_is_only_the_kl() -> None:
    problem = make_problem(None, STEPS)
    assert list(diagnose(problem.policy, {}, problem.trajectory)) == ["kl"]


def test_numbers_that_are_not_finite_are_answered_and_not_raised() -> None:
    problem = make_problem("gate", STEPS)
    broken = {name: torch.full_like(value, math.nan) for name, value in problem.phi.items()}
    found = diagnose(problem.policy, broken, problem.trajectory)
    assert all(torch.isnan(values).all() for values in found.values())
