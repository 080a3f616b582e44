"""The learner: what one update does, what it leaves alone, and what cannot poison it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import naive
import numpy as np
import pytest
import torch
from helpers import CLIP, KL_COEFFICIENT, Problem, make_problem, relative_error, same_bits
from torch import Tensor

from warprl.adam import Adam
from warprl.agents.losses import InnerLoss, OuterLoss
from warprl.agents.policy import Layers
from warprl.initialisation import init_gradient
from warprl.learner import Learner, LearnerConfig, LearnerState, Ppo, Report
from warprl.meta_batch import CHUNK, InMemory
from warprl.objective import Form, InitKind, LookAhead, MetaObjective, TwoTimeScale
from warprl.types import Batch, MetaLoss, MetaLossValue, Params, Trajectory
from warprl.warp import WarpKind

TASKS, STEPS = 5, 2
ONLINE = LearnerConfig(
    init="maml",
    loss=Ppo(clip=CLIP),
    outer=Adam(epochs=1, kl_coefficient=KL_COEFFICIENT, max_grad_norm=1e9),
)


def with_adam(config: LearnerConfig, **changes: Any) -> LearnerConfig:
    """The same with other settings of Adam."""
    assert isinstance(config.outer, Adam)
    return replace(config, outer=replace(config.outer, **changes))


OFFLINE = with_adam(ONLINE, epochs=3, minibatches=2, kl_limit=1e9)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem("residual", STEPS, tasks=TASKS)


def update(
    p: Problem,
    config: LearnerConfig,
    trajectory: Trajectory | None = None,
    state: LearnerState | None = None,
    meta_loss: MetaLoss | None = None,
    threads: int = 1,
    chunk: int = CHUNK,
) -> tuple[LearnerState, Report]:
    learner = Learner(config)
    batch = InMemory(trajectory or p.trajectory, asked(p, config, meta_loss), threads, chunk)
    state = state or learner.init(p.theta_0, p.phi)
    return learner.update(state, batch, np.random.default_rng(0))


def asked(p: Problem, config: LearnerConfig, meta_loss: MetaLoss | None = None) -> MetaObjective:
    """What a meta-batch is to differentiate for this learner."""
    losses = InnerLoss(p.policy), meta_loss or OuterLoss(p.policy, CLIP)
    return MetaObjective(config.objective, config.init, p.lr, *losses)


def same_state(left: LearnerState, right: LearnerState) -> bool:
    return (
        same_bits(left.to_tensors(), right.to_tensors()) and left.to_scalars() == right.to_scalars()
    )


def without(trajectory: Trajectory, task: int) -> Trajectory:
    """As if the task had never been drawn; the others keep their names."""
    keep = [t for t in trajectory.task.tolist() if t != task]
    return Trajectory(
        trajectory.task[keep],
        {name: value[keep] for name, value in trajectory.theta.items()},
        Batch(*(x[keep] for x in trajectory.data)),
        trajectory.returns[keep],
        trajectory.finite[keep],
    )


def poisoned(trajectory: Trajectory, task: int, **columns: float) -> Trajectory:
    """One task's data of the given columns replaced throughout."""
    data = trajectory.data._asdict()
    for name, number in columns.items():
        data[name] = data[name].clone()
        data[name][task] = number
    return trajectory._replace(data=Batch(**data))


@dataclass
class Spy:
    """A meta-loss that notes which states it was asked about, by their first observation."""

    inner: OuterLoss
    seen: list[float] = field(default_factory=list)

    def __call__(
        self, theta: Params, phi: Params, batch: Batch, kl_coefficient: float
    ) -> MetaLossValue:
        self.seen += batch.obs[:, 0, 0].tolist()
        return self.inner(theta, phi, batch, kl_coefficient)


@dataclass(frozen=True)
class Receding:
    """A meta-loss whose KL is the squared distance of phi from where it was.

    With ``overflows`` it is infinite anywhere else.
    """

    inner: OuterLoss
    start: Params
    overflows: bool = False

    def __call__(
        self, theta: Params, phi: Params, batch: Batch, kl_coefficient: float
    ) -> MetaLossValue:
        value = self.inner(theta, phi, batch, kl_coefficient)
        moved = [(phi[name] - before).square().sum() for name, before in self.start.items()]
        kl = torch.stack(moved).sum().expand_as(value.kl)
        loss = value.loss * np.inf if self.overflows and kl.max() > 0.0 else value.loss
        return MetaLossValue(loss, kl)


# --- schedules ----------------------------------------------------------------------------------


