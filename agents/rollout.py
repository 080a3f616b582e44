"""Collecting episodes: all simulations of all tasks step together under one stacked policy call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from warprl.agents.policy import Policy
from warprl.types import BatchEnv, Params, Rollout, Task


@dataclass
class Timing:
    """Seconds spent by purpose; added up over the rollouts and steps of an adaptation."""

    physics: float = 0.0
    policy: float = 0.0
    inner: float = 0.0


def collect(
    env: BatchEnv,
    policy: Policy,
    theta: Params,
    phi: Params,
    tasks: Sequence[Task],
    reset_rngs: Sequence[np.random.Generator],
    action_rngs: Sequence[np.random.Generator],
    timing: Timing,
) -> Rollout:
    """One rollout of T tasks under stacked theta ``[T, ...]``, ``env.num_envs / T`` episodes each.

    The exploration noise of a task is drawn from its own generator for the whole horizon at once,
    so that it depends neither on the other tasks nor on when episodes end.
    """
    began = time.perf_counter()
    t, e, h = len(tasks), env.num_envs // len(tasks), env.horizon
    a, o = policy.act_dim, policy.obs_dim
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
            seen = torch.from_numpy(latest.astype(np.float32)).view(t, e, o)
            output = policy.outputs(*folded, seen)
            action = policy.distribution.sample(output, theta, noise[step])
            obs[:, :, step] = seen
            outputs[:, :, step] = output
            act[:, :, step] = action
        valid[:, step] = alive
        physics -= time.perf_counter()
        latest, gained, terminated = env.step(action.view(t * e, a).numpy())
        physics += time.perf_counter()
        reward[:, step] = np.where(alive, gained, 0.0)
        ended = alive & terminated
        if ended.any():
            # What happens after an episode's end depends on how long its neighbours take.
            fault |= ended & env.faults()
            alive &= ~terminated
            if not alive.any():
                break
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


def _noise(policy: Policy, rngs: Sequence[np.random.Generator], h: int, e: int) -> torch.Tensor:
    """The noise of all actions ``[H, T, E, A]``, one generator a task."""
    return torch.from_numpy(np.stack([policy.distribution.noise(rng, h, e) for rng in rngs], 1))
