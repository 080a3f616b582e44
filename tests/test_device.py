"""Tensors are made on the device of their inputs: everything runs on ``meta``, which has no data.

An operation between a tensor on ``meta`` and one made on the processor fails.
"""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from helpers import KL_COEFFICIENT, Problem, make_problem
from torch import Tensor

from warprl import params as P
from warprl import trajectories
from warprl.adam import Adam, clipped
from warprl.agents.diagnostics import step_kl, warp_cosine
from warprl.agents.inner import GradientAdaptation, to_batch
from warprl.agents.losses import InnerLoss
from warprl.initialisation import adapted_loss, init_gradient, loss_at_start
from warprl.learner import Learner, LearnerConfig
from warprl.meta_batch import hessian_product
from warprl.natural_step import natural_direction
from warprl.objective import Form, InitKind, inner_step, look_ahead
from warprl.types import Params, Rollout, TrajectoryState


@pytest.fixture(scope="module", params=["gate", "linear", "residual"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return make_problem(request.param, 2)


def moved(params: Params) -> Params:
    return P.tree_map(lambda tensor: tensor.to("meta"), params)


def states(p: Problem) -> TrajectoryState:
    there = trajectories.to_device(p.trajectory, "meta")
    return trajectories.states(there, torch.arange(4).numpy())


def require_meta(*tensors: Tensor) -> None:
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_an_inner_step_stays_on_the_device(problem: Problem) -> None:
    at = states(problem)
    loss, phi = InnerLoss(problem.policy), moved(problem.phi)
    for graph in (False, True):
        found = inner_step(
            loss, P.leaves(at.theta), phi, at.support, problem.lr, create_graph=graph
        )
        require_meta(*found.values())
        assert {n: x.shape for n, x in found.items()} == {n: x.shape for n, x in at.theta.items()}


@pytest.mark.parametrize("form", get_args(Form))
def test_the_meta_gradient_of_phi_stays_on_the_device(problem: Problem, form: Form) -> None:
    phi = P.leaves(moved(problem.phi))
    found = look_ahead(
        problem.objective(form), moved(problem.theta_0), phi, states(problem), KL_COEFFICIENT
    )
    slopes = torch.autograd.grad(found.value.loss.sum(), list(phi.values()))
    require_meta(*found.theta.values(), *found.value, *slopes)


@pytest.mark.parametrize("init", get_args(InitKind))
def test_the_gradient_of_the_initialisation_stays_on_the_device(
    problem: Problem, init: InitKind
) -> None:
    there = trajectories.to_device(problem.trajectory, "meta")
    theta, phi = moved(problem.theta_0), moved(problem.phi)
    meta = problem.objective(init=init)
    found = init_gradient(meta, theta, phi, there, KL_COEFFICIENT)
    require_meta(*found.gradient.values(), *found.value)
    start = P.leaves(P.broadcast(theta, len(there.task)))
    require_meta(*adapted_loss(meta, start, phi, there, 0.0))
    require_meta(*loss_at_start(meta, start, phi, there, 0.0))


def test_curvature_and_natural_direction_stay_on_the_device(problem: Problem) -> None:
    phi = P.leaves(moved(problem.phi))
    value = look_ahead(
        problem.objective(), moved(problem.theta_0), phi, states(problem), KL_COEFFICIENT
    ).value
    vector = P.flatten(moved(problem.phi))
    require_meta(hessian_product(value.kl.sum(), phi, vector))
    require_meta(*clipped(moved(problem.phi), 1.0).values(), P.norm(moved(problem.phi)))
    # Its length is a number, which no tensor on meta has.
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        natural_direction(lambda v: v, vector)


def test_advantages_and_diagnostics_stay_on_the_device(problem: Problem) -> None:
    t, e, h = 2, 3, 4
    policy = problem.policy
    rollout = Rollout(
        obs=torch.zeros(t, e, h, policy.obs_dim),
        act=torch.zeros(t, e, h, policy.act_dim),
        logp=torch.zeros(t, e, h),
        reward=torch.zeros(t, e, h),
        valid=torch.ones(t, e, h),
        terminated=torch.zeros(t, e, dtype=torch.bool),
        fault=torch.zeros(t, dtype=torch.bool),
    )
    there = Rollout(*(tensor.to("meta") for tensor in rollout))
    require_meta(*to_batch(there, GradientAdaptation(), policy.obs_dim))

    at = states(problem)
    phi = moved(problem.phi)
    require_meta(
        step_kl(policy, at.theta, at.theta, phi, at.support),
        warp_cosine(policy, at.theta, phi, at.support),
    )


def test_the_state_of_the_learner_moves_as_a_whole(problem: Problem) -> None:
    state = Learner(LearnerConfig(outer=Adam())).init(problem.theta_0, problem.phi)
    there = state.to_device("meta")
    require_meta(*there.to_tensors().values())
    assert there.to_scalars() == state.to_scalars()
