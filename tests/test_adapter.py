"""Policies outside of training: how they act, how they are saved, and how one's own loop adapts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import same_bits
from numpy.typing import NDArray

from warprl import params as P
from warprl.agents.adapted import AdaptedPolicy, adapt_policy
from warprl.agents.adapter import Adapter
from warprl.agents.inner import (
    AdaptationConfig,
    GradientAdaptation,
    MemoryAdaptation,
    Shard,
    adapt,
)
from warprl.agents.policy import PolicyConfig
from warprl.agents.rollout import Collected, collect
from warprl.checkpoint import CheckpointError
from warprl.envs import make_family
from warprl.envs.vector import FamilyEnv
from warprl.seeding import generator
from warprl.types import Spaces, Task

SEED, EPISODES, HORIZON = 7, 3, 6
BOUNDED = Spaces(2, 1, ((-0.5,), (0.5,)))
CHOICES = Spaces(2, 3)
PLAIN = PolicyConfig((6, 5), log_std=-0.5)
GRU = replace(PLAIN, memory="gru")
STEPS = GradientAdaptation(steps=2, episodes=EPISODES, inner_lr=0.05)
TRIAL = MemoryAdaptation(steps=2, episodes=1)

each_network = pytest.mark.parametrize(
    ("spaces", "config"),
    [
        (BOUNDED, PLAIN),
        (BOUNDED, replace(PLAIN, warp="linear")),
        (BOUNDED, replace(PLAIN, warp="gate")),
        (CHOICES, PLAIN),
        (BOUNDED, GRU),
        (CHOICES, replace(PLAIN, memory="rnn", warp="recurrent")),
    ],
    ids=["plain", "linear", "gate", "choices", "gru", "warped-rnn-choices"],
)


@dataclass(frozen=True)
class Lever(Task):
    """Push the lever one way. Episode e lasts 2 e steps less than the horizon."""

    direction: float = 1.0


def reward_of(action: Any, direction: float) -> float:
    """Of an action as an environment gets it: a clipped vector, or a choice."""
    push = float(action[0]) if np.ndim(action) else float(action) - 1.0
    return direction * push


class LeverBatch:
    """All episodes at once; see :class:`warprl.types.BatchEnv`."""

    def __init__(self, spaces: Spaces, num_envs: int, horizon: int = HORIZON) -> None:
        self.spaces, self.num_envs, self.horizon = spaces, num_envs, horizon

    def reset(
        self, tasks: Sequence[Task], generators: Sequence[np.random.Generator]
    ) -> NDArray[np.float64]:
        self.t, (self.task,) = 0, tasks
        return self.observed()

    def observed(self) -> NDArray[np.float64]:
        return np.tile([0.1 * self.t, 1.0], (self.num_envs, 1))

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        self.t += 1
        assert isinstance(self.task, Lever)
        chosen = action.argmax(1) if self.spaces.discrete else np.clip(action, -0.5, 0.5)
        rewards = [reward_of(one, self.task.direction) for one in chosen]
        ended = self.t >= self.horizon - 2 * np.arange(self.num_envs)
        return self.observed(), np.array(rewards), ended & (self.t < self.horizon)

    def skip(self, ended: NDArray[np.bool_]) -> None:
        pass

    def faults(self) -> NDArray[np.bool_]:
        return np.zeros(self.num_envs, dtype=bool)


def play(adapter: Adapter, episode: int = 0, horizon: int = HORIZON) -> list[Any]:
    """The same episode in a loop of one's own; returns the actions."""
    actions, length = [], horizon - 2 * episode
    for t in range(length):
        action = adapter.act([0.1 * t, 1.0])
        actions.append(action)
        last = t + 1 == length
        ended = last and length < horizon
        adapter.observe(reward_of(action, 1.0), terminated=ended, truncated=last and not ended)
    return actions


def make(spaces: Spaces, config: PolicyConfig) -> AdaptedPolicy:
    """A policy whose warps are off the identity."""
    policy = AdaptedPolicy.fresh(spaces, config, SEED)
    rng = torch.Generator().manual_seed(0)
    phi = {n: x + 0.3 * torch.randn(x.shape, generator=rng) for n, x in policy.phi.items()}
    return replace(policy, phi=phi)


