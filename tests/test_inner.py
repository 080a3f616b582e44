"""Rollouts and adaptation on a little world whose every step can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import naive
import numpy as np
import pytest
import torch
from helpers import relative_error, same_bits
from numpy.typing import NDArray

from warprl.agents.distributions import ActionDistribution, Categorical, Gaussian
from warprl.agents.inner import AdaptationConfig, GradientAdaptation, Shard, adapt, to_batch
from warprl.agents.policy import Policy, PolicyConfig
from warprl.agents.rollout import Draws, collect
from warprl.envs.physics import Physics
from warprl.envs.robots.locomotion import LocomotionBatch
from warprl.envs.robots.walker2d import Walker2dDir
from warprl.envs.tasks import Direction
from warprl.seeding import Purpose, generator
from warprl.types import Params, Rollout, Task, Trajectory

HORIZON, EPISODES = 5, 4
GAUSSIAN, CATEGORICAL = Gaussian(1), Categorical(2)
each_distribution = pytest.mark.parametrize("distribution", [GAUSSIAN, CATEGORICAL])
PURPOSES: tuple[Purpose, Purpose] = ("reset", "action")


@dataclass(frozen=True)
class Aim(Task):
    """Choose the goal as action. An episode ends after ``lifetime`` steps plus its number."""

    goal: float
    lifetime: int = HORIZON
    broken: bool = False  # the reward of every third step is not a number
    fault: bool = False  # the physics warns
    late: bool = False  # it warns once an episode is over and its neighbours go on


class AimEnv:
    """A walk that adds the action to the position; the reward is minus the squared miss.

    A one-hot action of width 2 adds to either coordinate; taken or not, its first is what counts.
    """

    horizon = HORIZON

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def reset(
        self, tasks: Sequence[Task], generators: Sequence[np.random.Generator]
    ) -> NDArray[np.float64]:
        episodes = self.num_envs // len(tasks)
        self._tasks = [task for task in tasks for _ in range(episodes) if isinstance(task, Aim)]
        self._number = np.tile(np.arange(episodes), len(tasks))
        self._t = 0
        self._obs = np.concatenate([rng.standard_normal((episodes, 2)) for rng in generators])
        return self._obs.copy()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        self._t += 1
        self._obs = self._obs + action
        goal, lifetime, broken = (
            np.array([getattr(task, name) for task in self._tasks])
            for name in ("goal", "lifetime", "broken")
        )
        reward = -((action[:, 0] - goal) ** 2).astype(np.float64)
        reward[broken & (self._t % 3 == 0)] = np.nan
        return self._obs.copy(), reward, self._t >= lifetime + self._number

    def skip(self, ended: NDArray[np.bool_]) -> None:
        """Advance them all the same."""

    def faults(self) -> NDArray[np.bool_]:
        ends = [
            task.lifetime + number for task, number in zip(self._tasks, self._number, strict=True)
        ]
        return np.array(
            [
                t.fault or (t.late and self._t > end)
                for t, end in zip(self._tasks, ends, strict=True)
            ]
        )


def policy_and_params(
    distribution: ActionDistribution = GAUSSIAN,
) -> tuple[Policy, Params, Params]:
    policy = Policy(2, distribution, PolicyConfig(hidden=(6, 5), warp="residual", log_std=-0.5))
    theta, phi = policy.init(np.random.default_rng(0))
    rng = torch.Generator().manual_seed(0)
    return (
        policy,
        theta,
        {name: x + 0.1 * torch.randn(x.shape, generator=rng) for name, x in phi.items()},
    )


def roll(
    tasks: Sequence[Task], seed: int = 0, distribution: ActionDistribution = GAUSSIAN
) -> tuple[Policy, Params, Params, Rollout]:
    policy, theta_0, phi = policy_and_params(distribution)
    rng = torch.Generator().manual_seed(1)
    theta = {
        name: x + 0.3 * torch.randn(len(tasks), *x.shape, generator=rng)
        for name, x in theta_0.items()
    }
    reset, action = (
        [generator(seed, purpose, task=t) for t in range(len(tasks))] for purpose in PURPOSES
    )
    draws = Draws(tasks, reset, action)
    rollout = collect(AimEnv(len(tasks) * EPISODES), policy, theta, phi, draws).rollout
    return policy, theta, phi, rollout


def run(
    tasks: Sequence[Task],
    indices: Sequence[int] | None = None,
    config: AdaptationConfig | None = None,
    iteration: int = 1,
    distribution: ActionDistribution = GAUSSIAN,
) -> Trajectory:
    policy, theta_0, phi = policy_and_params(distribution)
    config = config or GradientAdaptation(steps=2, inner_lr=0.05, episodes=EPISODES, lam=0.9)
    env = AimEnv(len(tasks) * config.episodes)
    places = indices if indices is not None else range(len(tasks))
    return adapt(env, policy, theta_0, phi, Shard(tasks, places, 0, iteration), config)[0]


def same_trajectory(left: Trajectory, right: Trajectory) -> bool:
    return (
        same_bits(left.theta, right.theta)
        and same_bits(left.data._asdict(), right.data._asdict())
        and torch.equal(left.returns, right.returns)
        and torch.equal(left.finite, right.finite)
    )


def rows(trajectory: Trajectory, keep: list[int]) -> Trajectory:
    return Trajectory(
        trajectory.task[keep],
        {name: x[keep] for name, x in trajectory.theta.items()},
        type(trajectory.data)(*(x[keep] for x in trajectory.data)),
        trajectory.returns[keep],
        trajectory.finite[keep],
    )


MIXED = (Aim(0.5), Aim(-0.5, lifetime=2), Aim(1.0, lifetime=4))


# --- rollouts -----------------------------------------------------------------------------------


@each_distribution
def test_stored_log_probabilities_are_those_of_the_stored_actions(
    distribution: ActionDistribution,
) -> None:
    policy, theta, phi, rollout = roll(MIXED, distribution=distribution)
    found = policy.log_prob(theta, phi, rollout.obs.flatten(1, 2), rollout.act.flatten(1, 2))
    valid = rollout.valid.flatten(1, 2) > 0
    torch.testing.assert_close(
        found[valid], rollout.logp.flatten(1, 2)[valid], rtol=1e-4, atol=1e-4
    )


def test_choices_are_stored_one_hot_and_taken_as_they_are_stored() -> None:
    _, _, _, rollout = roll(MIXED, distribution=CATEGORICAL)
    valid = rollout.valid > 0
    act = rollout.act[valid]
    assert ((act == 0.0) | (act == 1.0)).all() and (act.sum(-1) == 1.0).all()
    assert 0.0 < act[:, 0].mean() < 1.0
    goals = torch.tensor([task.goal for task in MIXED]).reshape(3, 1, 1).expand_as(valid)[valid]
    torch.testing.assert_close(rollout.reward[valid], -((act[:, 0] - goals) ** 2))


def test_episodes_end_at_their_termination_and_the_horizon_terminates_nothing() -> None:
    _, _, _, rollout = roll(MIXED)
    # Episode e of the tasks lasts min(5, 5 + e), min(5, 2 + e) and min(5, 4 + e) steps; it
    # terminates in the MDP's own right if 5 + e, 2 + e or 4 + e is at most the horizon, 5.
    assert rollout.valid.sum(-1).tolist() == [[5, 5, 5, 5], [2, 3, 4, 5], [4, 5, 5, 5]]
    assert rollout.terminated.tolist() == [
        [True, False, False, False],
        [True, True, True, True],
        [True, True, False, False],
    ]
    assert (rollout.valid.diff(dim=-1) <= 0).all()
    assert not rollout.reward[rollout.valid == 0].any()


def test_rewards_and_observations_are_those_of_the_step() -> None:
    _, _, _, rollout = roll(MIXED)
    goals = torch.tensor([task.goal for task in MIXED]).reshape(3, 1, 1)
    expected = -((rollout.act[..., 0] - goals) ** 2) * rollout.valid
    torch.testing.assert_close(rollout.reward, expected, rtol=1e-5, atol=1e-6)
    moved = (rollout.obs[:, :, 1:] - rollout.obs[:, :, :-1]) * rollout.valid[:, :, 1:, None]
    action = rollout.act[:, :, :-1] * rollout.valid[:, :, 1:, None]
    torch.testing.assert_close(moved, action.expand_as(moved), rtol=1e-4, atol=1e-5)


def test_advantages_are_those_of_the_naive_loop() -> None:
    policy, _, _, rollout = roll(MIXED)
    config = GradientAdaptation(gamma=0.9, lam=0.8)
    batch = to_batch(rollout, config, policy.obs_dim)
    for t in range(len(MIXED)):
        lengths = [int(n) for n in rollout.valid[t].sum(-1)]
        rewards = [rollout.reward[t, e, :n].double().tolist() for e, n in enumerate(lengths)]
        obs = [rollout.obs[t, e, :n].double().numpy() for e, n in enumerate(lengths)]
        returns = [naive.discounted_returns(r, 0.9) for r in rewards]
        values = naive.baseline(obs, returns)
        raw = np.concatenate(
            [naive.gae(r, v.tolist(), 0.9, 0.8) for r, v in zip(rewards, values, strict=True)]
        )
        expected = (raw - raw.mean()) / raw.std()
        valid = batch.valid[t] > 0
        found = batch.advantage[t][valid].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        assert not batch.advantage[t][~valid].any()


# --- adaptation ---------------------------------------------------------------------------------


def test_each_step_descends_the_task_loss_on_the_data_of_its_own_policy() -> None:
    policy, theta_0, phi = policy_and_params()
    found = run(MIXED)
    double = {name: x.double() for name, x in phi.items()}
    setting = naive.Setting("residual", 0.05, None, 0.0)
    assert found.data.logp.shape == (3, 3, EPISODES * HORIZON)
    for t in range(len(MIXED)):
        for k in range(2):
            here, there = (
                {name: x[t, j].double() for name, x in found.theta.items()} for j in (k, k + 1)
            )
            if k == 0:
                assert same_bits({n: x[t, 0] for n, x in found.theta.items()}, theta_0)
            b = [x[t, k].double() for x in found.data]
            data = [
                naive.Transition(b[0][i], b[1][i], float(b[2][i]), float(b[3][i]))
                for i in range(EPISODES * HORIZON)
                if b[4][i] > 0
            ]
            expected = naive.inner_step(setting, here, double, data)
            moved = {name: there[name] - here[name] for name in here}
            wanted = {name: expected[name] - here[name] for name in here}
            assert relative_error(moved, wanted) < 1e-3


def test_fresh_episodes_are_drawn_for_every_step_task_and_iteration() -> None:
    alike = run([Aim(0.5), Aim(0.5)])
    starts = [alike.data.obs[t, k, 0].tolist() for t in range(2) for k in range(3)]
    starts.append(run([Aim(0.5)], iteration=2).data.obs[0, 0, 0].tolist())
    assert len({tuple(start) for start in starts}) == len(starts)


def test_returns_are_the_mean_undiscounted_ones() -> None:
    found = run([Aim(0.5, lifetime=2)])
    act, valid = found.data.act[0, ..., 0], found.data.valid[0]
    expected = -(((act - 0.5) ** 2) * valid).sum(-1) / EPISODES
    torch.testing.assert_close(found.returns[0], expected, rtol=1e-5, atol=1e-6)


@each_distribution
def test_adaptation_raises_the_return(distribution: ActionDistribution) -> None:
    lr = 0.1 if distribution == GAUSSIAN else 1.0
    config = GradientAdaptation(steps=3, inner_lr=lr, episodes=40)
    found = run([Aim(1.0), Aim(-1.0)], config=config, distribution=distribution)
    assert (found.returns[:, -1] > found.returns[:, 0] + 1.0).all()


@each_distribution
@pytest.mark.parametrize("shard", [[0], [1, 2], [2, 0]])
def test_a_task_has_the_same_bits_in_whichever_shard_it_is_computed(
    shard: list[int], distribution: ActionDistribution
) -> None:
    whole = run(MIXED, distribution=distribution)
    part = run([MIXED[t] for t in shard], shard, distribution=distribution)
    assert same_trajectory(part, rows(whole, shard))


@pytest.mark.parametrize("flaw", ["broken", "fault"])
def test_a_diverged_task_is_marked_and_disturbs_no_other(flaw: str) -> None:
    tasks = [MIXED[0], replace(MIXED[1], lifetime=HORIZON, **{flaw: True}), MIXED[2]]
    found = run(tasks)
    assert found.finite.tolist() == [True, False, True]
    assert same_trajectory(rows(found, [0, 2]), rows(run(MIXED), [0, 2]))
    # The diverged task keeps its last good parameters.
    for x in found.theta.values():
        assert torch.equal(x[1], x[1, :1].expand_as(x[1]))


def test_a_fault_after_an_episode_s_end_is_none_whatever_the_neighbours() -> None:
    brief, neighbour = Aim(-0.5, lifetime=1, late=True), Aim(0.5)
    alone, together = run([brief]), run([brief, neighbour])
    assert alone.finite.tolist() == [True]
    assert together.finite.tolist() == [True, True]


def test_a_step_that_overflows_marks_its_task() -> None:
    config = GradientAdaptation(steps=2, inner_lr=1e39, episodes=EPISODES)
    found = run([Aim(0.5)], config=config)
    assert found.finite.tolist() == [False]
    assert all(torch.isfinite(x).all() for x in found.theta.values())


class NeverSkips(LocomotionBatch):
    """Advances the skipped simulations too."""

    def skip(self, ended: NDArray[np.bool_]) -> None:
        """Do nothing."""


def test_no_physics_is_spent_behind_an_episodes_end_and_no_bit_depends_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = Walker2dDir()
    policy = Policy.for_spaces(family.spaces, PolicyConfig())
    theta, phi = policy.init(np.random.default_rng(0))
    tasks = [Direction(1.0), Direction(-1.0)]
    advanced, step = [0], Physics.step

    def counted(physics: Physics, running: NDArray[np.bool_]) -> None:
        advanced[-1] += int(running.sum())
        step(physics, running)

    monkeypatch.setattr(Physics, "step", counted)
    rollouts = []
    for batch in (LocomotionBatch(family, 8), NeverSkips(family, 8)):
        reset, action = ([generator(0, purpose, task=t) for t in range(2)] for purpose in PURPOSES)
        stacked = {name: torch.stack([x, x]) for name, x in theta.items()}
        draws = Draws(tasks, reset, action)
        rollouts.append(collect(batch, policy, stacked, phi, draws).rollout)
        advanced.append(0)
    saving, whole = rollouts
    assert all(torch.equal(x, y) for x, y in zip(saving, whole, strict=True))
    steps = saving.valid.flatten(0, 1)
    assert advanced[0] == steps.sum() < advanced[1] == 8 * steps.any(0).sum()
