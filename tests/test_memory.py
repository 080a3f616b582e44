"""Policies with memory: what they observe, how they adapt by it, and that it helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import naive
import numpy as np
import pytest
import torch
from helpers import same_bits
from numpy.typing import NDArray

from warprl import params as P
from warprl.adam import Adam
from warprl.agents.distributions import Gaussian
from warprl.agents.inner import (
    AdaptationConfig,
    GradientAdaptation,
    MemoryAdaptation,
    Shard,
    adapt,
)
from warprl.agents.losses import InnerLoss
from warprl.agents.meta import Agent
from warprl.agents.policy import Policy, PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.envs import make_family
from warprl.learner import Learner, LearnerConfig, Ppo
from warprl.objective import TwoTimeScale
from warprl.seeding import generator
from warprl.types import Batch, Params, Task, Trajectory

HORIZON, EPISODES = 5, 3
GRU = PolicyConfig((6, 5), memory="gru", log_std=-0.5)
RNN = replace(GRU, memory="rnn")
WARPED = replace(RNN, warp="recurrent")
TRIALS = MemoryAdaptation(steps=2, episodes=EPISODES, gamma=0.9, lam=0.8)
STEPS = GradientAdaptation(steps=2, inner_lr=0.05, episodes=EPISODES, gamma=0.9, lam=0.8)

each_policy = pytest.mark.parametrize("shape", [GRU, RNN, WARPED], ids=["gru", "rnn", "warped"])
each_way = pytest.mark.parametrize("config", [TRIALS, STEPS], ids=["memory", "gradient"])


@dataclass(frozen=True)
class Lever(Task):
    """Push a lever in the right direction. An episode lasts ``lifetime`` steps plus its number."""

    direction: float
    lifetime: int = HORIZON
    broken: bool = False  # the reward is not a number


class LeverEnv:
    """The reward is the push, counted in the task's direction; observations do not tell it."""

    horizon = HORIZON

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs

    def reset(
        self, tasks: Sequence[Task], generators: Sequence[np.random.Generator]
    ) -> NDArray[np.float64]:
        episodes = self.num_envs // len(tasks)
        self._tasks = [task for task in tasks for _ in range(episodes) if isinstance(task, Lever)]
        self._number = np.tile(np.arange(episodes), len(tasks))
        self._t = 0
        self._start = np.concatenate([rng.standard_normal(episodes) for rng in generators])
        return self._observed()

    def _observed(self) -> NDArray[np.float64]:
        return np.stack([self._start, np.full(self.num_envs, 0.1 * self._t)], 1)

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        self._t += 1
        direction = np.array([task.direction for task in self._tasks])
        lifetime = np.array([task.lifetime for task in self._tasks])
        reward = direction * np.clip(action[:, 0], -1.0, 1.0).astype(np.float64)
        reward[[task.broken for task in self._tasks]] = np.nan
        return self._observed(), reward, self._t >= lifetime + self._number

    def skip(self, ended: NDArray[np.bool_]) -> None:
        """Advance them all the same."""

    def faults(self) -> NDArray[np.bool_]:
        return np.zeros(self.num_envs, dtype=bool)


MIXED = (Lever(1.0), Lever(-1.0, lifetime=2), Lever(1.0, lifetime=4))


def parameters(shape: PolicyConfig) -> tuple[Policy, Params, Params]:
    """A policy whose warp, if it has one, is off the identity."""
    policy = Policy(2, Gaussian(1), shape)
    theta, phi = policy.init(np.random.default_rng(0))
    rng = torch.Generator().manual_seed(0)
    return policy, theta, P.tree_map(lambda x: x + 0.3 * torch.randn(x.shape, generator=rng), phi)


def run(
    shape: PolicyConfig,
    config: AdaptationConfig,
    tasks: Sequence[Task] = MIXED,
    indices: Sequence[int] | None = None,
) -> tuple[Policy, Params, Trajectory]:
    policy, theta_0, phi = parameters(shape)
    env = LeverEnv(len(tasks) * config.episodes)
    places = range(len(tasks)) if indices is None else indices
    shard = Shard(tasks, places, 0, 1)
    return policy, phi, adapt(env, policy, theta_0, phi, shard, config)[0]


def point(trajectory: Trajectory, k: int) -> tuple[Params, Batch]:
    """theta_k of all tasks and the data drawn there."""
    every = slice(None)
    return P.select(trajectory.theta, every, k), Batch(*(x[:, k] for x in trajectory.data))


# --- what is stored -----------------------------------------------------------------------------


@each_policy
@each_way
def test_the_network_runs_over_what_is_stored_as_it_ran_when_it_acted(
    shape: PolicyConfig, config: AdaptationConfig
) -> None:
    policy, phi, found = run(shape, config)
    for k in range(found.points):
        theta, data = point(found, k)
        again = policy.log_prob(theta, phi, data.obs, data.act)
        on = data.valid > 0
        torch.testing.assert_close(again[on], data.logp[on], rtol=1e-4, atol=1e-4)