def expected_gradients(p: Problem, init: str = "maml") -> tuple[Params, Params]:
    """Of theta_0 and phi, by the naive loop over all tasks and states."""
    setting = p.setting()

    def initial(theta_0: Params, phi: Params) -> Tensor:
        terms = [naive.init_objective(init, setting, theta_0, phi, q) for q in p.paths]
        return torch.stack(terms).mean()

    def warps(phi: Params) -> Tensor:
        # With a single inner step both descend MAML's objective, from where theta_0 is now.
        if init == "maml" and p.trajectory.points == 2:
            return initial(p.theta_0, phi)
        return naive.exact(setting, p.theta_0, phi, p.paths)

    theta = naive.gradient(lambda theta_0: initial(theta_0, p.phi), p.theta_0)
    return theta, naive.gradient(warps, p.phi)


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize("init", ["maml", "fomaml"])
def test_online_takes_one_step_along_the_mean_gradient_over_all_states(
    init: InitKind, steps: int
) -> None:
    problem = make_problem("residual", steps, tasks=TASKS)
    state, report = update(
        problem, with_adam(replace(ONLINE, init=init), warp_lr=0.01, init_lr=0.02)
    )
    assert report.metrics["meta_steps"] == 1
    theta, phi = expected_gradients(problem, init)
    for before, after, slope, lr, group in (
        (problem.theta_0, state.theta, theta, 0.02, "theta"),
        (problem.phi, state.phi, phi, 0.01, "phi"),
    ):
        # Adam's first moment is (1 - 0.9) g after one step, and its first step is lr g / |g|.
        found = {name: state.moments[f"{group}.{name}.exp_avg"] / 0.1 for name in slope}
        assert relative_error(found, slope) < 1e-6
        step = {name: lr * g / (g.abs() + 1e-8) for name, g in slope.items()}
        moved = {name: before[name] - after[name] for name in before}
        assert relative_error(moved, step) < 1e-6


@pytest.mark.parametrize("objective", get_args(Form))
def test_first_order_maml_is_the_same_beside_warps_as_alone(
    problem: Problem, objective: Form
) -> None:
    # Beside warps it comes out of their look-ahead; alone it is computed from the trajectories.
    config = replace(ONLINE, init="fomaml", objective=LookAhead(kind=objective))
    state, _ = update(problem, config)
    meta = problem.objective(init="fomaml")
    stacked, _ = init_gradient(
        meta, problem.theta_0, problem.phi, problem.trajectory, KL_COEFFICIENT
    )
    found = {name: state.moments[f"theta.{name}.exp_avg"] / 0.1 for name in stacked}
    assert relative_error(found, {name: g.mean(0) for name, g in stacked.items()}) < 1e-12


@pytest.mark.parametrize("layers", get_args(Layers))
def test_first_order_maml_of_layers_that_stay_is_the_same_beside_warps_as_alone(
    layers: Layers,
) -> None:
    p = make_problem("gate", STEPS, tasks=TASKS, rates=True, layers=layers)
    state, _ = update(p, replace(ONLINE, init="fomaml"))
    meta = p.objective(init="fomaml")
    stacked, _ = init_gradient(meta, p.theta_0, p.phi, p.trajectory, KL_COEFFICIENT)
    found = {name: state.moments[f"theta.{name}.exp_avg"] / 0.1 for name in stacked}
    assert relative_error(found, {name: g.mean(0) for name, g in stacked.items()}) < 1e-12


def test_first_order_maml_steps_where_a_part_holds_the_last_state_of_a_task(
    problem: Problem,
) -> None:
    one_each = with_adam(replace(OFFLINE, init="fomaml"), epochs=1, minibatches=TASKS * STEPS)
    state, report = update(problem, one_each)
    assert report.metrics["meta_steps"] == TASKS * STEPS
    steps = {n: float(t) for n, t in state.moments.items() if n.endswith(".step")}
    assert {s for n, s in steps.items() if n.startswith("phi.")} == {TASKS * STEPS}
    assert {s for n, s in steps.items() if n.startswith("theta.")} == {TASKS}


