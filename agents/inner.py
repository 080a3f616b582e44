"""Adaptation: K warped policy-gradient steps on each task, and the trajectory they leave behind.

Or none: a memory that outlasts its episodes adapts as well.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Protocol, TypeAlias

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from warprl import params as P
from warprl.agents.baseline import fit_predict
from warprl.agents.losses import InnerLoss
from warprl.agents.policy import Layers, Policy
from warprl.agents.returns import discounted_returns, gae, normalise
from warprl.agents.rollout import Collected, Draws, Memory, collect, joined
from warprl.agents.timing import Timing
from warprl.keys import Key
from warprl.objective import inner_step
from warprl.seeding import generator
from warprl.types import Batch, BatchEnv, Params, Rollout, StepSize, Task, Trajectory

MAX_EPISODES = 10_000

Steps = Annotated[int, Interval(ge=0, le=MAX_EPISODES)]
Episodes = Annotated[int, Interval(gt=0, le=MAX_EPISODES)]
Discount = Annotated[float, Interval(gt=0, le=1), Key("discount of the rewards, from step to step")]
Lambda = Annotated[
    float, Interval(ge=0, le=1), Key("lambda of the advantages: 1 trusts no value estimate")
]


@dataclass(frozen=True)
class GradientAdaptation:
    """A policy adapts to a task by ``steps`` inner steps of size ``inner_lr``.

    Each step is taken on ``episodes`` fresh episodes. ``layers`` says which task layers adapt; the
    others stay at the initialisation. ``gamma`` and ``lam`` are those of the advantages
    (:func:`warprl.agents.returns.gae`). The peers take ``lam`` = 1, whose variance slows learning.
    """

    type: Annotated[Literal["gradient"], Key("by policy-gradient steps")] = "gradient"
    steps: Annotated[Steps, Key("inner steps on a task")] = 1
    inner_lr: Annotated[float, Gt(0), Key("size of an inner step (alpha in the paper)")] = 0.1
    layers: Annotated[Layers, Key("task layers that adapt: all, the output or the others")] = "all"
    episodes: Annotated[Episodes, Key("episodes of a task, for each inner step")] = 20
    gamma: Discount = 0.99
    lam: Lambda = 0.95

    def step_sizes(self, policy: Policy) -> dict[str, float]:
        """alpha of each parameter that adapts, by its name in the policy's theta."""
        return dict.fromkeys(policy.layers(self.layers), self.inner_lr)


@dataclass(frozen=True)
class MemoryAdaptation:
    """A policy adapts to a task by its memory, over the episodes of a trial; theta stays.

    A trial is ``steps`` + 1 consecutive episodes (Duan et al., RL^2, 2016) throughout which the
    policy remembers: k counts them from 0, and ``episodes`` counts the trials of a task. The
    objective is the return of the whole trial, discounted from step to step through its episodes'
    ends.
    """

    type: Annotated[Literal["memory"], Key("by a memory that outlasts its episodes")] = "memory"
    steps: Annotated[Steps, Key("episodes of a trial after its first")] = 3
    episodes: Annotated[Episodes, Key("trials of a task")] = 20
    gamma: Discount = 0.99
    lam: Lambda = 0.95

    def step_sizes(self, policy: Policy) -> dict[str, float]:
        """None: no parameter adapts."""
        return {}


AdaptationConfig: TypeAlias = GradientAdaptation | MemoryAdaptation


class Shard(NamedTuple):
    """Tasks of a meta-batch, with the keys of all that is random about them.

    ``indices`` are the tasks' positions in the whole meta-batch: a task's trajectory has the same
    bits in whichever shard it is computed.
    """

    tasks: Sequence[Task]
    indices: Sequence[int]
    seed: int
    iteration: int

    def part(self, numbers: Sequence[int]) -> Shard:
        """The shard of some of its tasks, given by their places in it."""
        return self._replace(
            tasks=[self.tasks[n] for n in numbers], indices=[self.indices[n] for n in numbers]
        )

    def draws(self, k: int) -> Draws:
        """The tasks and generators of the rollout after k inner steps."""
        reset, action = (
            [
                generator(self.seed, purpose, iteration=self.iteration, task=index, k=k)
                for index in self.indices
            ]
            for purpose in ("reset", "action")
        )
        return Draws(self.tasks, reset, action)