def told(found: Trajectory, task: int, episodes: int) -> tuple[torch.Tensor, ...]:
    """Action, reward, first, alive and start of what was seen, ``[trials, episodes * H]``."""
    seen = found.data.obs[task, 0].view(EPISODES, episodes * HORIZON, -1)
    return tuple(seen[..., column] for column in range(2, 7))


def test_each_step_is_told_the_action_and_the_reward_before_it_through_the_whole_trial() -> None:
    _, _, found = run(GRU, TRIALS)
    for t, task in enumerate(MIXED):
        action, reward, first, alive, start = told(found, t, episodes=3)
        act = found.data.act[t, 0].view(EPISODES, 3 * HORIZON)
        assert torch.equal(alive, found.data.valid[t, 0].view_as(alive))
        for e in range(EPISODES):
            before, gained = 0.0, 0.0
            for step in range(3 * HORIZON):
                if alive[e, step] == 0:
                    continue
                assert action[e, step] == before and reward[e, step] == pytest.approx(gained)
                before = float(act[e, step])
                gained = task.direction * min(max(before, -1.0), 1.0)
        every = torch.arange(3 * HORIZON)
        assert torch.equal(first, (every % HORIZON == 0).float().expand_as(first) * alive)
        assert torch.equal(start, (every == 0).float().expand_as(start))


def test_without_trials_every_episode_begins_without_memory() -> None:
    _, _, found = run(GRU, STEPS)
    for t in range(len(MIXED)):
        action, reward, first, _, start = told(found, t, episodes=1)
        assert torch.equal(first, start)
        assert not action[:, 0].any() and not reward[:, 0].any()


@each_policy
@each_way
def test_padding_reaches_neither_loss_nor_gradient(
    shape: PolicyConfig, config: AdaptationConfig
) -> None:
    policy, phi, found = run(shape, config)
    theta, data = point(found, 0)
    other = data.obs.clone()
    other[data.valid == 0, :-2] = 1e3
    results = []
    for obs in (data.obs, other):
        leaves = P.leaves(theta)
        loss = InnerLoss(policy)(leaves, phi, data._replace(obs=obs))
        slopes = torch.autograd.grad(loss.sum(), list(leaves.values()))
        results.append({"loss": loss, **dict(zip(leaves, slopes, strict=True))})
    assert (data.valid == 0).any() and same_bits(*results)


# --- adaptation ---------------------------------------------------------------------------------


def test_a_memory_adapts_over_consecutive_episodes_and_takes_no_step() -> None:
    policy, phi, found = run(GRU, TRIALS)
    assert found.points == 1 and found.returns.shape == (3, 3)
    _, theta_0, _ = parameters(GRU)
    for t in range(len(MIXED)):
        assert same_bits(P.select(found.theta, t, 0), theta_0)
    # The first episode is that of no trial; the second one would be another without its memory.
    _, _, alone = run(GRU, replace(TRIALS, steps=0))
    _, _, apart = run(GRU, replace(STEPS, inner_lr=1e-30))
    assert torch.equal(found.returns[:, 0], alone.returns[:, 0])
    assert torch.equal(found.returns[:, 0], apart.returns[:, 0])
    assert (found.returns[:, 1] != apart.returns[:, 1]).all()


def test_returns_are_those_of_each_episode_of_the_trial() -> None:
    _, _, found = run(GRU, TRIALS)
    data = found.data
    for t, task in enumerate(MIXED):
        push = data.act[t, 0, :, 0].clamp(-1.0, 1.0) * task.direction * data.valid[t, 0]
        expected = push.view(EPISODES, 3, HORIZON).sum(-1).mean(0)
        torch.testing.assert_close(found.returns[t], expected, rtol=1e-5, atol=1e-6)


def test_advantages_of_a_trial_run_on_through_the_ends_of_its_episodes() -> None:
    _, _, found = run(GRU, TRIALS)
    for t, task in enumerate(MIXED):
        _, data = point(found, 0)
        on = data.valid[t].view(EPISODES, 3, HORIZON) > 0
        push = data.act[t].view(EPISODES, 3, HORIZON).clamp(-1.0, 1.0) * task.direction
        obs = data.obs[t, :, :2].view(EPISODES, 3, HORIZON, 2).double()
        rewards = [push[e][on[e]].double().tolist() for e in range(EPISODES)]
        returns = [naive.discounted_returns(r, 0.9) for r in rewards]
        values: list[list[float]] = [[] for _ in range(EPISODES)]
        for place in range(3):  # a baseline for each
            lengths = [on[e, :place].sum().item() for e in range(EPISODES)]
            real = [int(on[e, place].sum()) for e in range(EPISODES)]
            fitted = naive.baseline(
                [obs[e, place, : real[e]].numpy() for e in range(EPISODES)],
                [returns[e][int(n) : int(n) + real[e]] for e, n in enumerate(lengths)],
            )
            for e in range(EPISODES):
                values[e] += fitted[e].tolist()
        raw = np.concatenate(
            [naive.gae(r, v, 0.9, 0.8) for r, v in zip(rewards, values, strict=True)]
        )
        advantage = data.advantage[t].view(EPISODES, 3, HORIZON)
        np.testing.assert_allclose(
            advantage[on].numpy(), (raw - raw.mean()) / raw.std(), rtol=1e-3, atol=1e-4
        )
        assert not advantage[~on].any()


