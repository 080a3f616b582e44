"""Adaptation: K warped policy-gradient steps on each task, and the trajectory they leave behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from warprl import params as P
from warprl.agents.baseline import fit_predict
from warprl.agents.losses import InnerLoss
from warprl.agents.policy import Layers, Policy
from warprl.agents.returns import discounted_returns, gae, normalise
from warprl.agents.rollout import Timing, collect
from warprl.objective import inner_step
from warprl.seeding import generator
from warprl.types import Batch, BatchEnv, Params, Rollout, StepSize, Task, Trajectory

MAX_EPISODES = 10_000


@dataclass(frozen=True)
class AdaptationConfig:
    """How a policy adapts to one task: K steps of size ``lr``, each on fresh episodes.

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
    loss = InnerLoss(policy)
    theta = P.tree_map(torch.clone, P.broadcast(theta_0, len(tasks)))
    finite = torch.ones(len(tasks), dtype=torch.bool)
    thetas, batches, returns = [], [], []
    for k in range(config.steps + 1):
        keys = [{"iteration": iteration, "task": index, "k": k} for index in indices]
        rollout = collect(
            env, policy, theta, phi, tasks,
            [generator(seed, "reset", **key) for key in keys],
            [generator(seed, "action", **key) for key in keys],
            timing,
        )  # fmt: skip
        began = time.perf_counter()
        batch = to_batch(rollout, config)
        finite &= _sound(rollout, batch)
        thetas.append(theta)
        batches.append(batch)
        returns.append(rollout.reward.sum(-1).mean(-1))
        if k < config.steps:
            stepped = _step_each(loss, theta, phi, batch, config.step_sizes(policy))
            finite &= P.finite_rows(stepped)
            theta = _where(finite, stepped, theta)
        timing.inner += time.perf_counter() - began
    trajectory = Trajectory(
        task=torch.tensor(indices, dtype=torch.int64),
        theta=P.stack(thetas, dim=1),
        data=Batch(*(torch.stack(tensors, 1) for tensors in zip(*batches, strict=True))),
        returns=torch.stack(returns, 1),
        finite=finite,
    )
    return trajectory, timing


def to_batch(rollout: Rollout, config: AdaptationConfig) -> Batch:
    """Estimate advantages and flatten episodes: ``[T, E, H, ...]`` to ``[T, N, ...]``."""
    reward, valid = rollout.reward.double(), rollout.valid.double()
    returns = discounted_returns(reward, valid, config.gamma)
    fits = zip(rollout.obs, returns, valid, strict=True)
    value = torch.stack([fit_predict(*data) for data in fits])
    advantage = normalise(gae(reward, value, valid, config.gamma, config.lam), valid)
    return Batch(
        obs=rollout.obs.flatten(1, 2),
        act=rollout.act.flatten(1, 2),
        logp=rollout.logp.flatten(1, 2),
        advantage=advantage.to(rollout.obs.dtype).flatten(1, 2),
        valid=rollout.valid.flatten(1, 2),
    )


def _step_each(loss: InnerLoss, theta: Params, phi: Params, batch: Batch, lr: StepSize) -> Params:
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


def _where(keep: Tensor, new: Params, old: Params) -> Params:
    rows = {name: keep.reshape(-1, *[1] * (tensor.dim() - 1)) for name, tensor in new.items()}
    return {name: torch.where(rows[name], tensor, old[name]) for name, tensor in new.items()}
