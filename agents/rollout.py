"""Collecting episodes: all simulations of all tasks step together under one stacked policy call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warprl.agents.policy import Policy
from warprl.agents.recurrent import State
from warprl.agents.timing import Timing
from warprl.types import BatchEnv, Bools, Generators, Params, Rollout, Task


class Draws(NamedTuple):
    """The tasks of a rollout, and the random generators, one for each task."""

    tasks: Sequence[Task]
    reset: Generators
    action: Generators


class Memory(NamedTuple):
    """What a policy carries from step to step, and through the episodes of a trial.

    That is the state of its cell and what it is told of the step before, all zero at first. The
    state of a policy without memory is empty.
    """

    state: State
    action: Tensor  # [T, E, A]
    reward: Tensor  # [T, E, 1]
    begins: bool = True  # whether the next step is the first of a sequence

    @classmethod
    def of_arrays(cls, arrays: Sequence[NDArray[np.float32]]) -> Memory:
        """The inverse of :meth:`to_arrays`."""
        *cell, action, reward = (torch.from_numpy(np.array(x)).unsqueeze(0) for x in arrays)
        return cls(tuple(cell), action, reward, begins=False)

    def to_arrays(self) -> tuple[NDArray[np.float32], ...]:
        """The memory of a single task: the cell's, the action and the reward, ``[E, ...]`` each."""
        tensors = (*self.state, self.action, self.reward)
        return tuple(tensor.squeeze(0).numpy() for tensor in tensors)

    @classmethod
    def before(cls, policy: Policy, theta: Params, phi: Params, episodes: int) -> Memory:
        """The memory before the first step.

        Args:
            policy: the network.
            theta: stacked ``[T, ...]``.
            phi: shared ``[...]``.
            episodes: E, how many episodes of each task run at once.

        Returns:
            The memory of all of them.
        """
        like = next(iter(theta.values()))
        action, reward = (like.new_zeros(len(like), episodes, n) for n in (policy.act_dim, 1))
        return cls(policy.begin(theta, phi, episodes), action, reward)

    def observe(self, obs: Tensor, alive: Bools, first: bool | Tensor) -> Tensor:
        """What a network with memory sees.

        Args:
            obs: observations ``[T, E, O]``.
            alive: ``[T * E]``, the episodes that go on.
            first: whether the episodes only begin; of each, ``[T, E, 1]``, or of all alike.

        Returns:
            ``[T, E, input_dim]``; see :mod:`warprl.agents.recurrent`.
        """
        ones = torch.ones_like(self.reward)
        on = torch.from_numpy(alive.astype(np.float32)).view_as(ones)
        flags = [ones * first, on, ones * self.begins]
        return torch.cat([obs, self.action, self.reward, *flags], -1)

    def after(
        self, state: State, action: Tensor, reward: NDArray[np.float32], alive: Bools
    ) -> Memory:
        """The memory after a step; of the episodes that are over, action and reward stay.

        Args:
            state: the cell's, after the step.
            action: ``[T, E, A]``.
            reward: ``[T * E]``.
            alive: ``[T * E]``, the episodes that went on.

        Returns:
            The memory before the next step.
        """
        on = torch.from_numpy(alive).view_as(self.reward)
        rewards = torch.from_numpy(reward).view_as(self.reward)
        return Memory(
            state,
            torch.where(on, action, self.action),
            torch.where(on, rewards, self.reward),
            begins=False,
        )


class Acted(NamedTuple):
    """One step of a policy in all episodes of T tasks."""

    seen: Tensor  # [T, E, input_dim], the network's input
    outputs: Tensor  # [T, E, A], the network's
    action: Tensor  # [T, E, A], before clipping; one-hot if actions are choices
    state: State  # the cell's, after the step


class Actor(NamedTuple):
    """A policy with its parameters, ready to act."""

    policy: Policy
    theta: Params  # stacked [T, ...]
    folded: tuple[Params, Params]  # theta and phi, with linear warps merged into theta

    @classmethod
    def of(cls, policy: Policy, theta: Params, phi: Params) -> Actor:
        """The policy under these parameters.

        Args:
            policy: the network.
            theta: stacked ``[T, ...]``.
            phi: shared ``[...]``.

        Returns:
            What acts.
        """
        return cls(policy, theta, policy.fold(theta, phi))

    def act(
        self, obs: Tensor, memory: Memory, noise: Tensor, alive: Bools, first: bool | Tensor
    ) -> Acted:
        """Act once in every episode.

        Args:
            obs: observations ``[T, E, O]``.
            memory: what the policy remembers.
            noise: the exploration noise ``[T, E, A]``.
            alive: ``[T * E]``, the episodes that continue.
            first: whether the episodes only begin, one for all or ``[T, E, 1]``.

        Returns:
            What the network saw and said, the actions, and the state of its cell.
        """
        with torch.no_grad():
            seen = obs
            if self.policy.config.memory is not None:
                seen = memory.observe(obs, alive, first)
            outputs, state = self.policy.advance(*self.folded, seen, memory.state)
            action = self.policy.distribution.sample(outputs, self.theta, noise)
        return Acted(seen, outputs, action, state)


