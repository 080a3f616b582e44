"""The words every part of WarpRL shares, and the protocols at its seams.

Axis letters, used in every docstring of the project:

====== =====================================================================
letter meaning
====== =====================================================================
T      tasks of a meta-batch or of a shard of it
E      episodes a task
H      horizon, in environment steps
N      ``E * H`` transitions of one task; in ``envs``, simulations in a batch
O, A   observation and action dimensions
K      inner steps; ``k`` counts them from 0
S      trajectory states drawn for one meta-gradient
====== =====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # envs and the command line use this module, and need not wait for torch
    from torch import Tensor

Params: TypeAlias = "dict[str, Tensor]"
"""Named parameters. *Stacked* parameters carry a leading axis (``T`` or ``S``) in every tensor."""

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Ids: TypeAlias = NDArray[np.intp]  # positions of some simulations in a batch
Generators: TypeAlias = Sequence[np.random.Generator]  # one for each task
EnvStep: TypeAlias = tuple[Floats, Floats, Bools]
"""What a step of a batch returns: observations ``[N, O]``, rewards and terminations ``[N]``."""


@dataclass(frozen=True)
class Task:
    """One MDP of a family: numbers, or tuples of them, and nothing else; families subclass it."""


class Rollout(NamedTuple):
    """Episodes of T tasks, each under its own policy. Padding after termination is invalid.

    The horizon truncates and never terminates, so the two stay apart: ``terminated`` marks the
    episodes whose last valid step ended the MDP.
    """

    obs: Tensor  # [T, E, H, O]
    act: Tensor  # [T, E, H, A], before scaling and clipping; one-hot if actions are discrete
    logp: Tensor  # [T, E, H], log-probability under the behaviour policy
    reward: Tensor  # [T, E, H], zero where invalid
    valid: Tensor  # [T, E, H], 1.0 for real transitions and 0.0 for padding
    terminated: Tensor  # [T, E], bool
    fault: Tensor  # [T], bool: the physics warned (NaN, divergence) in an episode of this task


class Batch(NamedTuple):
    """Transitions of one rollout, ready for a loss. ``...`` is any number of leading axes."""

    obs: Tensor  # [..., N, O]
    act: Tensor  # [..., N, A]
    logp: Tensor  # [..., N]
    advantage: Tensor  # [..., N]
    valid: Tensor  # [..., N]


class Trajectory(NamedTuple):
    """Adaptation trajectories of T tasks: ``theta_0 .. theta_K`` and the data drawn at each.

    The pair ``(t, k)``, k < K, names the trajectory state ``(theta_k, D_k, D_{k+1})`` of task t.
    Where a memory adapts and theta stays, there is a single point, and its data are whole trials.
    """

    task: Tensor  # [T] int64, position of the task in the meta-batch
    theta: Params  # [T, K+1, ...]
    data: Batch  # [T, K+1, N, ...]
    returns: Tensor  # [T, K+1], mean undiscounted return over the E episodes; of each of a trial
    finite: Tensor  # [T], bool; False masks a diverged task out of the meta-update

    @property
    def points(self) -> int:
        """How many theta each task has: K + 1, or 1 if a memory adapts."""
        return self.data.valid.shape[1]


class TrajectoryState(NamedTuple):
    """S trajectory states: points of p(theta, task) with separate data for the two losses."""

    task: Tensor  # [S] int64
    step: Tensor  # [S] int64, the k of each state
    start: Params  # [S, ...], the theta_0 that led to theta_k
    theta: Params  # [S, ...], theta_k
    support: Batch  # [S, N, ...], D_k, for L_task
    query: Batch  # [S, N, ...], D_{k+1}, for L_meta


StepSize: TypeAlias = float | Mapping[str, float]
"""alpha: one for all parameters of theta, or one each; a parameter without one is not adapted."""


class TaskLoss(Protocol):
    """A per-task loss."""

    def __call__(self, theta: Params, phi: Params, batch: Batch) -> Tensor:
        """Losses ``[S]`` of stacked theta ``[S, ...]``, shared phi and data ``[S, N, ...]``."""
        ...


class MetaLossValue(NamedTuple):
    """A meta-loss ``[S]`` and the KL ``[S]`` of the policy from the one that drew the data."""

    loss: Tensor
    kl: Tensor


class MetaLoss(Protocol):
    """The loss after the look-ahead, penalised by ``kl_coefficient`` times the KL."""

    def __call__(
        self, theta: Params, phi: Params, batch: Batch, kl_coefficient: float
    ) -> MetaLossValue:
        """Losses and KLs ``[S]`` of stacked theta ``[S, ...]`` and data ``[S, N, ...]``."""
        ...


@dataclass(frozen=True)
class Spaces:
    """What a policy sees and does, as plain numbers.

    Args:
        obs_size: O, how many numbers an observation has.
        act_size: A, how many numbers a continuous action has, or how many choices there are; a
            discrete action is one-hot, so that both kinds have the same shape everywhere.
        bounds: the lowest and the highest continuous action, ``A`` numbers each, to which an
            environment clips; None where actions are choices.
    """

    obs_size: int
    act_size: int
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def discrete(self) -> bool:
        """Whether an action is a choice."""
        return self.bounds is None


class BatchEnv(Protocol):
    """``num_envs`` simulations stepped together, without automatic resets.

    With T tasks and E = num_envs / T episodes each, simulation ``t * E + e`` is episode e of task
    t.
    """

    num_envs: int
    horizon: int

    def reset(self, tasks: Sequence[Task], generators: Generators) -> Floats:
        """Start one episode in every simulation.

        Args:
            tasks: T tasks.
            generators: one for each task, from which the initial states of that task's episodes
                are drawn, so that they do not depend on the neighbours in the batch.

        Returns:
            Observations ``[N, O]``.
        """
        ...

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Advance every simulation by one environment step.

        What happens to a simulation after it terminated is unspecified but finite; callers mask it.

        Args:
            action: ``[N, A]``, the policy's output before scaling and clipping; one-hot if the
                actions are discrete.

        Returns:
            Observations ``[N, O]``, rewards ``[N]`` and terminations ``[N]``.
        """
        ...

    def skip(self, ended: Bools) -> None:
        """Skip these simulations until their next reset.

        A batch that saves nothing by it may advance them all the same.

        Args:
            ended: ``[N]``, the simulations whose observations and rewards the caller ignores.
        """
        ...

    def faults(self) -> Bools:
        """``[N]``: simulations the physics engine warned about (and may have reset) since reset."""
        ...
