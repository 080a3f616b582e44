"""The losses against hand-worked numbers and the identities they are built on."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import CLIP, KL_COEFFICIENT, as_leaves, gradient_of, make_problem, relative_error
from hypothesis import given
from hypothesis import strategies as st

from warprl.agents.losses import (
    InnerLoss,
    OuterLoss,
    kl_estimate,
    log_ratio,
    masked_mean,
    ppo_clip,
    surrogate,
)
from warprl.types import Batch
from warprl.warp import WARP_KINDS, WarpKind

transitions = st.lists(
    st.tuples(st.floats(-2.0, 2.0), st.floats(-5.0, 5.0)), min_size=1, max_size=8
)


def batch(advantage: list[float], valid: list[float]) -> Batch:
    n = len(advantage)
    row = [torch.tensor([x], dtype=torch.float64) for x in (advantage, valid)]
    return Batch(torch.zeros(1, n, 1), torch.zeros(1, n, 1), torch.zeros(1, n), *row)


# Ratios 2, 1/2 and 1 with advantages 1, -1 and 2, and padding that would be noticed.
RATIO = torch.log(torch.tensor([[2.0, 0.5, 1.0, 7.0]], dtype=torch.float64))
BATCH = batch([1.0, -1.0, 2.0, 99.0], [1.0, 1.0, 1.0, 0.0])


def test_surrogate_by_hand() -> None:
    # -(2 * 1 - 1/2 * 1 + 1 * 2) / 3 = -3.5 / 3
    assert surrogate(RATIO, BATCH).item() == pytest.approx(-3.5 / 3, rel=1e-12)


def test_clipped_surrogate_by_hand() -> None:
    # min(2, 1.2) = 1.2;  min(-0.5, -0.8) = -0.8;  min(2, 2) = 2:  -(1.2 - 0.8 + 2) / 3 = -0.8
    assert ppo_clip(RATIO, BATCH, 0.2).item() == pytest.approx(-0.8, rel=1e-12)


def test_kl_estimate_by_hand() -> None:
    # (2 - 1 - ln 2) + (0.5 - 1 + ln 2) + 0 = 0.5, over three
    assert kl_estimate(RATIO, BATCH).item() == pytest.approx(0.5 / 3, rel=1e-12)


def test_mean_over_no_valid_step_is_zero() -> None:
    assert masked_mean(torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [0.0, 0.0]


@given(transitions)
def test_clipping_is_pessimistic_and_the_kl_estimate_not_negative(
    steps: list[tuple[float, float]],
) -> None:
    data = batch([a for _, a in steps], [1.0] * len(steps))
    ratio = torch.tensor([[r for r, _ in steps]], dtype=torch.float64)
    assert ppo_clip(ratio, data, 0.3) >= surrogate(ratio, data)
    assert kl_estimate(ratio, data) >= 0.0


def test_at_the_behaviour_policy_clipping_and_penalty_do_nothing() -> None:
    here = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    (clipped,) = torch.autograd.grad(ppo_clip(here, BATCH, 0.2).sum(), here)
    (plain,) = torch.autograd.grad(surrogate(here, BATCH).sum(), here)
    (penalty,) = torch.autograd.grad(kl_estimate(here, BATCH).sum(), here)
    assert torch.equal(clipped, plain)
    assert torch.equal(penalty, torch.zeros_like(penalty))


@pytest.mark.parametrize("warp", [*WARP_KINDS, None])
def test_inner_loss_has_the_policy_gradient_at_the_behaviour_policy(
    warp: WarpKind | None,
) -> None:
    p = make_problem(warp, 1)
    states, policy = p.states(), p.policy
    theta = as_leaves(states.theta)
    logp = policy.log_prob(theta, p.phi, states.support.obs, states.support.act)
    on_policy = states.support._replace(logp=logp.detach())
    found = gradient_of(InnerLoss(policy)(theta, p.phi, on_policy).sum(), theta)
    # REINFORCE: the mean over the valid steps of A grad log pi
    reinforce = masked_mean(logp * states.support.advantage, states.support.valid)
    assert relative_error(found, gradient_of(-reinforce.sum(), theta)) < 1e-12


def test_outer_loss_is_the_surrogate_plus_the_penalty() -> None:
    p = make_problem("residual", 2)
    states = p.states()
    ratio = log_ratio(p.policy, states.theta, p.phi, states.query)
    for clip, plain in (
        (CLIP, ppo_clip(ratio, states.query, CLIP)),
        (None, surrogate(ratio, states.query)),
    ):
        found = OuterLoss(p.policy, clip)(states.theta, p.phi, states.query, KL_COEFFICIENT)
        assert torch.equal(found.kl, kl_estimate(ratio, states.query))
        torch.testing.assert_close(found.loss, plain + KL_COEFFICIENT * found.kl)


def test_padding_has_no_influence_on_a_loss() -> None:
    p = make_problem("gate", 2)
    states = p.states()
    padding = states.query.valid == 0
    assert padding.any()
    other = states.query._replace(
        obs=torch.where(padding[..., None], 0.5, states.query.obs),
        act=torch.where(padding[..., None], -0.5, states.query.act),
        logp=torch.where(padding, -1.0, states.query.logp),
        advantage=torch.where(padding, -3.0, states.query.advantage),
    )
    loss = OuterLoss(p.policy, CLIP)
    for left, right in zip(
        loss(states.theta, p.phi, states.query, KL_COEFFICIENT),
        loss(states.theta, p.phi, other, KL_COEFFICIENT),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-14, atol=0.0)


def test_kl_estimate_converges_to_the_divergence_of_two_gaussians() -> None:
    # KL(N(0, 1) || N(m, 1)) = m^2 / 2, here by the midpoint rule over the behaviour's quantiles.
    n, m = 20_000, 0.3
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = math.sqrt(2.0) * torch.erfinv(2.0 * quantiles - 1.0)
    ratio = (-0.5 * (x - m) ** 2 + 0.5 * x**2).unsqueeze(0)
    found = kl_estimate(ratio, batch([0.0] * n, [1.0] * n))
    assert found.item() == pytest.approx(m**2 / 2, rel=1e-3)
