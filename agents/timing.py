"""Where the time of a meta-iteration goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from operator import add, sub
from typing import Self

from torch import Tensor

from warprl.meta_batch import Group, MetaBatch
from warprl.sums import GradientSums
from warprl.trajectories import Selection
from warprl.types import Params


@dataclass(frozen=True)
class Amounts:
    """Numbers that are reckoned with field by field; the base of dataclasses."""

    def __add__(self, other: Self) -> Self:
        """Both together."""
        return type(self)(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: Self) -> Self:
        """What is left without the other."""
        return type(self)(*map(sub, astuple(self), astuple(other)))

    def __truediv__(self, number: float) -> Self:
        """One of so many equal parts."""
        return type(self)(*(amount / number for amount in astuple(self)))


@dataclass(frozen=True)
class Timing(Amounts):
    """Seconds of adapting, by purpose."""

    physics: float = 0.0
    policy: float = 0.0
    inner: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.physics + self.policy + self.inner


def mean_timing(timings: Iterable[Timing]) -> Timing:
    """The mean over workers."""
    every = list(timings)
    return sum(every, Timing()) / len(every)


def waiting(busy: Sequence[float]) -> float:
    """How long workers wait for the slowest of them.

    Args:
        busy: the seconds that each of them works.

    Returns:
        Seconds, the mean over workers.
    """
    return max(busy) - sum(busy) / len(busy)


@dataclass(frozen=True)
class Cost(Amounts):
    """What sharing the work of a meta-batch has cost so far.

    Args:
        waiting: seconds, see :func:`waiting`.
        transfer: seconds in which messages travelled, or work was lost.
        lost: how many workers were lost.
    """

    waiting: float = 0.0
    transfer: float = 0.0
    lost: int = 0


class Timed:
    """A meta-batch that counts the seconds in which it answers."""

    def __init__(self, batch: MetaBatch) -> None:
        """Ask this one."""
        self._batch, self.seconds = batch, 0.0
        self.task, self.returns, self.finite = batch.task, batch.returns, batch.finite
        self.steps = batch.steps

    def gradient(
        self, theta: Params, phi: Params, which: Selection, kl_coefficient: float
    ) -> GradientSums:
        """See :meth:`warprl.meta_batch.MetaBatch.gradient`."""
        with self._counting():
            return self._batch.gradient(theta, phi, which, kl_coefficient)

    def curvature(
        self, theta: Params, phi: Params, group: Group, which: Selection
    ) -> Callable[[Tensor], Tensor]:
        """See :meth:`warprl.meta_batch.MetaBatch.curvature`."""
        product = self._batch.curvature(theta, phi, group, which)

        def counted(vector: Tensor) -> Tensor:
            with self._counting():
                return product(vector)

        return counted

    @contextmanager
    def _counting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began


@dataclass(frozen=True)
class Spent:
    """The seconds of an iteration, which add up to its whole time.

    Args:
        physics: stepping the simulations (like the next three: the mean over workers).
        policy: computing actions.
        inner: inner gradient steps.
        gradient: the meta-gradients.
        waiting: for the slowest worker.
        transfer: sending messages, and joining what arrives.
        learner: the steps of phi and theta_0.
    """

    physics: float
    policy: float
    inner: float
    gradient: float
    waiting: float
    transfer: float
    learner: float

    @classmethod
    def of(
        cls, sampling: float, update: float, adapting: Timing, answers: float, costs: Sequence[Cost]
    ) -> Spent:
        """Divide the seconds of sampling and of the update.

        Args:
            sampling: seconds.
            update: seconds.
            adapting: the workers' part of the sampling.
            answers: seconds of the update in which the meta-batch answered.
            costs: of sharing the work, after the sampling and after the update.

        Returns:
            The seconds by purpose.
        """
        first, last = costs
        later = last - first
        return cls(
            **asdict(adapting),
            gradient=answers - later.waiting - later.transfer,
            waiting=last.waiting,
            transfer=sampling - adapting.total - first.waiting + later.transfer,
            learner=update - answers,
        )

    @property
    def whole(self) -> float:
        """Seconds of the iteration."""
        every: tuple[float, ...] = astuple(self)
        return sum(every)