def collected(policy: AdaptedPolicy) -> Collected:
    env = LeverBatch(policy.spaces, EPISODES)
    theta = P.broadcast(policy.theta, 1)
    return collect(env, policy.network, theta, policy.phi, Shard([Lever()], [0], SEED, 0).draws(0))


def as_environment_sees(spaces: Spaces, raw: NDArray[np.float32]) -> NDArray[Any]:
    if spaces.discrete:
        return np.asarray(raw.argmax(-1))
    return np.asarray(np.clip(raw, -0.5, 0.5))


# --- acting ---------------------------------------------------------------------------------------


@each_network
def test_a_policy_acts_with_the_bits_of_a_rollout(spaces: Spaces, config: PolicyConfig) -> None:
    policy = make(spaces, config)
    rollout = collected(policy).rollout
    state = None
    for t in range(HORIZON):
        actions, state = policy.predict(rollout.obs[0, :, t, :2].numpy(), state)
        alive = rollout.valid[0, :, t].bool().numpy()
        expected = as_environment_sees(spaces, rollout.act[0, :, t].numpy())
        assert np.array_equal(actions[alive], expected[alive])
        if state is not None:
            state = policy.with_reward(state, rollout.reward[0, :, t].numpy())
    assert not rollout.valid.all(), "some episodes ended early"
    assert (state is not None) == policy.remembers


@each_network
def test_deterministic_actions_are_the_mean_or_the_likeliest(
    spaces: Spaces, config: PolicyConfig
) -> None:
    policy = make(spaces, config)
    rollout = collected(policy).rollout
    theta, seen = P.broadcast(policy.theta, 1), rollout.obs[:, :, 0]
    outputs = policy.network.outputs(theta, policy.phi, seen)[0].numpy()
    actions, _ = policy.predict(seen[0, :, :2].numpy(), deterministic=True)
    expected = as_environment_sees(spaces, outputs)
    np.testing.assert_allclose(actions, expected, atol=1e-6)


def test_a_single_observation_gives_a_single_action() -> None:
    policy, obs = make(BOUNDED, PLAIN), np.array([0.3, 1.0])
    rows, state = policy.predict(np.stack([obs, obs]), deterministic=True)
    single, _ = policy.predict(obs, deterministic=True)
    assert rows.shape == (2, 1) and single.shape == (1,) and state is None
    np.testing.assert_allclose(single, rows[0], atol=1e-7)
    assert np.array_equal(policy.act(obs), single)
    choices = make(CHOICES, PLAIN)
    assert choices.predict(obs)[0].shape == () and isinstance(choices.act(obs), int)
    assert choices.predict(np.stack([obs, obs]))[0].dtype == np.int64


def test_exploring_actions_follow_from_the_seed() -> None:
    policy, obs = make(BOUNDED, PLAIN), np.zeros((50, 2))
    drawn, _ = policy.predict(obs)
    assert np.array_equal(replace(policy).predict(obs)[0], drawn)
    assert not np.array_equal(replace(policy, seed=8).predict(obs)[0], drawn)
    assert not np.array_equal(policy.predict(obs)[0], drawn), "each call draws anew"


def test_rows_whose_episode_starts_forget_what_was_before_and_the_others_do_not() -> None:
    policy, obs = make(BOUNDED, GRU), np.array([[0.3, 1.0], [0.3, 1.0]])
    first, state = policy.predict(obs, deterministic=True)
    assert state is not None
    state = policy.with_reward(state, [1.0, 1.0])
    actions, _ = policy.predict(obs, state, [True, False], deterministic=True)
    assert np.array_equal(actions[0], first[0]) and not np.array_equal(actions[1], first[1])