def test_the_optimiser_goes_on_where_the_last_update_left_it(problem: Problem) -> None:
    config = with_adam(ONLINE, warp_lr=0.01)
    first, _ = update(problem, config)
    second, _ = update(problem, config, state=first)
    forgetful, _ = update(problem, config, state=replace(first, moments={}))
    for name in problem.phi:
        # Adam, step 2: m = 0.9 m_1 + 0.1 g, v = 0.999 v_1 + 0.001 g^2, each over 1 - beta^2.
        key = f"phi.{name}.exp_avg"
        g = forgetful.moments[key] / 0.1
        m = 0.9 * first.moments[key] + 0.1 * g
        v = 0.999 * first.moments[f"{key}_sq"] + 0.001 * g**2
        torch.testing.assert_close(second.moments[key], m, rtol=1e-10, atol=0.0)
        step = 0.01 * (m / (1 - 0.9**2)) / (torch.sqrt(v / (1 - 0.999**2)) + 1e-8)
        torch.testing.assert_close(first.phi[name] - second.phi[name], step, rtol=1e-6, atol=0.0)


def test_gradients_are_scaled_down_to_the_largest_norm(problem: Problem) -> None:
    theta, phi = expected_gradients(problem)
    limit = 1e-3
    state, _ = update(problem, with_adam(ONLINE, max_grad_norm=limit))
    for group, slope in (("theta", theta), ("phi", phi)):
        norm = torch.sqrt(sum((g.square().sum() for g in slope.values()), torch.zeros(())))
        assert norm > limit
        found = {name: state.moments[f"{group}.{name}.exp_avg"] / 0.1 for name in slope}
        assert relative_error(found, {n: g * limit / norm for n, g in slope.items()}) < 1e-3


def test_reported_loss_and_kl_are_means_over_all_states(problem: Problem) -> None:
    _, report = update(problem, replace(ONLINE, init="fixed"))
    expected = naive.exact(problem.setting(), problem.theta_0, problem.phi, problem.paths)
    assert report.metrics["meta_loss"] == pytest.approx(expected.item(), rel=1e-10)
    penalised = with_adam(replace(ONLINE, init="fixed"), kl_coefficient=KL_COEFFICIENT + 1.0)
    _, more = update(problem, penalised)
    rise = more.metrics["meta_loss"] - report.metrics["meta_loss"]
    assert report.metrics["kl"] == pytest.approx(rise, rel=1e-9)
    assert report.metrics["kl_coefficient"] == KL_COEFFICIENT


def test_offline_visits_every_state_once_an_epoch_in_another_order(problem: Problem) -> None:
    config = with_adam(replace(OFFLINE, init="fixed"), epochs=2)
    spy = Spy(OuterLoss(problem.policy, CLIP))
    _, report = update(problem, config, meta_loss=spy)
    assert report.metrics["meta_steps"] == 4
    every = problem.states().query.obs[:, 0, 0].tolist()
    first, second = spy.seen[: len(every)], spy.seen[len(every) :]
    assert sorted(first) == sorted(second) == sorted(every)
    assert first != second


def test_offline_visits_every_state_even_in_more_parts_than_tasks(problem: Problem) -> None:
    config = with_adam(replace(OFFLINE, init="fixed"), epochs=1, minibatches=TASKS * STEPS)
    spy = Spy(OuterLoss(problem.policy, CLIP))
    update(problem, config, meta_loss=spy)
    assert sorted(spy.seen) == sorted(problem.states().query.obs[:, 0, 0].tolist())


def test_offline_with_one_pass_and_one_part_is_online(problem: Problem) -> None:
    once = with_adam(OFFLINE, epochs=1, minibatches=1)
    assert same_state(update(problem, once)[0], update(problem, ONLINE)[0])


@pytest.mark.parametrize("config", [ONLINE, OFFLINE])
def test_states_serve_one_update_only(problem: Problem, config: LearnerConfig) -> None:
    # The second update must not see the first one's data: it equals that of a fresh learner.
    other = make_problem("residual", STEPS, tasks=3, seed=1).trajectory
    first, _ = update(problem, config)
    second, _ = update(problem, config, other, state=first)
    fresh, _ = update(problem, config, other, state=replace(first))
    assert same_state(second, fresh)


def test_an_update_leaves_what_it_is_given_unchanged(problem: Problem) -> None:
    first, _ = update(problem, OFFLINE)
    before = {name: value.clone() for name, value in first.to_tensors().items()}
    data = [x.clone() for x in problem.trajectory.data]
    second, _ = update(problem, OFFLINE, state=first)
    again, _ = update(problem, OFFLINE, state=first)
    assert same_bits(first.to_tensors(), before)
    assert all(torch.equal(x, y) for x, y in zip(problem.trajectory.data, data, strict=True))
    assert same_state(second, again)
    assert (first.iteration, second.iteration) == (1, 2)


