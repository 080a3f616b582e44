"""Adaptation: K warped policy-gradient steps on each task, and the trajectory they leave behind.

Or none: a memory that outlasts its episodes adapts as well.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Protocol

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from warprl import params as P
from warprl.agents.baseline import fit_predict
from warprl.agents.losses import InnerLoss
from warprl.agents.policy import Layers, Policy
from warprl.agents.returns import discounted_returns, gae, normalise
from warprl.agents.rollout import Memory, Timing, collect, joined
from warprl.objective import inner_step
from warprl.seeding import generator
from warprl.types import Batch, BatchEnv, Params, Rollout, StepSize, Task, Trajectory

MAX_EPISODES = 10_000


@dataclass(frozen=True)
class AdaptationConfig:
    """How a policy adapts to one task: K steps of size ``lr``, each on fresh episodes.

    ``by`` memory, theta stays, and K + 1 consecutive episodes are a trial (Duan et al., RL^2, 2016)
    throughout which the policy remembers: k counts them from 0, and ``episodes`` counts the trials
    of a task. The objective is the return of the whole trial, discounted from step to step through
    its episodes' ends; ``lr`` and ``layers`` do nothing.

    ``layers`` says which task layers adapt; the others stay at the initialisation. ``gamma`` and
    ``lam`` are those of the advantages (:func:`warprl.agents.returns.gae`). The peers take ``lam``
    = 1, whose variance slows learning.
    """

    steps: Annotated[int, Ge(0)] = 1
    layers: Layers = "all"
    lr: Annotated[float, Gt(0)] = 0.1
    episodes: Annotated[int, Interval(gt=0, le=MAX_EPISODES)] = 20
    gamma: Annotated[float, Interval(gt=0, le=1)] = 0.99
    lam: Annotated[float, Interval(ge=0, le=1)] = 0.95
    by: Literal["gradient", "memory"] = "gradient"

    def step_sizes(self, policy: Policy) -> dict[str, float]:
        """alpha of each parameter that adapts."""
        return dict.fromkeys(policy.layers(self.layers), self.lr)


def adapt(
    env: BatchEnv,
    policy: Policy,
    theta_0: Params,
    phi: Params,
    tasks: Sequence[Task],
    indices: Sequence[int],
    config: AdaptationConfig,
    seed: int,
    iteration: int,
) -> tuple[Trajectory, Timing]:
    """Adapt unstacked theta_0 to T tasks with phi frozen: K steps, K + 1 rollouts.

    ``indices`` are the tasks' positions in the whole meta-batch: they key the random streams, so
    that a task's trajectory has the same bits in whichever shard it is computed. ``env`` holds
    T * E simulations.
    A task whose rollout or parameters stop being finite keeps its last good parameters, is marked
    in ``Trajectory.finite`` and disturbs no other task.
    """
    timing = Timing()

    def roll(k: int, theta: Params, memory: Memory | None = None) -> Rollout:
        keys = [{"iteration": iteration, "task": index, "k": k} for index in indices]
        return collect(
            env, policy, theta, phi, tasks,
            [generator(seed, "reset", **key) for key in keys],
            [generator(seed, "action", **key) for key in keys],
            timing, memory,
        )  # fmt: skip

    theta = P.tree_map(torch.clone, P.broadcast(theta_0, len(tasks)))
    method = _by_memory if config.by == "memory" else _by_gradient
    found = method(policy, theta, phi, roll, config, timing)
    trajectory = Trajectory(
        task=torch.tensor(indices, dtype=torch.int64),
        theta=P.stack(found.thetas, dim=1),
        data=Batch(*(torch.stack(tensors, 1) for tensors in zip(*found.batches, strict=True))),
        returns=torch.stack(found.returns, 1),
        finite=found.finite,
    )
    return trajectory, timing


class _Adapted(NamedTuple):
    """The points of T tasks and the data at each, the return of each k, and who stayed finite."""

    thetas: list[Params]
    batches: list[Batch]
    returns: list[Tensor]
    finite: Tensor


class _Roll(Protocol):
    """Draws the episodes of step k, all tasks together."""

    def __call__(self, k: int, theta: Params, memory: Memory | None = None) -> Rollout: ...


def _by_gradient(
    policy: Policy,
    theta: Params,
    phi: Params,
    roll: _Roll,
    config: AdaptationConfig,
    timing: Timing,
) -> _Adapted:
    """K steps, each on the episodes of its own policy."""
    loss = InnerLoss(policy)
    thetas, batches, returns, finite = [], [], [], torch.tensor(True)
    for k in range(config.steps + 1):
        rollout = roll(k, theta)
        began = time.perf_counter()
        batch = to_batch(rollout, config, policy.obs_dim)
        finite = finite & _sound(rollout, batch)
        thetas.append(theta)
        batches.append(batch)
        returns.append(_returns(rollout))
        if k < config.steps:
            stepped = step_each(loss, theta, phi, batch, config.step_sizes(policy))
            finite = finite & P.finite_rows(stepped)
            theta = P.where(finite, stepped, theta)
        timing.inner += time.perf_counter() - began
    return _Adapted(thetas, batches, returns, finite)


def _by_memory(
    policy: Policy,
    theta: Params,
    phi: Params,
    roll: _Roll,
    config: AdaptationConfig,
    timing: Timing,
) -> _Adapted:
    """No step: the episodes are those of one trial, and are data of the same policy."""
    memory = Memory.before(policy, theta, phi, config.episodes)
    rollouts = [roll(k, theta, memory) for k in range(config.steps + 1)]
    began = time.perf_counter()
    trial = joined(rollouts)
    batch = to_batch(trial, config, policy.obs_dim, len(rollouts))
    timing.inner += time.perf_counter() - began
    return _Adapted([theta], [batch], list(map(_returns, rollouts)), _sound(trial, batch))


def to_batch(rollout: Rollout, config: AdaptationConfig, obs_dim: int, episodes: int = 1) -> Batch:
    """Estimate advantages and flatten episodes: ``[T, E, H, ...]`` to ``[T, N, ...]``.

    Rows may be trials of several ``episodes`` of equal length one behind the other, the first step
    of one following the last real step of the one before: padding takes no time. The baseline sees
    the observation proper, the first ``obs_dim`` numbers, and is one for each place in a trial.
    """
    order = torch.argsort(rollout.valid, dim=-1, descending=True, stable=True)
    reward, valid = rollout.reward.double(), rollout.valid.double()
    gained, real = reward.gather(-1, order), valid.gather(-1, order)
    returns = _put(discounted_returns(gained, real, config.gamma), order)
    data = rollout.obs[..., :obs_dim], returns, valid
    parts = zip(*(x.chunk(episodes, 2) for x in data), strict=True)
    values = [torch.stack(list(map(fit_predict, *part))) for part in parts]
    value = torch.cat(values, 2).gather(-1, order)
    estimates = gae(gained, value, real, config.gamma, config.lam)
    advantage = normalise(_put(estimates, order), valid)
    return Batch(
        obs=rollout.obs.flatten(1, 2),
        act=rollout.act.flatten(1, 2),
        logp=rollout.logp.flatten(1, 2),
        advantage=advantage.to(rollout.obs.dtype).flatten(1, 2),
        valid=rollout.valid.flatten(1, 2),
    )


def _put(ordered: Tensor, order: Tensor) -> Tensor:
    """What was gathered in an order along the last axis, back in its place."""
    return torch.zeros_like(ordered).scatter(-1, order, ordered)


def _returns(rollout: Rollout) -> Tensor:
    """Mean undiscounted return ``[T]``."""
    return rollout.reward.sum(-1).mean(-1)


def step_each(loss: InnerLoss, theta: Params, phi: Params, batch: Batch, lr: StepSize) -> Params:
    """Stacked theta ``[T, ...]`` after one inner step of each task on its data ``[T, N, ...]``."""
    # Task by task: as fast as stacked here, and a task's bits cannot depend on its neighbours.
    stepped = [
        inner_step(
            loss,
            P.select(theta, slice(t, t + 1)),
            phi,
            Batch(*(tensor[t : t + 1] for tensor in batch)),
            lr,
        )
        for t in range(len(batch.logp))
    ]
    return {name: torch.cat([row[name] for row in stepped]) for name in theta}


def _sound(rollout: Rollout, batch: Batch) -> Tensor:
    """Which tasks have finite data throughout and no physics fault: bool ``[T]``."""
    return ~rollout.fault & P.finite_rows(batch._asdict()) & P.finite_rows({"r": rollout.reward})