def test_an_adapted_memory_begins_each_episode_with_what_it_remembers_of_its_trial() -> None:
    start = make(BOUNDED, GRU)
    adapted = adapt_policy(LeverBatch(BOUNDED, 1), start, Lever(), TRIAL, SEED)
    assert len(adapted.returns) == TRIAL.steps
    obs = np.array([0.3, 1.0])
    fresh, _ = start.predict(obs, deterministic=True)
    remembered, state = adapted.predict(obs, deterministic=True)
    assert not np.array_equal(remembered, fresh)
    again, _ = adapted.predict(obs, state, True, deterministic=True)
    assert np.array_equal(again, remembered)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(BOUNDED, PLAIN).predict(np.zeros(3)), r"have shape \(3,\): should be \(2,\)"),
        (lambda: make(BOUNDED, PLAIN).act([np.nan, 0]), "should be finite: 1 of 2 numbers are not"),
        (lambda: make(BOUNDED, GRU).predict([[0, np.inf]]), "should be finite: 1 of 2 numbers"),
        (lambda: make(BOUNDED, GRU).act(np.zeros(2)), "this policy has a memory"),
    ],
)
def test_what_a_policy_cannot_do_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# --- what is saved --------------------------------------------------------------------------------

LOAD_AND_ACT = """
import json, sys
from warprl.agents.adapted import AdaptedPolicy
policy = AdaptedPolicy.load(sys.argv[1])
actions, _ = policy.predict([[0.1, 1.0], [0.2, 1.0]])
heavy = {"ray", "gymnasium", "mujoco", "pickle5"} & set(sys.modules)
print(json.dumps([actions.tolist(), sorted(heavy)]))
"""


@each_network
def test_a_saved_policy_acts_alike_in_a_process_without_environments(
    spaces: Spaces, config: PolicyConfig, tmp_path: Path
) -> None:
    infinite = replace(spaces, bounds=((-np.inf,), (0.5,))) if spaces.bounds else spaces
    policy = make(infinite, config)
    policy.save(tmp_path / "policy")
    loaded = AdaptedPolicy.load(tmp_path / "policy")
    assert (loaded.spaces, loaded.config, loaded.seed) == (infinite, config, policy.seed)
    assert same_bits(loaded.theta, policy.theta) and same_bits(loaded.phi, policy.phi)
    if config.warp == "recurrent":
        command = [sys.executable, "-c", LOAD_AND_ACT, str(tmp_path / "policy")]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        actions, _ = policy.predict([[0.1, 1.0], [0.2, 1.0]])
        assert json.loads(done.stdout) == [actions.tolist(), []]


def test_a_saved_policy_keeps_its_memory_and_its_returns(tmp_path: Path) -> None:
    policy = adapt_policy(LeverBatch(BOUNDED, 1), make(BOUNDED, GRU), Lever(), TRIAL, SEED)
    policy.save(tmp_path)
    loaded = AdaptedPolicy.load(tmp_path)
    assert loaded.returns == policy.returns
    for left, right in zip(loaded.memory, policy.memory, strict=True):
        assert np.array_equal(left, right)


def test_nothing_saved_is_overwritten_or_taken_for_something_else(tmp_path: Path) -> None:
    policy = make(BOUNDED, PLAIN)
    policy.save(tmp_path)
    with pytest.raises(CheckpointError, match="exists: checkpoints are never overwritten"):
        policy.save(tmp_path)
    with pytest.raises(CheckpointError, match="holds a policy and not a adapter"):
        Adapter.load(tmp_path)


# --- adapting -------------------------------------------------------------------------------------


@each_network
def test_ones_own_loop_finds_the_theta_of_the_batch(spaces: Spaces, config: PolicyConfig) -> None:
    policy = make(spaces, config)
    shard = Shard([Lever()], [0], SEED, 0)
    batch = LeverBatch(spaces, EPISODES)
    expected, _ = adapt(batch, policy.network, policy.theta, policy.phi, shard, STEPS)
    adapter = Adapter(policy, STEPS, SEED)
    for k in range(STEPS.steps):
        while not adapter.ready:
            play(adapter, len(adapter.state().episodes))
        assert adapter.update()
        found, wanted = adapter.policy.theta, P.select(expected.theta, 0, k + 1)
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
            assert (tensor == policy.theta[name]).all() or not torch.equal(
                found[name], policy.theta[name]
            )


