"""TRPO as the outer optimiser: the step it takes, and when it takes none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import naive
import numpy as np
import pytest
import torch
from helpers import Problem, make_problem, same_bits
from torch import Tensor

from warprl import params as P
from warprl.adam import Adam
from warprl.agents.losses import InnerLoss, OuterLoss
from warprl.learner import Learner, LearnerConfig, LearnerState, Report, Vpg
from warprl.meta_batch import InMemory
from warprl.natural_step import (
    DAMPING,
    STRONG_DAMPING,
    Trpo,
    conjugate_gradient,
    natural_direction,
)
from warprl.objective import Form, InitKind, LookAhead, MetaObjective
from warprl.types import Batch, MetaLoss, MetaLossValue, Params

LIMIT = 1e-6  # so short a step that the KL is its quadratic
TRPO = LearnerConfig(init="maml", loss=Vpg(), outer=Trpo(kl_limit=LIMIT))


def on_policy(p: Problem) -> Problem:
    """The same transitions as if the present theta_0 and phi had drawn them."""
    setting, paths, logp = p.setting(), [], p.trajectory.data.logp.clone()
    theta = P.tree_map(torch.clone, p.trajectory.theta)
    for t, path in enumerate(p.paths):
        point, points, data = p.theta_0, [], []
        for k, transitions in enumerate(path.data):
            points.append(P.detach(point))
            for name, value in point.items():
                theta[name][t, k] = value.detach()
            obs, act = p.trajectory.data.obs[t, k], p.trajectory.data.act[t, k]
            logp[t, k] = p.policy.log_prob(
                P.broadcast(P.detach(point), 1), p.phi, obs[None], act[None]
            )[0]
            data.append(
                [
                    step._replace(
                        logp=naive.log_prob(
                            setting.warp, P.detach(point), p.phi, step.obs, step.act
                        ).item()
                    )
                    for step in transitions
                ]
            )
            if k + 1 < len(path.data):
                point = naive.inner_step(setting, point, p.phi, data[k])
        paths.append(naive.Path(points, data))
    batch = p.trajectory.data._replace(logp=logp)
    return replace(p, trajectory=p.trajectory._replace(theta=theta, data=batch), paths=paths)


def update(
    p: Problem,
    config: LearnerConfig = TRPO,
    meta_loss: MetaLoss | None = None,
    threads: int = 1,
) -> tuple[LearnerState, Report]:
    losses = InnerLoss(p.policy), meta_loss or OuterLoss(p.policy, None)
    bounded = isinstance(config.outer, Trpo)
    meta = MetaObjective(config.objective, config.init, p.lr, *losses, trust_region=bounded)
    learner = Learner(config)
    state = learner.init(p.theta_0, p.phi)
    return learner.update(state, InMemory(p.trajectory, meta, threads), np.random.default_rng(0))


def loss_and_kl(p: Problem, init: InitKind, theta_0: Params, phi: Params) -> tuple[Tensor, Tensor]:
    """Means over tasks of the initialisation's objective and of the KL, by the naive loop."""
    free = p.setting(clip=None)._replace(kl_coefficient=0.0)
    seen: InitKind = "maml" if init == "maml" else "fomaml"

    def mean(kind: InitKind, setting: naive.Setting) -> Tensor:
        losses = [naive.init_objective(kind, setting, theta_0, phi, path) for path in p.paths]
        return torch.stack(losses).mean()

    return mean(init, free), mean(seen, free._replace(kl_coefficient=1.0)) - mean(seen, free)


# --- the pure part --------------------------------------------------------------------------------


def test_conjugate_gradients_solve_a_positive_definite_system() -> None:
    rng = np.random.default_rng(0)
    root = torch.as_tensor(rng.standard_normal((6, 6)))
    matrix = root @ root.T + 0.1 * torch.eye(6, dtype=torch.float64)
    b = torch.as_tensor(rng.standard_normal(6))
    x = conjugate_gradient(lambda v: matrix @ v, b, iterations=12)
    torch.testing.assert_close(matrix @ x, b, rtol=1e-6, atol=1e-6)
    assert not conjugate_gradient(lambda v: matrix @ v, torch.zeros_like(b)).any()


def test_flat_vectors_keep_names_and_shapes() -> None:
    params = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7.0)}
    assert same_bits(P.unflatten(P.flatten(params), params), params)