class Collected(NamedTuple):
    """Episodes, the memory after them, and the seconds that they took."""

    rollout: Rollout
    memory: Memory
    timing: Timing


def collect(
    env: BatchEnv,
    policy: Policy,
    theta: Params,
    phi: Params,
    draws: Draws,
    memory: Memory | None = None,
) -> Collected:
    """One rollout of T tasks, ``env.num_envs / T`` episodes each.

    The exploration noise of a task is drawn from its own generator for the whole horizon at once,
    so that it depends neither on the other tasks nor on when episodes end.

    Args:
        env: the simulations.
        policy: the network.
        theta: stacked ``[T, ...]``.
        phi: shared ``[...]``.
        draws: the tasks and their generators.
        memory: what a policy with memory begins with; none if None.

    Returns:
        The rollout, with the memory after its last step and the time it took.
    """
    began = time.perf_counter()
    t, e, h = len(draws.tasks), env.num_envs // len(draws.tasks), env.horizon
    a, remembers = policy.act_dim, policy.config.memory is not None
    memory = memory or Memory.before(policy, theta, phi, e)
    noise = _noise(policy, draws.action, h, e)
    actor = Actor.of(policy, theta, phi)

    # Room for everything that is recorded.
    obs = torch.zeros(t, e, h, policy.input_dim)
    outputs, act = torch.zeros(2, t, e, h, a)
    reward = np.zeros((t * e, h), dtype=np.float32)
    valid = np.zeros((t * e, h), dtype=np.float32)
    alive, fault = np.ones(t * e, dtype=bool), np.zeros(t * e, dtype=bool)

    physics = -time.perf_counter()
    latest = env.reset(draws.tasks, draws.reset)
    physics += time.perf_counter()
    for step in range(h):
        # The policy acts in all simulations at once.
        observed = torch.from_numpy(latest.astype(np.float32)).view(t, e, -1)
        acted = actor.act(observed, memory, noise[step], alive, step == 0)
        obs[:, :, step] = acted.seen
        outputs[:, :, step] = acted.outputs
        act[:, :, step] = acted.action

        # The physics advances them.
        physics -= time.perf_counter()
        latest, gained, terminated = env.step(acted.action.view(t * e, a).numpy())
        physics += time.perf_counter()
        valid[:, step] = alive
        reward[:, step] = np.where(alive, gained, 0.0)
        if remembers:
            memory = memory.after(acted.state, acted.action, reward[:, step], alive)

        # Episodes end; what happens after that depends on how long their neighbours take.
        ended = alive & terminated
        if ended.any():
            fault |= ended & env.faults()
            alive &= ~terminated
            if not alive.any():
                break
            env.skip(ended)
        if not alive.all():
            latest = np.where(alive[:, None], latest, 0.0)
    fault |= alive & env.faults()

    with torch.no_grad():
        logp = policy.distribution.log_prob_of_sample(
            outputs.flatten(1, 2), theta, noise.permute(1, 2, 0, 3).flatten(1, 2)
        )
    rollout = Rollout(
        obs=obs,
        act=act,
        logp=logp.view(t, e, h),
        reward=torch.from_numpy(reward).view(t, e, h),
        valid=torch.from_numpy(valid).view(t, e, h),
        terminated=torch.from_numpy(~alive).view(t, e),
        fault=torch.from_numpy(fault).view(t, e).any(1),
    )
    spent = Timing(physics=physics, policy=time.perf_counter() - began - physics)
    return Collected(rollout, memory, spent)


def joined(episodes: Sequence[Rollout]) -> Rollout:
    """The episodes of trials as one rollout, one after the other: ``[T, E, H, ...]`` each."""
    steps = ("obs", "act", "logp", "reward", "valid")
    return episodes[-1]._replace(
        fault=torch.stack([rollout.fault for rollout in episodes]).any(0),
        **{name: torch.cat([getattr(rollout, name) for rollout in episodes], 2) for name in steps},
    )


def _noise(policy: Policy, rngs: Generators, h: int, e: int) -> Tensor:
    """The noise of all actions ``[H, T, E, A]``, one generator a task."""
    return torch.from_numpy(np.stack([policy.distribution.noise(rng, h, e) for rng in rngs], 1))
