"""Collecting episodes: all simulations of all tasks step together under one stacked policy call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warprl.agents.policy import Policy
from warprl.agents.recurrent import State
from warprl.types import BatchEnv, Params, Rollout, Task


@dataclass
class Timing:
    """Seconds spent by purpose; added up over the rollouts and steps of an adaptation."""

    physics: float = 0.0
    policy: float = 0.0
    inner: float = 0.0


@dataclass
class Memory:
    """What a policy with memory carries from step to step, and through the episodes of a trial.

    That is the state of its cell and what it is told of the step before, all zero at first.
    """

    state: State
    action: Tensor  # [T, E, A]
    reward: Tensor  # [T, E, 1]
    begun: bool = False

    @classmethod
    def before(cls, policy: Policy, theta: Params, phi: Params, episodes: int) -> Memory:
        """The memory ahead of the first step, with so many episodes of each task at once."""
        tasks = len(next(iter(theta.values())))
        action, reward = (torch.zeros(tasks, episodes, width) for width in (policy.act_dim, 1))
        return cls(policy.begin(theta, phi, episodes), action, reward)

    def sees(self, obs: Tensor, alive: NDArray[np.bool_], first: bool) -> Tensor:
        """What the network sees at observations ``[T, E, O]``, ``[T, E, seen_dim]``.

        ``alive [T * E]`` are the episodes that go on; ``first`` says whether they only begin.
        """
        ones = torch.ones_like(self.reward)
        on = torch.from_numpy(alive.astype(np.float32)).view_as(ones)
        start, self.begun = ones * (not self.begun), True
        return torch.cat([obs, self.action, self.reward, ones * first, on, start], -1)

    def note(self, action: Tensor, reward: NDArray[np.float32], alive: NDArray[np.bool_]) -> None:
        """Remember actions ``[T, E, A]`` and rewards ``[T * E]`` of the episodes that are alive."""
        on = torch.from_numpy(alive).view_as(self.reward)
        self.action = torch.where(on, action, self.action)
        self.reward = torch.where(on, torch.from_numpy(reward).view_as(self.reward), self.reward)


def collect(
    env: BatchEnv,
    policy: Policy,
    theta: Params,
    phi: Params,
    tasks: Sequence[Task],
    reset_rngs: Sequence[np.random.Generator],
    action_rngs: Sequence[np.random.Generator],
    timing: Timing,
    memory: Memory | None = None,
) -> Rollout:
    """One rollout of T tasks under stacked theta ``[T, ...]``, ``env.num_envs / T`` episodes each.

    A policy with memory goes on with the one it is given, and begins without any if there is none.
    The exploration noise of a task is drawn from its own generator for the whole horizon at once,
    so that it depends neither on the other tasks nor on when episodes end.
    """
    began = time.perf_counter()
    t, e, h = len(tasks), env.num_envs // len(tasks), env.horizon
    a, o, remembers = policy.act_dim, policy.seen_dim, policy.config.memory is not None
    memory = memory or Memory.before(policy, theta, phi, e)
    noise = _noise(policy, action_rngs, h, e)
    obs = torch.zeros(t, e, h, o)
    outputs, act = torch.zeros(2, t, e, h, a)
    reward = np.zeros((t * e, h), dtype=np.float32)
    valid = np.zeros((t * e, h), dtype=np.float32)
    alive, fault = np.ones(t * e, dtype=bool), np.zeros(t * e, dtype=bool)
    folded = policy.fold(theta, phi)
    physics = -time.perf_counter()
    latest = env.reset(tasks, reset_rngs)
    physics += time.perf_counter()
    for step in range(h):
        with torch.no_grad():
            seen = torch.from_numpy(latest.astype(np.float32)).view(t, e, -1)
            if remembers:
                seen = memory.sees(seen, alive, step == 0)
            output, memory.state = policy.advance(*folded, seen, memory.state)
            action = policy.distribution.sample(output, theta, noise[step])
            obs[:, :, step] = seen
            outputs[:, :, step] = output
            act[:, :, step] = action
        valid[:, step] = alive
        physics -= time.perf_counter()
        latest, gained, terminated = env.step(action.view(t * e, a).numpy())
        physics += time.perf_counter()
        reward[:, step] = np.where(alive, gained, 0.0)
        if remembers:
            memory.note(action, reward[:, step], alive)
        ended = alive & terminated
        if ended.any():
            # What happens after an episode's end depends on how long its neighbours take.
            fault |= ended & env.faults()
            alive &= ~terminated
            if not alive.any():
                break
            env.rest(ended)
        if not alive.all():
            latest = np.where(alive[:, None], latest, 0.0)
    fault |= alive & env.faults()
    with torch.no_grad():
        logp = policy.distribution.log_prob_of_sample(
            outputs.flatten(1, 2), theta, noise.permute(1, 2, 0, 3).flatten(1, 2)
        )
    timing.physics += physics
    timing.policy += time.perf_counter() - began - physics
    return Rollout(
        obs=obs,
        act=act,
        logp=logp.view(t, e, h),
        reward=torch.from_numpy(reward).view(t, e, h),
        valid=torch.from_numpy(valid).view(t, e, h),
        terminated=torch.from_numpy(~alive).view(t, e),
        fault=torch.from_numpy(fault).view(t, e).any(1),
    )


def joined(episodes: Sequence[Rollout]) -> Rollout:
    """The episodes of trials as one rollout, one behind the other: ``[T, E, H, ...]`` each."""
    steps = ("obs", "act", "logp", "reward", "valid")
    return episodes[-1]._replace(
        fault=torch.stack([rollout.fault for rollout in episodes]).any(0),
        **{name: torch.cat([getattr(rollout, name) for rollout in episodes], 2) for name in steps},
    )


def _noise(policy: Policy, rngs: Sequence[np.random.Generator], h: int, e: int) -> torch.Tensor:
    """The noise of all actions ``[H, T, E, A]``, one generator a task."""
    return torch.from_numpy(np.stack([policy.distribution.noise(rng, h, e) for rng in rngs], 1))