# --- the step -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "steps", "shortened", "damping", "least"),
    # The gradients of the last two lie mostly where no policy changes: the damping bounds the step.
    [
        ("maml", 1, 0, DAMPING, 0.9),
        ("fomaml", 1, 1, DAMPING, 0.6),
        ("leap", 2, 0, STRONG_DAMPING, 0.05),
        ("reptile", 2, 0, STRONG_DAMPING, 0.05),
    ],
)
def test_initialisation_takes_the_natural_gradient_step_of_the_kl_limit(
    init: InitKind, steps: int, shortened: int, damping: float, least: float
) -> None:
    p = on_policy(make_problem(None, steps))
    state, report = update(p, replace(TRPO, init=init))
    assert report.metrics["meta_steps"] == 1

    def unpack(vector: Tensor) -> Params:
        return P.unflatten(vector, p.theta_0)

    at = P.flatten(p.theta_0)
    hessian = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda v: loss_and_kl(p, init, unpack(v), p.phi)[1], at
    )
    gradient = naive.gradient(lambda theta: loss_and_kl(p, init, theta, p.phi)[0], p.theta_0)
    direction, square = natural_direction(lambda v: hessian @ v, P.flatten(gradient), damping)
    step = np.sqrt(2.0 * LIMIT / square) * direction
    found = at - P.flatten(state.theta)
    share = float(found.dot(step) / step.dot(step))
    assert share == pytest.approx(0.8**shortened, rel=1e-6)
    torch.testing.assert_close(found, share * step, rtol=1e-5, atol=1e-9)
    before, after = (
        loss_and_kl(p, init, theta, p.phi) for theta in (p.theta_0, P.detach(state.theta))
    )
    assert after[0] < before[0]
    assert least * LIMIT < after[1].item() <= LIMIT
    assert report.metrics["kl"] == pytest.approx(after[1].item(), rel=1e-3)


@pytest.mark.parametrize("objective", get_args(Form))
def test_warps_take_the_natural_gradient_step_of_the_kl_limit(objective: Form) -> None:
    p = on_policy(make_problem("gate", 1))
    state, report = update(p, replace(TRPO, init="fixed", objective=LookAhead(kind=objective)))
    assert report.metrics["meta_steps"] == 1
    assert same_bits(P.detach(state.theta), p.theta_0)
    brackets = naive.look_aheads(p.setting(), p.theta_0, p.phi, p.paths)

    def loss_and_kl_of(phi: Params) -> tuple[Tensor, Tensor]:
        plain = p.setting(clip=None)._replace(kl_coefficient=0.0)
        losses = [
            naive.exact(s, p.theta_0, phi, p.paths)
            if objective == "exact"
            else naive.approximate(s, phi, p.paths, brackets)
            for s in (plain, plain._replace(kl_coefficient=1.0))
        ]
        return losses[0], losses[1] - losses[0]

    at = P.flatten(p.phi)
    hessian = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda v: loss_and_kl_of(P.unflatten(v, p.phi))[1], at
    )
    gradient = naive.gradient(lambda phi: loss_and_kl_of(phi)[0], p.phi)
    direction, square = natural_direction(lambda v: hessian @ v, P.flatten(gradient))
    step = np.sqrt(2.0 * LIMIT / square) * direction
    found = at - P.flatten(state.phi)
    # Equation 12 does not see how far the look-ahead itself moves: the line search shortens more.
    share = float(found.dot(step) / step.dot(step))
    shortened = {"exact": 0, "approximate": 10}[objective]
    assert share == pytest.approx(0.8**shortened, rel=1e-4)
    assert torch.linalg.vector_norm(found - share * step) < 1e-4 * torch.linalg.vector_norm(found)


@pytest.mark.parametrize("init", ["maml", "leap"])
def test_warps_and_initialisation_share_the_limit(init: InitKind) -> None:
    p = on_policy(make_problem("residual", 1))
    state, report = update(p, replace(TRPO, outer=Trpo(kl_limit=1e-3), init=init))
    assert report.metrics["meta_steps"] == 1
    assert 0.0 < report.metrics["kl"] <= 1e-3
    for before, after in ((p.theta_0, state.theta), (p.phi, state.phi)):
        assert all(not torch.equal(before[name], after[name]) for name in before)
    setting = p.setting(clip=None)._replace(kl_coefficient=0.0)
    risen = [
        naive.exact(setting, theta, phi, p.paths) + loss_and_kl(p, init, theta, phi)[0]
        for theta, phi in ((p.theta_0, p.phi), (P.detach(state.theta), P.detach(state.phi)))
    ]
    assert risen[1] < risen[0]