@pytest.mark.parametrize("family", ["point-navigation-v1", "half-cheetah-dir-v1", "maze-11-v1"])
def test_the_gymnasium_environment_of_a_family_gives_the_theta_of_its_batch(family: str) -> None:
    world = make_family(family)
    policy = AdaptedPolicy.fresh(world.spaces, PolicyConfig((8,), "gate"), SEED)
    config = GradientAdaptation(steps=2, episodes=1)
    task = world.held_out_tasks()[0]
    shard = Shard([task], [0], SEED, 0)
    expected, _ = adapt(
        world.make_batch(1), policy.network, policy.theta, policy.phi, shard, config
    )
    adapter, env = Adapter(policy, config, SEED), FamilyEnv(family)
    for k in range(config.steps):
        env.np_random = generator(SEED, "reset", k=k)
        obs, _ = env.reset(options={"task": vars(task)})
        over = False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(adapter.act(obs))
            adapter.observe(reward, terminated, truncated)
            over = terminated or truncated
        assert adapter.update()
    for name, tensor in P.select(expected.theta, 0, config.steps).items():
        torch.testing.assert_close(adapter.policy.theta[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_memory_acts_through_the_episodes_of_a_trial_as_in_training() -> None:
    policy = make(BOUNDED, GRU)
    shard = Shard([Lever()], [0], SEED, 0)
    batch = LeverBatch(BOUNDED, 1)
    expected, _ = adapt(batch, policy.network, policy.theta, policy.phi, shard, TRIAL)
    acts = as_environment_sees(BOUNDED, expected.data.act[0, 0].numpy())
    adapter = Adapter(policy, TRIAL, SEED)
    for k in range(TRIAL.steps + 1):
        assert not adapter.ready
        assert np.array_equal(play(adapter), acts[k * HORIZON : (k + 1) * HORIZON])
        assert adapter.ready and not adapter.update(), "it adapted while it acted"
    assert same_bits(adapter.policy.theta, policy.theta)
    adapted = adapt_policy(batch, policy, Lever(), replace(TRIAL, steps=3), SEED)
    for left, right in zip(adapter.policy.memory, adapted.memory, strict=True):
        assert np.array_equal(left, right)


def test_long_episodes_have_the_noise_that_a_batch_draws_for_the_whole_horizon() -> None:
    policy, horizon = make(BOUNDED, PLAIN), 600
    draws = Shard([Lever()], [0], SEED, 0).draws(0)
    env, theta = LeverBatch(BOUNDED, 1, horizon), P.broadcast(policy.theta, 1)
    rollout = collect(env, policy.network, theta, policy.phi, draws).rollout
    acts = as_environment_sees(BOUNDED, rollout.act[0, 0].numpy())
    adapter = Adapter(policy, STEPS, SEED, episodes=1)
    assert np.array_equal(play(adapter, horizon=horizon), acts)


def test_more_episodes_than_an_update_was_to_have_are_no_repetition() -> None:
    adapter = Adapter(make(BOUNDED, PLAIN), STEPS, SEED, episodes=1)
    first, second = play(adapter), play(adapter)
    assert not np.array_equal(first, second)
    assert adapter.update()


# --- going on -------------------------------------------------------------------------------------

CONTINUE = """
import sys
from test_adapter import Adapter, play
adapter = Adapter.load(sys.argv[1])
play(adapter, 1)
adapter.update()
play(adapter)
adapter.save(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("config", "adaptation"), [(PLAIN, STEPS), (GRU, TRIAL)], ids=["gradient", "memory"]
)
def test_a_saved_adaptation_goes_on_in_another_process_with_the_same_bits(
    config: PolicyConfig, adaptation: AdaptationConfig, tmp_path: Path
) -> None:
    adapter = Adapter(make(BOUNDED, config), adaptation, SEED)
    play(adapter)
    adapter.update()
    play(adapter)
    adapter.save(tmp_path)
    command = [sys.executable, "-c", CONTINUE, str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent)
    play(adapter, 1)
    adapter.update()
    play(adapter)
    other = Adapter.load(tmp_path)
    assert same_bits(other.policy.theta, adapter.policy.theta)
    assert play(other) == play(adapter)


def test_a_restored_state_gives_the_same_episodes_again() -> None:
    adapter = Adapter(make(BOUNDED, GRU), TRIAL, SEED)
    play(adapter)
    state = adapter.state()
    once = play(adapter)
    adapter.restore(state)
    assert play(adapter) == once


def test_a_discarded_episode_leaves_no_trace() -> None:
    left, right = (Adapter(make(BOUNDED, GRU), TRIAL, SEED) for _ in range(2))
    play(left)
    play(right)
    left.act([0.0, 1.0])
    left.observe(9.0, terminated=False)
    left.act([0.1, 1.0])
    left.discard()
    assert play(left) == play(right)


def test_a_step_that_is_not_finite_is_not_taken_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = make(BOUNDED, PLAIN)
    adapter = Adapter(policy, STEPS, SEED)
    adapter.act([0.0, 1.0])
    adapter.observe(float("nan"), terminated=True)
    assert not adapter.update()
    assert "update 1 is not taken: a reward is not finite" in caplog.text
    assert same_bits(adapter.policy.theta, policy.theta)
    play(adapter)
    assert adapter.update(), "the bad episode is gone"
    reckless = Adapter(policy, replace(STEPS, inner_lr=1e39), SEED)
    play(reckless)
    assert not reckless.update() and "inner_lr = 1e+39" in caplog.text


def test_an_action_waits_for_its_reward_until_it_is_a_number() -> None:
    left, right = (Adapter(make(BOUNDED, GRU), TRIAL, SEED) for _ in range(2))
    for adapter in (left, right):
        adapter.act([0.0, 1.0])
    with pytest.raises(ValueError, match="observe: reward = 'x', terminated = False"):
        left.observe("x", terminated=False)  # type: ignore[arg-type]
    for adapter in (left, right):
        adapter.observe(1.0, terminated=True)
    assert play(left) == play(right)


HALF: Any = 0.5
NOTHING: Any = None


def started() -> Adapter:
    adapter = Adapter(make(BOUNDED, PLAIN), STEPS)
    adapter.act([0.0, 1.0])
    return adapter


def under_way() -> Adapter:
    adapter = started()
    adapter.observe(1.0, terminated=False)
    return adapter


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: started().act([0.0, 1.0]), "act: call observe.reward, terminated, truncated"),
        (lambda: Adapter(make(BOUNDED, PLAIN), STEPS).observe(0.0, False), "call act.obs. first"),
        (lambda: Adapter(make(BOUNDED, PLAIN), STEPS).update(), "update: no whole episode was"),
        (lambda: Adapter(make(BOUNDED, GRU), TRIAL).update(), "update: no whole episode was"),
        (lambda: started().update(), "update: an episode is under way: end it with"),
        (lambda: under_way().update(), "update: an episode is under way: end it with"),
        (lambda: under_way().state(), "state: an episode is under way"),
        (lambda: under_way().save("nowhere"), "state: an episode is under way"),
        (lambda: under_way().act([0.0]), "the observation should be 2 finite numbers, got .0.0."),
        (lambda: under_way().act([0.0, np.inf]), "should be 2 finite numbers, got .0.0, inf."),
        (lambda: Adapter(make(BOUNDED, PLAIN), STEPS, episodes=0), "episodes = 0: must be a whole"),
        (
            lambda: Adapter(make(BOUNDED, PLAIN), STEPS, episodes=HALF),
            "episodes = 0.5: must be a w",
        ),
        (lambda: Adapter(make(BOUNDED, PLAIN), STEPS, seed=True), "seed = True: must be a whole"),
        (
            lambda: started().observe(NOTHING, False),
            "observe: reward = None, terminated = False, tr",
        ),
        (lambda: Adapter(make(BOUNDED, GRU), TRIAL, episodes=2), "episodes = 2: must be 1 for an"),
    ],
)
def test_misuse_is_one_line(call: Any, message: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message) as error:
        call()
    assert "\n" not in str(error.value)