def test_many_steps_descend_the_meta_loss(problem: Problem) -> None:
    config = with_adam(replace(OFFLINE, init="fixed"), minibatches=1, warp_lr=1e-3)
    _, one = update(problem, with_adam(config, epochs=1))
    _, many = update(problem, with_adam(config, epochs=30))
    assert many.metrics["meta_loss"] < one.metrics["meta_loss"] - 0.01


def test_without_warps_the_initialisation_alone_learns() -> None:
    p = make_problem(None, STEPS)
    state, report = update(p, OFFLINE)
    assert state.phi == {} and not same_bits(state.theta, p.theta_0)
    assert report.metrics["kl"] > 0.0


def test_a_fixed_initialisation_stays_where_it_is(problem: Problem) -> None:
    state, _ = update(problem, replace(OFFLINE, init="fixed"))
    assert same_bits(state.theta, problem.theta_0) and not same_bits(state.phi, problem.phi)


# --- two time scales ----------------------------------------------------------------------------

SLOWLY = with_adam(replace(ONLINE, objective=TwoTimeScale(warp_every=3)), warp_lr=0.01)


@pytest.fixture(scope="module")
def start() -> Problem:
    """Data at theta_0 alone: no inner step is taken."""
    return make_problem("gate", 0, tasks=TASKS)


def gradients_at_start(p: Problem, theta_0: Params, phi: Params) -> tuple[Params, Params]:
    """Of theta_0 and phi, by the naive loop over tasks."""
    setting = p.setting()

    def loss(theta_0: Params, phi: Params) -> Tensor:
        terms = [naive.meta_loss(setting, theta_0, phi, path.data[0]) for path in p.paths]
        return torch.stack(terms).mean()

    by_theta = naive.gradient(lambda at: loss(at, phi), theta_0)
    return by_theta, naive.gradient(lambda at: loss(theta_0, at), phi)


def test_on_two_time_scales_phi_waits_and_steps_along_the_sum_of_its_gradients(
    start: Problem,
) -> None:
    state = Learner(SLOWLY).init(start.theta_0, start.phi)
    total: Params = {}
    for iteration in (1, 2, 3):
        before = replace(state, kl_coefficient=KL_COEFFICIENT)  # it adapts
        theta, phi = gradients_at_start(start, before.theta, before.phi)
        total = {name: phi[name] + total.get(name, 0.0) for name in phi}
        state, report = update(start, SLOWLY, state=before)
        assert report.metrics["meta_steps"] == 1
        assert same_bits(state.phi, before.phi) == (iteration < 3)
        assert not same_bits(state.theta, before.theta)
        if iteration == 1:
            first = {name: state.moments[f"theta.{name}.exp_avg"] / 0.1 for name in theta}
            assert relative_error(first, theta) < 1e-6
        if iteration < 3:
            assert relative_error(state.gathered, total) < 1e-6
    # Adam's first step of phi, three updates late, is along the sum.
    found = {name: state.moments[f"phi.{name}.exp_avg"] / 0.1 for name in total}
    assert relative_error(found, total) < 1e-6
    assert state.gathered == {}


def test_what_waits_for_phi_s_turn_outlasts_a_resume(start: Problem) -> None:
    straight = interrupted = Learner(SLOWLY).init(start.theta_0, start.phi)
    for _ in range(4):
        straight, _ = update(start, SLOWLY, state=straight)
        interrupted, _ = update(start, SLOWLY, state=interrupted)
        scalars = json.loads(json.dumps(interrupted.to_scalars()))
        interrupted = LearnerState.from_tensors(interrupted.to_tensors(), scalars)
    assert same_state(straight, interrupted)
    assert straight.gathered and not same_bits(straight.phi, start.phi)


def test_a_task_that_is_not_finite_adds_nothing_to_what_phi_gathers(start: Problem) -> None:
    bad = poisoned(start.trajectory, 2, logp=-1e4)
    found, report = update(start, SLOWLY, bad)
    expected, _ = update(start, SLOWLY, without(start.trajectory, 2))
    assert report.diverged == (2,)
    assert relative_error(found.gathered, expected.gathered) < 1e-9


def test_a_state_from_before_phi_could_wait_is_read(problem: Problem) -> None:
    state, _ = update(problem, OFFLINE)
    older = {n: x for n, x in state.to_tensors().items() if not n.startswith("gathered.")}
    assert same_state(LearnerState.from_tensors(older, state.to_scalars()), state)


# --- KL guard -----------------------------------------------------------------------------------


