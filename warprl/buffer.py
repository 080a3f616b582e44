"""The buffer of trajectory states between collection and the meta-update (algorithm 2)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warprl import params as P
from warprl.types import Batch, Trajectory, TrajectoryState

Indices = NDArray[np.int64]


class TrajectoryBuffer:
    """Holds adaptation trajectories; hands out their states ``(task, k)`` by number.

    State ``s`` is step ``s % K`` of the trajectory in row ``s // K``.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._held: Trajectory | None = None

    def add(self, trajectory: Trajectory) -> None:
        """Add trajectories; rows whose ``finite`` is False are left out.

        Raises ValueError if the number of inner steps differs from what the buffer holds.
        """
        kept = trajectory_rows(trajectory, torch.nonzero(trajectory.finite).squeeze(1))
        if self._held is None:
            self._held = kept
        elif self._held.points != kept.points:
            raise ValueError(
                f"the buffer holds trajectories of {self.steps} inner steps, got {kept.points - 1}"
            )
        else:
            self._held = concatenate([self._held, kept])

    def clear(self) -> None:
        """Forget everything: states are on-policy data and serve one meta-update only."""
        self._held = None

    @property
    def tasks(self) -> int:
        """Number of trajectories held."""
        return 0 if self._held is None else len(self._held.task)

    @property
    def steps(self) -> int:
        """K, the number of inner steps (and so of states) of each trajectory."""
        return 0 if self._held is None else self._held.points - 1

    def __len__(self) -> int:
        """Number of states held."""
        return self.tasks * self.steps

    def draw(self, rng: np.random.Generator, minibatches: int) -> Iterator[tuple[Indices, Indices]]:
        """One pass without replacement, in ``minibatches`` parts: (state numbers, trajectory rows).

        Both are shuffled and split on their own, so that each part carries its share of the
        states, for phi, and of the whole trajectories, for theta_0.
        """
        states = np.array_split(rng.permutation(len(self)), minibatches)
        rows = np.array_split(rng.permutation(self.tasks), minibatches)
        return iter([(np.sort(s), np.sort(r)) for s, r in zip(states, rows, strict=True)])

    def states(self, numbers: Indices) -> TrajectoryState:
        """The states of these numbers, stacked ``[S, ...]``."""
        held = self._require()
        row, step = np.divmod(numbers, self.steps)
        t, k = torch.from_numpy(row), torch.from_numpy(step)
        return TrajectoryState(
            task=held.task[t],
            step=k,
            start=P.select(held.theta, t, 0),
            theta=P.select(held.theta, t, k),
            support=_gather(held.data, t, k),
            query=_gather(held.data, t, k + 1),
        )

    def without(self, tasks: Collection[int]) -> tuple[Indices, Indices]:
        """(state numbers, trajectory rows) of all but some tasks of the meta-batch."""
        names = [] if self._held is None else self._held.task.tolist()
        rows = np.array([r for r, name in enumerate(names) if name not in tasks], dtype=np.int64)
        return (rows[:, None] * self.steps + np.arange(self.steps)).reshape(-1), rows

    def trajectories(self, rows: Indices) -> Trajectory:
        """The trajectories in these rows, stacked ``[T, ...]``."""
        return trajectory_rows(self._require(), torch.from_numpy(rows))

    def _require(self) -> Trajectory:
        if self._held is None:
            raise ValueError("the buffer is empty")
        return self._held


def trajectory_rows(trajectory: Trajectory, rows: Tensor) -> Trajectory:
    """A trajectory batch restricted to some rows."""
    return Trajectory(
        task=trajectory.task[rows],
        theta=P.select(trajectory.theta, rows),
        data=_gather(trajectory.data, rows),
        returns=trajectory.returns[rows],
        finite=trajectory.finite[rows],
    )


def concatenate(parts: list[Trajectory]) -> Trajectory:
    """Join trajectory batches along the task axis."""
    return Trajectory(
        task=torch.cat([p.task for p in parts]),
        theta={n: torch.cat([p.theta[n] for p in parts]) for n in parts[0].theta},
        data=Batch(*(torch.cat(tensors) for tensors in zip(*(p.data for p in parts), strict=True))),
        returns=torch.cat([p.returns for p in parts]),
        finite=torch.cat([p.finite for p in parts]),
    )


def _gather(batch: Batch, *index: Tensor) -> Batch:
    return Batch(*(tensor[index] for tensor in batch))
