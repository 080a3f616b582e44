"""What a meta-update draws from adaptation trajectories: their states, and whole ones. Pure.

The trajectory states of a meta-batch with K inner steps are numbered: state ``s`` is step ``s % K``
of the trajectory of task ``s // K``. They are on-policy data and serve one update only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warprl import params as P
from warprl.types import Batch, Trajectory, TrajectoryState

Indices = NDArray[np.int64]


class Selection(NamedTuple):
    """A part of a meta-batch: numbers of states, for phi, and of tasks, for theta_0; ascending."""

    states: Indices
    tasks: Indices


def of_tasks(tasks: Sequence[int], steps: int) -> Selection:
    """All states and trajectories of some tasks.

    Args:
        tasks: their positions, ascending.
        steps: K.

    Returns:
        Their numbers.
    """
    positions = np.array(tasks, dtype=np.int64)
    return Selection((positions[:, None] * steps + np.arange(steps)).reshape(-1), positions)


def draw(rng: np.random.Generator, every: Selection, parts: int) -> Iterator[Selection]:
    """One pass over states and trajectories without replacement.

    States and trajectories are shuffled and split each on their own, so that every part carries
    its share of both.

    Args:
        rng: decides the order.
        every: the states and trajectories.
        parts: how many parts the pass has.

    Returns:
        The parts, each in ascending order.
    """
    drawn = [
        [numbers[np.sort(part)] for part in np.array_split(rng.permutation(len(numbers)), parts)]
        for numbers in every
    ]
    return itertools.starmap(Selection, zip(*drawn, strict=True))


def states(trajectory: Trajectory, numbers: Indices) -> TrajectoryState:
    """Trajectory states by their numbers, counted from the first trajectory that is given.

    Args:
        trajectory: T trajectories with K inner steps.
        numbers: ``[S]``, each below T * K.

    Returns:
        The states, stacked ``[S, ...]``.
    """
    row, step = np.divmod(numbers, trajectory.points - 1)
    t, k = (torch.from_numpy(i).to(trajectory.task.device) for i in (row, step))
    return TrajectoryState(
        task=trajectory.task[t],
        step=k,
        start=P.select(trajectory.theta, t, 0),
        theta=P.select(trajectory.theta, t, k),
        support=_gather(trajectory.data, t, k),
        query=_gather(trajectory.data, t, k + 1),
    )


def select(trajectory: Trajectory, rows: Indices | Tensor) -> Trajectory:
    """The trajectories in some rows.

    Args:
        trajectory: ``[T, ...]``.
        rows: ``[R]``, each below T.

    Returns:
        ``[R, ...]``.
    """
    index = torch.as_tensor(rows, device=trajectory.task.device)
    return Trajectory(
        task=trajectory.task[index],
        theta=P.select(trajectory.theta, index),
        data=_gather(trajectory.data, index),
        returns=trajectory.returns[index],
        finite=trajectory.finite[index],
    )


def concatenate(parts: Sequence[Trajectory]) -> Trajectory:
    """Trajectories of equal length joined along the task axis."""
    return Trajectory(
        task=torch.cat([p.task for p in parts]),
        theta={n: torch.cat([p.theta[n] for p in parts]) for n in parts[0].theta},
        data=Batch(*(torch.cat(tensors) for tensors in zip(*(p.data for p in parts), strict=True))),
        returns=torch.cat([p.returns for p in parts]),
        finite=torch.cat([p.finite for p in parts]),
    )


def to_device(trajectory: Trajectory, device: str | torch.device) -> Trajectory:
    """The same trajectories on another device.

    Args:
        trajectory: ``[T, ...]``.
        device: where they go.

    Returns:
        ``[T, ...]``.
    """
    return Trajectory(
        task=trajectory.task.to(device),
        theta=P.tree_map(lambda tensor: tensor.to(device), trajectory.theta),
        data=Batch(*(tensor.to(device) for tensor in trajectory.data)),
        returns=trajectory.returns.to(device),
        finite=trajectory.finite.to(device),
    )


def _gather(batch: Batch, *index: Tensor) -> Batch:
    return Batch(*(tensor[index] for tensor in batch))
