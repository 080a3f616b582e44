"""What the objectives promise beside their gradients (for those see test_gradients.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import naive
import pytest
import torch
from helpers import (
    KL_COEFFICIENT,
    LR,
    Problem,
    as_leaves,
    gradient_of,
    make_problem,
    same_bits,
)

from warprl import objective
from warprl.agents.losses import InnerLoss
from warprl.initialisation import InitGradient, init_gradient
from warprl.objective import Form, InitKind, inner_step
from warprl.types import Batch, MetaLossValue, Params, Trajectory, TrajectoryState

INIT_KINDS: tuple[InitKind, ...] = get_args(InitKind)
each_objective = pytest.mark.parametrize("kind", get_args(Form))
each_init = pytest.mark.parametrize("kind", INIT_KINDS)


def look_ahead(p: Problem, kind: Form, phi: Params, states: TrajectoryState) -> MetaLossValue:
    return objective.look_ahead(p.objective(kind), p.theta_0, phi, states, KL_COEFFICIENT).value


def initialise(p: Problem, kind: InitKind, phi: Params, trajectory: Trajectory) -> InitGradient:
    return init_gradient(p.objective(init=kind), p.theta_0, phi, trajectory, KL_COEFFICIENT)


def rows(batch: Batch, *index: int | slice) -> Batch:
    return Batch(*(tensor[index] for tensor in batch))


@each_objective
def test_a_state_has_the_loss_and_gradient_it_has_alone(kind: Form) -> None:
    p = make_problem("residual", 2)
    states, phi = p.states(), as_leaves(p.phi)
    together = look_ahead(p, kind, phi, states)
    for s in range(len(states.task)):
        one = slice(s, s + 1)
        alone = look_ahead(
            p,
            kind,
            phi,
            TrajectoryState(
                states.task[one],
                states.step[one],
                {name: value[one] for name, value in states.start.items()},
                {name: value[one] for name, value in states.theta.items()},
                rows(states.support, one),
                rows(states.query, one),
            ),
        )
        assert torch.equal(alone.loss, together.loss[one])
        assert torch.equal(alone.kl, together.kl[one])
        left, right = (gradient_of(x, phi) for x in (alone.loss[0], look_ahead(
            p, kind, phi, states).loss[s]))  # fmt: skip
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=1e-10, atol=1e-14)


@each_objective
def test_trajectory_states_are_not_differentiated(kind: Form) -> None:
    p = make_problem("gate", 2)
    states, phi = p.states(), as_leaves(p.phi)
    theta = as_leaves(states.theta)
    loss = look_ahead(p, kind, phi, states._replace(theta=theta)).loss.sum()
    slopes = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
    assert all(slope is None for slope in slopes)


def test_reported_kl_is_the_estimate_behind_the_look_ahead() -> None:
    p = make_problem("linear", 1)
    found = look_ahead(p, "exact", p.phi, p.states()).kl
    ahead = naive.look_aheads(p.setting(), p.theta_0, p.phi, p.paths)
    for t, path in enumerate(p.paths):
        terms = []
        for step in path.data[1]:
            logp = naive.log_prob("linear", ahead[t][0], p.phi, step.obs, step.act) - step.logp
            terms.append(float(torch.exp(logp) - 1 - logp))
        assert found[t].item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_differentiable_inner_step_has_the_same_bits_as_the_plain_one() -> None:
    p = make_problem("residual", 2)
    states = p.states()
    plain, graph = (
        inner_step(
            InnerLoss(p.policy), as_leaves(states.theta), as_leaves(p.phi),
            states.support, LR, create_graph=create_graph,
        )
        for create_graph in (False, True)
    )  # fmt: skip
    assert same_bits(plain, graph)
    assert all(value.requires_grad for value in graph.values())


@each_init
def test_initialisation_gradients_are_constants_and_one_a_task(kind: InitKind) -> None:
    p = make_problem("linear", 2)
    phi = as_leaves(p.phi)
    gradient, value = initialise(p, kind, phi, p.trajectory)
    for tensor in (*gradient.values(), *value):
        assert not tensor.requires_grad
        assert len(tensor) == len(p.paths)


@each_init
def test_a_task_has_the_initialisation_gradient_it_has_alone(kind: InitKind) -> None:
    p = make_problem("gate", 3)
    together = initialise(p, kind, p.phi, p.trajectory).gradient
    source = p.trajectory
    for t in range(len(p.paths)):
        one = slice(t, t + 1)
        alone = initialise(
            p,
            kind,
            p.phi,
            Trajectory(
                source.task[one],
                {name: value[one] for name, value in source.theta.items()},
                rows(source.data, one),
                source.returns[one],
                source.finite[one],
            ),
        ).gradient
        for name in alone:
            torch.testing.assert_close(alone[name], together[name][one], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", ["leap", "reptile", "fomaml", "maml"])
def test_initialisation_reports_its_objective(kind: InitKind) -> None:
    p = make_problem("residual", 2)
    found = initialise(p, kind, p.phi, p.trajectory).value.loss
    for t, path in enumerate(p.paths):
        expected = naive.init_objective(kind, p.setting(), p.theta_0, p.phi, path)
        assert found[t].item() == pytest.approx(expected.item(), rel=1e-12)


def test_leap_gives_zero_for_a_path_that_stands_still() -> None:
    p = make_problem(None, 2)
    start = {name: value[:, :1] for name, value in p.trajectory.theta.items()}
    still = p.trajectory._replace(
        theta={name: value.expand(-1, 3, *value.shape[2:]) for name, value in start.items()}
    )
    theta_0 = {name: value[0, 0] for name, value in start.items()}
    gradient, _ = initialise(replace(p, theta_0=theta_0), "leap", p.phi, still)
    assert not any(value.any() for value in gradient.values())