@each_policy
@each_way
@pytest.mark.parametrize("shard", [[0], [2, 0]])
def test_a_task_has_the_same_bits_in_whichever_shard_it_is_computed(
    shape: PolicyConfig, config: AdaptationConfig, shard: list[int]
) -> None:
    _, _, whole = run(shape, config)
    _, _, part = run(shape, config, [MIXED[t] for t in shard], shard)
    assert same_bits(part.theta, P.select(whole.theta, torch.tensor(shard)))
    assert same_bits(part.data._asdict(), P.select(whole.data._asdict(), torch.tensor(shard)))
    assert torch.equal(part.returns, whole.returns[shard])


@each_way
def test_a_diverged_task_is_marked_and_disturbs_no_other(config: AdaptationConfig) -> None:
    _, _, whole = run(GRU, config)
    _, _, found = run(GRU, config, [MIXED[0], replace(MIXED[1], broken=True), MIXED[2]])
    assert found.finite.tolist() == [True, False, True]
    kept = torch.tensor([0, 2])
    assert same_bits(P.select(found.theta, kept), P.select(whole.theta, kept))
    assert torch.equal(found.returns[kept], whole.returns[kept])


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["rl2", "warp-rnn", "warp-rnn-lookahead"])
def test_a_memory_is_trained_on_mazes(agent: str) -> None:
    """Discrete actions, and long episodes: two updates on a few of them, all finite."""
    preset, family = PRESETS[agent], make_family("maze-11-v1")
    policy = Policy.for_spaces(family.spaces, replace(preset.policy, hidden=(8,)))
    config = replace(preset.adaptation, steps=min(preset.adaptation.steps, 1), episodes=2)
    learner = replace(preset.learner, loss=Ppo(clip=0.3))
    if isinstance(learner.objective, TwoTimeScale):
        learner = replace(learner, objective=TwoTimeScale(warp_every=2))
    learning = Agent(policy, config, learner)
    start = state = learning.init(0)
    env = family.make_batch(6)
    for iteration in (1, 2):
        tasks = family.sample_tasks(generator(0, "tasks", iteration=iteration), 3)
        shard = Shard(tasks, range(3), 0, iteration)
        trajectory, _ = adapt(env, policy, state.theta, state.phi, shard, config)
        assert trajectory.finite.all()
        assert trajectory.data.act.sum(-1).eq(trajectory.data.valid).all()
        rng = generator(0, "minibatch", iteration=iteration)
        state, report = Learner(learner).update(state, learning.gather([trajectory], 1, "cpu"), rng)
        assert report.diverged == () and report.metrics["meta_steps"] > 0
    assert not same_bits(start.theta, state.theta)
    assert not start.phi or not same_bits(start.phi, state.phi)


def learned(shape: PolicyConfig, config: AdaptationConfig, learner: LearnerConfig) -> list[float]:
    """Mean returns, k by k, in the last of some meta-iterations with levers of both directions."""
    policy = Policy(2, Gaussian(1), shape)
    tasks = [Lever((-1.0) ** t) for t in range(10)]
    learning = Agent(policy, config, learner)
    state = learning.init(0)
    env = LeverEnv(10 * config.episodes)
    for iteration in range(1, 31):
        shard = Shard(tasks, range(10), 0, iteration)
        trajectory, _ = adapt(env, policy, state.theta, state.phi, shard, config)
        rng = generator(0, "minibatch", iteration=iteration)
        state, _ = Learner(learner).update(state, learning.gather([trajectory], 1, "cpu"), rng)
    returns: list[float] = trajectory.returns.mean(0).tolist()
    return returns


def test_a_memory_finds_the_task_out_which_no_policy_without_one_can() -> None:
    # What the lever does is told by the reward of the first push alone; the best returns are near 5
    # from the second episode on, and 0 without memory, for the directions balance.
    learner = LearnerConfig(init="maml", outer=Adam(init_lr=1e-2))
    config = MemoryAdaptation(steps=1, episodes=10)
    first, second = learned(replace(GRU, hidden=(16,)), config, learner)
    (without,) = learned(PolicyConfig((16,)), GradientAdaptation(steps=0, episodes=10), learner)
    assert abs(without) < 0.5
    assert first > 2.0 and second > first + 0.3