def adapt(
    env: BatchEnv,
    policy: Policy,
    theta_0: Params,
    phi: Params,
    shard: Shard,
    config: AdaptationConfig,
) -> tuple[Trajectory, Timing]:
    """Adapt theta_0 to T tasks with phi frozen: K steps, K + 1 rollouts.

    A task whose rollout or parameters stop being finite keeps its last good parameters, is marked
    in ``Trajectory.finite`` and disturbs no other task.

    Args:
        env: T * E simulations.
        policy: the network.
        theta_0: the initialisation, unstacked ``[...]``.
        phi: the warp parameters ``[...]``.
        shard: the tasks.
        config: how they are adapted to.

    Returns:
        The trajectories, and the seconds that they took.
    """

    def roll(k: int, theta: Params, memory: Memory | None = None) -> Collected:
        return collect(env, policy, theta, phi, shard.draws(k), memory)

    # theta_0 once a task, then one point after the other.
    theta = P.tree_map(torch.clone, P.broadcast(theta_0, len(shard.tasks)))
    if isinstance(config, MemoryAdaptation):
        found = _by_memory(policy, theta, phi, roll, config)
    else:
        found = _by_gradient(policy, theta, phi, roll, config)

    # Point by point becomes task by task.
    trajectory = Trajectory(
        task=torch.tensor(shard.indices, dtype=torch.int64),
        theta=P.stack(found.thetas, dim=1),
        data=Batch(*(torch.stack(tensors, 1) for tensors in zip(*found.batches, strict=True))),
        returns=torch.stack(found.returns, 1),
        finite=found.finite,
    )
    return trajectory, found.timing


class _Adapted(NamedTuple):
    """The points of T tasks and the data at each, the return of each k, and who stayed finite."""

    thetas: list[Params]
    batches: list[Batch]
    returns: list[Tensor]
    finite: Tensor
    timing: Timing


class _Roll(Protocol):
    """Draws the episodes of step k, all tasks together."""

    def __call__(self, k: int, theta: Params, memory: Memory | None = None) -> Collected: ...


def _by_gradient(
    policy: Policy, theta: Params, phi: Params, roll: _Roll, config: GradientAdaptation
) -> _Adapted:
    """K steps, each on the episodes of its own policy."""
    loss, sizes = InnerLoss(policy), config.step_sizes(policy)
    thetas, batches, returns, timing = [], [], [], Timing()
    finite = torch.ones(len(next(iter(theta.values()))), dtype=torch.bool)
    for k in range(config.steps + 1):
        rollout, _, spent = roll(k, theta)

        # What the trajectory keeps of this point.
        began = time.perf_counter()
        batch = to_batch(rollout, config, policy.obs_dim)
        finite = finite & _is_finite(rollout, batch)
        thetas.append(theta)
        batches.append(batch)
        returns.append(_returns(rollout))

        # The step to the next one.
        if k < config.steps:
            stepped = step_each(loss, theta, phi, batch, sizes)
            finite = finite & P.finite_rows(stepped)
            theta = P.where(finite, stepped, theta)
        timing += spent + Timing(inner=time.perf_counter() - began)
    return _Adapted(thetas, batches, returns, finite, timing)


def _by_memory(
    policy: Policy, theta: Params, phi: Params, roll: _Roll, config: MemoryAdaptation
) -> _Adapted:
    """No step: the episodes are those of one trial, and are data of the same policy."""
    rollouts, timing, memory = [], Timing(), None
    for k in range(config.steps + 1):
        rollout, memory, spent = roll(k, theta, memory)
        rollouts.append(rollout)
        timing += spent

    began = time.perf_counter()
    trial = joined(rollouts)
    batch = to_batch(trial, config, policy.obs_dim, len(rollouts))
    timing += Timing(inner=time.perf_counter() - began)
    returns = list(map(_returns, rollouts))
    return _Adapted([theta], [batch], returns, _is_finite(trial, batch), timing)


def to_batch(rollout: Rollout, config: AdaptationConfig, obs_dim: int, episodes: int = 1) -> Batch:
    """Estimate advantages and flatten episodes.

    Rows may be trials of several episodes one after the other, the first step of one following the
    last real step of the one before: padding takes no time. There is one baseline for each place in
    a trial.

    Args:
        rollout: ``[T, E, H, ...]``.
        config: ``gamma`` and ``lam``.
        obs_dim: how many numbers the baseline sees: the observation proper, which comes first.
        episodes: how many episodes of equal length make a row.

    Returns:
        The transitions ``[T, N, ...]``.
    """
    # Real steps first, padding last.
    order = torch.argsort(rollout.valid, dim=-1, descending=True, stable=True)
    reward, valid = rollout.reward.double(), rollout.valid.double()
    gained, real = reward.gather(-1, order), valid.gather(-1, order)
    returns = _put(discounted_returns(gained, real, config.gamma), order)

    # The value of each step, by a baseline of its own for each place in a trial.
    data = rollout.obs[..., :obs_dim], returns, valid
    parts = zip(*(x.chunk(episodes, 2) for x in data), strict=True)
    values = [torch.stack(list(map(fit_predict, *part))) for part in parts]
    value = torch.cat(values, 2).gather(-1, order)

    # The advantages, back in their places.
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
    """One inner step of each task on its own data.

    Args:
        loss: ``L_task``.
        theta: stacked ``[T, ...]``.
        phi: ``[...]``.
        batch: the data ``[T, N, ...]``.
        lr: alpha.

    Returns:
        The stepped parameters ``[T, ...]``.
    """
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


def _is_finite(rollout: Rollout, batch: Batch) -> Tensor:
    """Which tasks have finite data throughout and no physics fault: bool ``[T]``."""
    return ~rollout.fault & P.finite_rows(batch._asdict()) & P.finite_rows({"r": rollout.reward})