def at_odds(factor: float) -> Problem:
    """K = 2 with larger advantages on D_1, which the warps' objective sees and MAML's does not."""
    p = make_problem("residual", 2)
    advantage = p.trajectory.data.advantage.clone()
    advantage[:, 1] *= factor
    data = p.trajectory.data._replace(advantage=advantage)
    paths = [
        path._replace(
            data=[
                [
                    step._replace(advantage=step.advantage * (factor if k == 1 else 1.0))
                    for step in transitions
                ]
                for k, transitions in enumerate(path.data)
            ]
        )
        for path in p.paths
    ]
    return on_policy(replace(p, trajectory=p.trajectory._replace(data=data), paths=paths))


@pytest.mark.parametrize(("factor", "steps"), [(1.0, 1), (5.0, 1), (7.0, 0)])
def test_neither_objective_pays_for_the_other(factor: float, steps: int) -> None:
    """At full length the initialisation's loss rises where D_1 outweighs D_2, and the sum falls."""
    p = at_odds(factor)
    state, report = update(p, replace(TRPO, outer=Trpo(kl_limit=0.03)))
    assert report.metrics["meta_steps"] == steps
    setting = p.setting(clip=None)._replace(kl_coefficient=0.0)
    before, after = (
        (naive.exact(setting, theta, phi, p.paths), loss_and_kl(p, "maml", theta, phi)[0])
        for theta, phi in ((p.theta_0, p.phi), (P.detach(state.theta), P.detach(state.phi)))
    )
    for first, second in zip(before, after, strict=True):
        assert second < first if steps else second == first


# --- when there is none ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Far:
    """A meta-loss that finds every policy far from the one that drew the data."""

    inner: OuterLoss

    def __call__(
        self, theta: Params, phi: Params, batch: Batch, kl_coefficient: float
    ) -> MetaLossValue:
        value = self.inner(theta, phi, batch, kl_coefficient)
        return MetaLossValue(value.loss, value.kl + 1.0)


def test_where_no_step_keeps_the_limit_everything_stays() -> None:
    p = on_policy(make_problem("gate", 1))
    state, report = update(p, meta_loss=Far(OuterLoss(p.policy, None)))
    assert report.metrics["meta_steps"] == 0
    assert same_bits(P.detach(state.theta), p.theta_0) and same_bits(P.detach(state.phi), p.phi)
    assert state.iteration == 1


def test_a_task_that_is_not_finite_is_named_and_left_out() -> None:
    p = on_policy(make_problem("gate", 1, tasks=3))
    rest = [0, 2]
    data = Batch(*(x[rest] for x in p.trajectory.data))
    theta = {name: x[rest] for name, x in p.trajectory.theta.items()}
    alone = p.trajectory._replace(
        task=torch.tensor(rest), theta=theta, data=data,
        returns=p.trajectory.returns[rest], finite=p.trajectory.finite[rest],
    )  # fmt: skip
    expected, _ = update(replace(p, trajectory=alone))
    p.trajectory.data.logp[1] = -1e4
    found, report = update(p)
    assert report.diverged == (1,)
    assert same_bits(P.detach(found.theta), P.detach(expected.theta))
    assert same_bits(P.detach(found.phi), P.detach(expected.phi))


def test_without_anything_to_learn_only_the_iteration_changes() -> None:
    p = make_problem(None, 1)
    state, report = update(p, replace(TRPO, init="fixed"))
    assert same_bits(P.detach(state.theta), p.theta_0)
    assert (state.iteration, report.metrics["meta_steps"]) == (1, 0)


@pytest.mark.parametrize("init", ["leap", "reptile"])
def test_what_looks_at_no_policy_is_kept_within_the_limit_all_the_same(init: InitKind) -> None:
    p = on_policy(make_problem(None, 2))
    far = Far(OuterLoss(p.policy, None))
    assert update(p, replace(TRPO, init=init), far)[1].metrics["meta_steps"] == 0
    adam = replace(TRPO, init=init, outer=Adam())
    assert update(p, adam, far)[1].metrics["kl"] == 0.0


@pytest.mark.parametrize("threads", [2, 3])
def test_number_of_threads_does_not_change_a_bit(threads: int) -> None:
    p = on_policy(make_problem("gate", 1, tasks=5))
    states = [update(p, threads=count)[0] for count in (1, threads)]
    assert same_bits(*(state.to_tensors() for state in states))