def test_a_step_past_the_kl_limit_is_taken_back_and_ends_the_update(problem: Problem) -> None:
    config = with_adam(replace(OFFLINE, init="fixed"), minibatches=1)
    start = Learner(config).init(problem.theta_0, problem.phi)
    loss = Receding(OuterLoss(problem.policy, CLIP), problem.phi)
    # Each pass sees the KL of the steps before it: after none, one and two of them.
    passes = [update(problem, with_adam(config, epochs=n), meta_loss=loss) for n in (1, 2, 3)]
    kls = [report.metrics["kl"] for _, report in passes]
    assert 0.0 == kls[0] < kls[1] < kls[2]
    for kept, expected in enumerate((start, passes[0][0])):
        limit = (kls[kept] + kls[kept + 1]) / 2
        guarded, report = update(problem, with_adam(config, kl_limit=limit), meta_loss=loss)
        assert report.metrics["meta_steps"] == kept
        assert same_bits(guarded.to_tensors(), expected.to_tensors())


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_step_that_overflows_is_taken_back_and_no_task_is_blamed(
    problem: Problem, minibatches: int
) -> None:
    config = with_adam(replace(OFFLINE, init="fixed"), minibatches=minibatches)
    start = Learner(config).init(problem.theta_0, problem.phi)
    loss = Receding(OuterLoss(problem.policy, CLIP), problem.phi, overflows=True)
    found, report = update(problem, config, meta_loss=loss)
    assert report.metrics["meta_steps"] == 0 and report.diverged == ()
    assert same_bits(found.to_tensors(), start.to_tensors())
    assert found.step_scale == 0.5


def test_steps_shorten_after_one_that_went_too_far_and_recover(problem: Problem) -> None:
    strict = with_adam(OFFLINE, kl_limit=1e-9)
    first, _ = update(problem, strict)
    second, report = update(problem, strict, state=first)
    assert (first.step_scale, second.step_scale) == (0.5, 0.25)
    assert report.metrics["step_scale"] == 0.5
    calm, _ = update(problem, OFFLINE, state=second)
    assert calm.step_scale == pytest.approx(0.275)
    nearly, _ = update(problem, OFFLINE, state=replace(calm, step_scale=0.95))
    assert nearly.step_scale == 1.0


def test_the_scale_shortens_the_steps_of_warps_and_initialisation(problem: Problem) -> None:
    start = Learner(ONLINE).init(problem.theta_0, problem.phi)
    whole, _ = update(problem, ONLINE, state=start)
    half, _ = update(problem, ONLINE, state=replace(start, step_scale=0.5))
    for before, long, short in (
        (start.theta, whole.theta, half.theta),
        (start.phi, whole.phi, half.phi),
    ):
        halved = {name: before[name] + (long[name] - before[name]) / 2 for name in before}
        assert relative_error(short, halved) < 1e-9
        assert not same_bits(long, before)


@pytest.mark.parametrize(("share", "factor"), [(0.5, 2.0), (1.2, 1.0), (2.0, 0.5)])
def test_penalty_adapts_towards_the_target_kl(
    problem: Problem, share: float, factor: float
) -> None:
    # The target lies below the KL by more than half, near it, or above it by more than half.
    kl = update(problem, OFFLINE)[1].metrics["kl"]
    state, report = update(problem, with_adam(OFFLINE, kl_target=share * kl))
    assert report.metrics["kl"] == kl
    assert state.kl_coefficient == KL_COEFFICIENT * factor
    following = update(problem, OFFLINE, state=state)[1]
    assert following.metrics["kl_coefficient"] == KL_COEFFICIENT * factor


# --- divergence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [ONLINE, OFFLINE])
def test_a_task_marked_as_diverged_is_named_and_as_good_as_absent(
    problem: Problem, config: LearnerConfig
) -> None:
    finite = problem.trajectory.finite.clone()
    finite[3] = False
    bad = poisoned(problem.trajectory, 3, obs=np.nan, advantage=np.inf)._replace(finite=finite)
    found, report = update(problem, config, bad)
    expected, clean = update(problem, config, without(problem.trajectory, 3))
    assert report.diverged == (3,) and clean.diverged == ()
    assert same_state(found, expected)
    assert report.metrics == clean.metrics


