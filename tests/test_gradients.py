"""The gradients WarpRL descends, in float64, against finite differences and a naive loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import get_args

import naive
import pytest
import torch
from helpers import (
    CATEGORICAL,
    CLIP,
    KL_COEFFICIENT,
    LR,
    Problem,
    as_leaves,
    finite_difference,
    gradient_of,
    make_memory_problem,
    make_problem,
    relative_error,
)

from warprl.agents.losses import InnerLoss
from warprl.agents.policy import Layers
from warprl.agents.recurrent import MemoryKind
from warprl.initialisation import init_gradient
from warprl.objective import Form, InitKind, inner_step, look_ahead
from warprl.types import Params
from warprl.warp import WARP_KINDS, WarpKind

TOLERANCE = 1e-6
STEPS = (1, 2, 3)
INIT_KINDS: tuple[InitKind, ...] = get_args(InitKind)

each_warp = pytest.mark.parametrize("warp", WARP_KINDS)
each_warp_and_none = pytest.mark.parametrize("warp", [*WARP_KINDS, None])
each_length = pytest.mark.parametrize("steps", STEPS)


@cache
def problem(warp: WarpKind | None, steps: int) -> Problem:
    return make_problem(warp, steps)


@cache
def choosing_problem(warp: WarpKind | None) -> Problem:
    return make_problem(warp, 2, seed=4, distribution=CATEGORICAL)


def package_meta_gradient(p: Problem, kind: Form, clip: float | None = CLIP) -> Params:
    phi = as_leaves(p.phi)
    ahead = look_ahead(p.objective(kind, clip=clip), p.theta_0, phi, p.states(), KL_COEFFICIENT)
    return gradient_of(ahead.value.loss.mean(), phi)


@cache
def exact_by_differences(warp: WarpKind, steps: int, clip: float | None = CLIP) -> Params:
    p = problem(warp, steps)
    return finite_difference(
        lambda phi: naive.exact(p.setting(clip), p.theta_0, phi, p.paths), p.phi
    )


# --- the conditions under which the comparisons mean something ----------------------------------


def points_of_the_meta_loss(p: Problem) -> list[tuple[Params, list[naive.Transition]]]:
    """Where the clipped loss is evaluated: behind each look-ahead and where the inits look."""
    setting, points = p.setting(), []
    for path, ahead in zip(
        p.paths, naive.look_aheads(setting, p.theta_0, p.phi, p.paths), strict=True
    ):
        points += list(zip(ahead, path.data[1:], strict=True))
        last = len(ahead)
        theta = p.theta_0
        for k in range(last):
            theta = naive.inner_step(setting, theta, p.phi, path.data[k])
        points.append((theta, path.data[last]))
    return points


@each_warp_and_none
@each_length
def test_problems_clip_some_ratios_and_not_others_and_keep_off_the_kink(
    warp: WarpKind | None, steps: int
) -> None:
    require_both_sides_of_the_clip(problem(warp, steps))


def require_both_sides_of_the_clip(p: Problem) -> None:
    clipped = []
    for theta, data in points_of_the_meta_loss(p):
        now = naive.log_probs(p.setting(), theta, p.phi, data)
        for step, logp in zip(data, now, strict=True):
            ratio = torch.exp(logp - step.logp).item()
            assert min(abs(ratio - 1 - CLIP), abs(ratio - 1 + CLIP)) > 5e-4
            clipped.append(ratio > 1 + CLIP if step.advantage > 0 else ratio < 1 - CLIP)
    assert any(clipped) and not all(clipped)
    assert len({len(data) for path in p.paths for data in path.data}) > 1  # unequal masks


# --- the inner step -----------------------------------------------------------------------------


@each_warp_and_none
@each_length
def test_inner_step_descends_the_gradient_of_the_task_loss(
    warp: WarpKind | None, steps: int
) -> None:
    require_inner_steps_descend(problem(warp, steps))


def require_inner_steps_descend(p: Problem) -> None:
    states = p.states()
    moved = inner_step(InnerLoss(p.policy), states.theta, p.phi, states.support, LR)
    for s, (t, k) in enumerate(zip(states.task.tolist(), states.step.tolist(), strict=True)):
        start, data = p.paths[t].theta[k], p.paths[t].data[k]
        found = {name: (states.theta[name][s] - moved[name][s]) / LR for name in moved}

        def loss(theta: Params, data: list[naive.Transition] = data) -> torch.Tensor:
            return naive.task_loss(p.setting(), theta, p.phi, data)

        require_gradient(found, loss, start)


def require_gradient(found: Params, of: Callable[[Params], torch.Tensor], at: Params) -> None:
    """By the naive loop and by finite differences."""
    assert relative_error(found, naive.gradient(of, at)) < TOLERANCE
    assert relative_error(found, finite_difference(of, at)) < TOLERANCE


def test_inner_step_without_a_graph_is_a_constant() -> None:
    p = problem("residual", 2)
    states = p.states()
    phi, theta = as_leaves(p.phi), as_leaves(states.theta)
    moved = inner_step(InnerLoss(p.policy), theta, phi, states.support, LR)
    assert not any(value.requires_grad for value in moved.values())


# --- the meta-gradient with respect to phi ------------------------------------------------------


def naive_meta_objective(p: Problem, kind: Form) -> Callable[[Params], torch.Tensor]:
    """Equation 11 or 12 as a function of phi."""
    if kind == "exact":
        return lambda phi: naive.exact(p.setting(), p.theta_0, phi, p.paths)
    brackets = naive.look_aheads(p.setting(), p.theta_0, p.phi, p.paths)
    return lambda phi: naive.approximate(p.setting(), phi, p.paths, brackets)


@each_warp
@each_length
def test_exact_meta_gradient_is_the_derivative_of_equation_11(warp: WarpKind, steps: int) -> None:
    p = problem(warp, steps)
    found = package_meta_gradient(p, "exact")
    by_loop = naive.gradient(lambda phi: naive.exact(p.setting(), p.theta_0, phi, p.paths), p.phi)
    assert relative_error(found, by_loop) < TOLERANCE
    assert relative_error(found, exact_by_differences(warp, steps)) < TOLERANCE


@each_warp
@pytest.mark.parametrize("layer", [0, 1])
def test_exact_meta_gradient_holds_for_a_warp_behind_one_layer_alone(
    warp: WarpKind, layer: int
) -> None:
    p = make_problem(warp, 2, warped=(layer,))
    assert {name.partition(".")[0] for name in p.phi} == {f"warp_{layer}"}
    found = package_meta_gradient(p, "exact")

    def by_loop(phi: Params) -> torch.Tensor:
        return naive.exact(p.setting(), p.theta_0, phi, p.paths)

    assert relative_error(found, naive.gradient(by_loop, p.phi)) < TOLERANCE
    assert relative_error(found, finite_difference(by_loop, p.phi)) < TOLERANCE


@each_warp
@each_length
def test_approximate_meta_gradient_is_the_derivative_of_equation_12(
    warp: WarpKind, steps: int
) -> None:
    p = problem(warp, steps)
    found = package_meta_gradient(p, "approximate")
    require_gradient(found, naive_meta_objective(p, "approximate"), p.phi)


@each_warp
@each_length
def test_only_the_exact_form_differentiates_through_the_inner_gradient(
    warp: WarpKind, steps: int
) -> None:
    # Fails if the graph of the inner gradient is dropped: both forms would then be equation 12.
    p = problem(warp, steps)
    differences = exact_by_differences(warp, steps)
    assert relative_error(package_meta_gradient(p, "exact"), differences) < TOLERANCE
    for name, slope in differences.items():
        missed = relative_error(
            {name: package_meta_gradient(p, "approximate")[name]}, {name: slope}
        )
        assert missed > 1e-2, name


@each_warp
def test_unclipped_meta_gradient_matches_too(warp: WarpKind) -> None:
    p = problem(warp, 2)
    found = package_meta_gradient(p, "exact", clip=None)
    assert relative_error(found, exact_by_differences(warp, 2, clip=None)) < TOLERANCE
    assert relative_error(found, package_meta_gradient(p, "exact")) > 1e-3  # clipping did act


@pytest.mark.parametrize("kind", get_args(Form))
def test_both_forms_have_the_same_value(kind: Form) -> None:
    p = problem("gate", 3)
    value = look_ahead(p.objective(kind), p.theta_0, p.phi, p.states(), KL_COEFFICIENT).value
    expected = naive.exact(p.setting(), p.theta_0, p.phi, p.paths)
    torch.testing.assert_close(value.loss.mean(), expected.detach(), rtol=1e-12, atol=0.0)


# --- the gradient with respect to the initialisation --------------------------------------------


def package_init_gradient(p: Problem, kind: InitKind, clip: float | None = CLIP) -> Params:
    """Averaged over the tasks, as the learner does."""
    meta = p.objective(init=kind, clip=clip)
    stacked, _ = init_gradient(meta, p.theta_0, p.phi, p.trajectory, KL_COEFFICIENT)
    return {name: value.mean(dim=0) for name, value in stacked.items()}


def naive_init_objective(p: Problem, kind: InitKind) -> Callable[[Params], torch.Tensor]:
    def objective(theta_0: Params) -> torch.Tensor:
        terms = [naive.init_objective(kind, p.setting(), theta_0, p.phi, q) for q in p.paths]
        return sum(terms, torch.zeros((), dtype=torch.float64)) / len(terms)

    return objective


@each_warp_and_none
@each_length
@pytest.mark.parametrize("kind", INIT_KINDS)
def test_initialisation_gradient_is_the_derivative_of_its_objective(
    kind: InitKind, warp: WarpKind | None, steps: int
) -> None:
    p = problem(warp, steps)
    objective = naive_init_objective(p, kind)
    found = package_init_gradient(p, kind)
    differences = finite_difference(objective, p.theta_0)
    assert relative_error(found, differences) < TOLERANCE
    if kind != "fixed":  # its objective is a constant, which autograd will not differentiate
        assert relative_error(found, naive.gradient(objective, p.theta_0)) < TOLERANCE


@each_warp
@each_length
def test_leap_gradient_is_the_printed_formula(warp: WarpKind, steps: int) -> None:
    p = problem(warp, steps)
    by_hand = [naive.leap_by_hand(p.setting(), p.theta_0, p.phi, path) for path in p.paths]
    expected = {name: (by_hand[0][name] + by_hand[1][name]) / 2 for name in p.theta_0}
    assert relative_error(package_init_gradient(p, "leap"), expected) < TOLERANCE


@each_warp
@each_length
def test_reptile_gradient_is_the_way_back_from_the_end(warp: WarpKind, steps: int) -> None:
    p = problem(warp, steps)
    ends = [path.theta[-1] for path in p.paths]
    expected = {n: p.theta_0[n] - (ends[0][n] + ends[1][n]) / 2 for n in p.theta_0}
    assert relative_error(package_init_gradient(p, "reptile"), expected) < TOLERANCE


@each_warp
@each_length
def test_maml_differs_from_its_first_order_form(warp: WarpKind, steps: int) -> None:
    # Fails if MAML's graph is dropped. The theta_K here are those MAML recomputes, so that the two
    # differ by the second-order terms alone.
    p = problem(warp, steps)
    paths = [naive.Path([p.theta_0], path.data) for path in p.paths]
    for path in paths:
        for k in range(steps):
            path.theta.append(
                {
                    name: value.detach()
                    for name, value in naive.inner_step(
                        p.setting(), path.theta[k], p.phi, path.data[k]
                    ).items()
                }
            )
    first_order = [
        naive.gradient(
            lambda theta, path=path: naive.meta_loss(p.setting(), theta, p.phi, path.data[-1]),  # type: ignore[misc]
            path.theta[-1],
        )
        for path in paths
    ]
    expected = {n: (first_order[0][n] + first_order[1][n]) / 2 for n in p.theta_0}
    assert relative_error(package_init_gradient(p, "maml"), expected) > 1e-2


# --- step sizes of their own ----------------------------------------------------------------------

each_part = pytest.mark.parametrize("layers", get_args(Layers))


@each_part
@each_length
@pytest.mark.parametrize("warp", ["gate", None])
def test_gradient_of_the_rates_is_the_derivative_of_equation_11(
    warp: WarpKind | None, steps: int, layers: Layers
) -> None:
    p = make_problem(warp, steps, rates=True, layers=layers)
    phi = as_leaves(p.phi)
    ahead = look_ahead(p.objective(), p.theta_0, phi, p.states(), KL_COEFFICIENT)
    slopes = torch.autograd.grad(
        ahead.value.loss.mean(), list(phi.values()), materialize_grads=True
    )
    found = dict(zip(phi, slopes, strict=True))

    require_gradient(found, naive_meta_objective(p, "exact"), p.phi)
    adapted = set(p.policy.layers(layers))
    for name in p.theta_0:
        assert bool(found[f"rate.{name}"].any()) == (name in adapted)


@each_part
@each_length
@pytest.mark.parametrize("kind", ["leap", "fomaml", "maml"])
def test_initialisation_of_layers_that_stay_is_learned_too(
    kind: InitKind, steps: int, layers: Layers
) -> None:
    p = make_problem("gate", steps, rates=True, layers=layers)
    found = package_init_gradient(p, kind)
    require_gradient(found, naive_init_objective(p, kind), p.theta_0)
    assert all(bool(slope.any()) for slope in found.values())


# --- a choice among actions -----------------------------------------------------------------------


@each_warp_and_none
def test_problems_of_choosing_policies_clip_some_ratios_too(warp: WarpKind | None) -> None:
    require_both_sides_of_the_clip(choosing_problem(warp))


@each_warp_and_none
def test_the_inner_step_of_a_choosing_policy_descends_its_task_loss(warp: WarpKind | None) -> None:
    require_inner_steps_descend(choosing_problem(warp))


@each_warp
@pytest.mark.parametrize("kind", get_args(Form))
def test_the_meta_gradient_of_a_choosing_policy_is_the_derivative_of_its_equation(
    warp: WarpKind, kind: Form
) -> None:
    p = choosing_problem(warp)
    require_gradient(package_meta_gradient(p, kind), naive_meta_objective(p, kind), p.phi)


@each_warp_and_none
@pytest.mark.parametrize("kind", ["leap", "fomaml", "maml"])
def test_the_initialisation_of_a_choosing_policy_descends_its_objective(
    kind: InitKind, warp: WarpKind | None
) -> None:
    p = choosing_problem(warp)
    found = package_init_gradient(p, kind)
    require_gradient(found, naive_init_objective(p, kind), p.theta_0)


# --- policies with memory -------------------------------------------------------------------------

each_cell = pytest.mark.parametrize(
    ("memory", "warped"), [("gru", False), ("rnn", False), ("rnn", True)]
)
few_steps = pytest.mark.parametrize("steps", [1, 2])


@cache
def memory_problem(memory: MemoryKind, warped: bool, steps: int) -> Problem:
    return make_memory_problem(memory, warped, steps)


@each_cell
@few_steps
def test_the_inner_step_of_a_memory_descends_its_loss_through_whole_sequences(
    memory: MemoryKind, warped: bool, steps: int
) -> None:
    p = memory_problem(memory, warped, steps)
    require_both_sides_of_the_clip(p)
    require_inner_steps_descend(p)


@few_steps
@pytest.mark.parametrize("kind", get_args(Form))
def test_the_meta_gradient_of_the_gates_of_a_memory_is_the_derivative_of_its_equation(
    kind: Form, steps: int
) -> None:
    p = memory_problem("rnn", True, steps)
    objective = naive_meta_objective(p, kind)
    found = package_meta_gradient(p, kind)
    assert relative_error(found, naive.gradient(objective, p.phi)) < TOLERANCE
    if steps == 1:
        assert relative_error(found, finite_difference(objective, p.phi)) < TOLERANCE
    if kind == "approximate":  # fails if the graph of the inner gradient is dropped
        assert relative_error(package_meta_gradient(p, "exact"), found) > 1e-2


@each_cell
@pytest.mark.parametrize("kind", ["leap", "fomaml", "maml"])
def test_the_initialisation_of_a_memory_descends_its_objective(
    kind: InitKind, memory: MemoryKind, warped: bool
) -> None:
    p = memory_problem(memory, warped, 2)
    found = package_init_gradient(p, kind)
    require_gradient(found, naive_init_objective(p, kind), p.theta_0)