def test_a_task_whose_meta_gradient_is_not_finite_is_named_and_left_out(problem: Problem) -> None:
    # Its numbers are finite, but the ratio exp(... + 1e4) is not.
    bad = poisoned(problem.trajectory, 1, logp=-1e4)
    found, report = update(problem, ONLINE, bad)
    expected, _ = update(problem, ONLINE, without(problem.trajectory, 1))
    assert report.diverged == (1,)
    for left, right in ((found.theta, expected.theta), (found.phi, expected.phi)):
        assert relative_error(left, right) < 1e-9
    assert all(np.isfinite(x) for x in report.metrics.values())


@pytest.mark.parametrize("task", range(TASKS))
def test_a_task_that_is_not_finite_is_found_in_whichever_part_it_is(
    problem: Problem, task: int
) -> None:
    bad = poisoned(problem.trajectory, task, logp=-1e4)
    found, report = update(problem, OFFLINE, bad)
    assert report.diverged == (task,)
    assert report.metrics["meta_steps"] == 3 * 2
    assert found.step_scale == 1.0


@dataclass(frozen=True)
class Infinite:
    """A meta-loss that is infinite on the data of one task, where its slope stays finite."""

    inner: OuterLoss
    first: Tensor  # observation of the task's last rollout

    def __call__(
        self, theta: Params, phi: Params, batch: Batch, kl_coefficient: float
    ) -> MetaLossValue:
        value = self.inner(theta, phi, batch, kl_coefficient)
        there = (batch.obs[:, 0] == self.first).all(-1)
        return value._replace(loss=value.loss + torch.where(there, np.inf, 0.0))


def test_a_loss_that_is_infinite_counts_nothing_although_its_slope_is_finite(
    problem: Problem,
) -> None:
    first = problem.trajectory.data.obs[3, STEPS, 0]
    loss = Infinite(OuterLoss(problem.policy, CLIP), first)
    found, report = update(problem, replace(ONLINE, init="fixed"), meta_loss=loss)
    assert report.diverged == (3,) and np.isfinite(report.metrics["meta_loss"])
    assert all(bool(torch.isfinite(x).all()) for x in found.to_tensors().values())
    calm, _ = update(problem, replace(ONLINE, init="fixed"))
    assert not same_bits(found.phi, calm.phi)


def test_names_are_those_of_the_meta_batch_not_of_the_rows(problem: Problem) -> None:
    finite = torch.ones(TASKS, dtype=torch.bool)
    finite[0] = False
    renamed = problem.trajectory._replace(task=torch.tensor([1, 3, 4, 7, 9]), finite=finite)
    renamed = poisoned(renamed, 2, logp=-1e4)
    assert update(problem, ONLINE, renamed)[1].diverged == (1, 4)


@pytest.mark.parametrize("config", [ONLINE, OFFLINE])
@pytest.mark.parametrize("marked", [True, False])
def test_if_no_task_remains_only_the_iteration_changes(
    problem: Problem, config: LearnerConfig, marked: bool
) -> None:
    state, _ = update(problem, config)  # Adam has moments that would keep it moving
    if marked:
        finite = torch.zeros(TASKS, dtype=torch.bool)
        bad = problem.trajectory._replace(finite=finite)
    else:
        bad = problem.trajectory
        for task in range(TASKS):
            bad = poisoned(bad, task, logp=-1e4)
    after, report = update(problem, config, bad, state=state)
    assert report.diverged == tuple(range(TASKS))
    assert same_state(after, replace(state, iteration=state.iteration + 1))


# --- the same result however it is computed -----------------------------------------------------


@pytest.mark.parametrize("warp", ["residual", None])
def test_number_of_threads_does_not_change_a_bit(warp: WarpKind | None) -> None:
    p = make_problem(warp, STEPS, tasks=7)
    alone, report = update(p, OFFLINE)
    for threads in (2, 3):
        together, other = update(p, OFFLINE, threads=threads)
        assert same_state(alone, together)
        assert report == other


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_size_of_the_chunks_changes_the_rounding_alone(problem: Problem, chunk: int) -> None:
    expected, _ = update(problem, ONLINE)
    found, _ = update(problem, ONLINE, chunk=chunk)
    assert relative_error(found.to_tensors(), expected.to_tensors()) < 1e-10


def test_states_of_the_learner_survive_a_trip_through_flat_tensors(problem: Problem) -> None:
    state, _ = update(problem, OFFLINE)
    tensors = {name: value.clone() for name, value in state.to_tensors().items()}
    scalars = json.loads(json.dumps(state.to_scalars()))
    restored = LearnerState.from_tensors(tensors, scalars)
    assert same_state(restored, state)
    assert same_state(
        update(problem, OFFLINE, state=restored)[0], update(problem, OFFLINE, state=state)[0]
    )
