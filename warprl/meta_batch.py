"""The meta-batch: the trajectory states of one iteration, which answer questions about gradients.

The learner only asks; where the trajectories lie is the meta-batch's own affair. :class:`InMemory`
holds them all. Gradients are summed over small chunks of states, which fit the processor's cache,
in a fixed order; several threads may compute the chunks, and the result has the same bits for any
number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from warprl import params as P
from warprl import trajectories
from warprl.initialisation import INITIALISATIONS, adapted_loss, init_gradient, loss_at_start
from warprl.objective import LookAhead, MetaObjective, look_ahead
from warprl.threads import pool
from warprl.trajectories import Indices, Selection
from warprl.types import MetaLossValue, Params, Trajectory

CHUNK = 2  # states differentiated in one call: they fit the cache, and threads end together
LONG_CHUNK = 5  # where a network runs step by step, which costs the same for several states

Group = Literal["theta", "phi"]
Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Sums(NamedTuple):
    """Sums over states (or tasks), and how many there were."""

    gradient: Params
    loss: float
    kl: float
    number: int
    diverged: frozenset[int]


NOTHING = Sums({}, 0.0, 0.0, 0, frozenset())


class GradientSums(NamedTuple):
    """What phi's objective sums up to over states, and theta_0's over tasks."""

    warp: Sums = NOTHING
    init: Sums = NOTHING


class MetaBatch(Protocol):
    """The trajectories of one iteration, in memory or spread over workers.

    ``task``, ``returns`` and ``finite`` are those of :class:`warprl.types.Trajectory`, of all
    tasks. A selection counts the trajectories that are finite, in ``names`` order.
    """

    @property
    def task(self) -> Tensor:
        """``[T]``, position of each task in the meta-batch."""
        ...

    @property
    def returns(self) -> Tensor:
        """``[T, K+1]``, mean returns after k inner steps."""
        ...

    @property
    def finite(self) -> Tensor:
        """``[T]``, False where the adaptation diverged."""
        ...

    @property
    def names(self) -> Sequence[int]:
        """The tasks of the finite trajectories, one a row."""
        ...

    @property
    def steps(self) -> int:
        """K, how many states a trajectory has."""
        ...

    def gradient(
        self, theta: Params, phi: Params, which: Selection, kl_coefficient: float
    ) -> GradientSums:
        """Sums of the meta-gradient in phi and theta_0 over a part of the states and tasks.

        Args:
            theta: theta_0 ``[...]``.
            phi: ``[...]``.
            which: the part.
            kl_coefficient: weight of the KL in the meta-loss.

        Returns:
            The sums; states whose gradient is not finite are left out, and their tasks named.
        """
        ...

    def curvature(
        self, theta: Params, phi: Params, group: Group, which: Selection
    ) -> Callable[[Tensor], Tensor]:
        """The product of a vector with the Hessian of the mean KL in one group of parameters.

        Args:
            theta: theta_0 ``[...]``.
            phi: ``[...]``.
            group: which of the two the Hessian is taken in.
            which: the part of the states and tasks.

        Returns:
            A function of a vector ``[n]``, n the numbers in the group.
        """
        ...


class Gradients(NamedTuple):
    """The mean gradients of both objectives, with the meta-loss and the larger KL.

    A gradient is empty where nothing finite contributed to it; its parameters then stay. The
    meta-loss is that of the warps where there are any; ``losses`` are those of both.
    """

    theta: Params
    phi: Params
    loss: float
    losses: tuple[float, float]
    kl: float
    diverged: frozenset[int]


def mean_gradients(sums: GradientSums) -> Gradients:
    """The means over states and over tasks."""
    warp, init = mean(sums.warp), mean(sums.init)
    driver = warp if warp.gradient else init
    return Gradients(
        init.gradient,
        warp.gradient,
        driver.loss,
        (warp.loss, init.loss),
        max(warp.kl, init.kl),
        warp.diverged | init.diverged,
    )


@dataclass(frozen=True)
class InMemory:
    """A meta-batch whose trajectories are all in this process.

    Args:
        trajectory: of all tasks; those that are not finite are left out of every answer.
        objective: what is differentiated.
        threads: how many compute chunks.
        chunk: states or tasks in one chunk.
    """

    trajectory: Trajectory
    objective: MetaObjective
    threads: int = 1
    chunk: int = CHUNK

    @property
    def task(self) -> Tensor:
        """See :class:`MetaBatch`."""
        return self.trajectory.task

    @property
    def returns(self) -> Tensor:
        """See :class:`MetaBatch`."""
        return self.trajectory.returns

    @property
    def finite(self) -> Tensor:
        """See :class:`MetaBatch`."""
        return self.trajectory.finite

    @cached_property
    def _kept(self) -> Trajectory:
        rows = torch.nonzero(self.trajectory.finite).squeeze(1)
        return trajectories.select(self.trajectory, rows)

    @cached_property
    def names(self) -> Sequence[int]:
        """See :class:`MetaBatch`."""
        names: list[int] = self._kept.task.tolist()
        return names

    @property
    def steps(self) -> int:
        """See :class:`MetaBatch`."""
        return self.trajectory.points - 1

    def gradient(
        self, theta: Params, phi: Params, which: Selection, kl_coefficient: float
    ) -> GradientSums:
        """See :meth:`MetaBatch.gradient`."""
        kind = INITIALISATIONS[self.objective.init]
        jobs: list[tuple[Callable[[Indices], GradientSums], Indices]] = []

        # Which objective is computed from which states or tasks.
        if not isinstance(self.objective.objective, LookAhead):
            both = partial(self._at_start, theta, phi, kl_coefficient)
            jobs += [(both, chunk) for chunk in self._chunks(which.rows)]
        else:
            if phi:
                of_phi = partial(self._of_states, theta, phi, kl_coefficient)
                jobs += [(of_phi, chunk) for chunk in self._chunks(which.states)]
            if kind.learned and not (phi and kind.at_last_state):
                of_theta = partial(self._of_tasks, theta, phi, kl_coefficient)
                jobs += [(of_theta, chunk) for chunk in self._chunks(which.rows)]

        # The sums, in the order of the chunks.
        parts = self._map(lambda job: finite_part(*job), jobs)
        return GradientSums(add([p.warp for p in parts]), add([p.init for p in parts]))

    def curvature(
        self, theta: Params, phi: Params, group: Group, which: Selection
    ) -> Callable[[Tensor], Tensor]:
        """See :meth:`MetaBatch.curvature`."""
        items = which.states if group == "phi" else which.rows

        def kl(chunk: Indices, leaves: Params) -> Tensor:
            if group == "phi":
                states = trajectories.states(self._kept, chunk)
                return look_ahead(self.objective, theta, leaves, states, 0.0).value.kl
            start = P.broadcast(leaves, len(chunk))
            rows = trajectories.select(self._kept, chunk)
            return adapted_loss(self.objective, start, phi, rows, 0.0).kl

        def product(vector: Tensor) -> Tensor:
            def part(chunk: Indices) -> Tensor:
                leaves = P.leaves(phi if group == "phi" else theta)
                return hessian_product(kl(chunk, leaves).sum(), leaves, vector)

            return torch.stack(self._map(part, self._chunks(items))).sum(0) / len(items)

        return product

    def _of_states(
        self, theta: Params, phi: Params, kl_coefficient: float, chunk: Indices
    ) -> GradientSums:
        """phi's objective over some states, and theta_0's where it comes out on the way.

        First-order MAML's gradient is the outer factor of the look-ahead's gradient from the last
        visited point, so that beside warps it costs nothing.
        """
        leaves, states = P.leaves(phi), trajectories.states(self._kept, chunk)
        ahead, value = look_ahead(self.objective, theta, leaves, states, kl_coefficient)
        on_the_way = INITIALISATIONS[self.objective.init].at_last_state

        # One backward pass for both.
        inputs = [*leaves.values(), *(ahead.values() if on_the_way else ())]
        gradients = iter(torch.autograd.grad(value.loss.sum(), inputs, materialize_grads=True))
        of_phi = summed({name: next(gradients) for name in leaves}, value, states.task)
        if not on_the_way:
            return GradientSums(of_phi)

        # theta_0's share is that of the last states.
        end = states.step == self.steps - 1
        of_theta = {name: next(gradients)[end].sum(0) for name in ahead}
        at_end = MetaLossValue(value.loss[end], value.kl[end])
        return GradientSums(of_phi, summed(of_theta, at_end, states.task[end]))

    def _of_tasks(
        self, theta: Params, phi: Params, kl_coefficient: float, chunk: Indices
    ) -> GradientSums:
        """theta_0's objective over some tasks."""
        rows = trajectories.select(self._kept, chunk)
        stacked, value = init_gradient(self.objective, theta, phi, rows, kl_coefficient)
        gradient = P.tree_map(lambda g: g.sum(0), stacked)
        return GradientSums(init=summed(gradient, value, rows.task))

    def _at_start(
        self, theta: Params, phi: Params, kl_coefficient: float, chunk: Indices
    ) -> GradientSums:
        """The meta-loss at theta_0, without any step, in phi and theta_0."""
        rows = trajectories.select(self._kept, chunk)
        initial, warps = P.leaves(theta), P.leaves(phi)
        start = P.broadcast(initial, len(chunk))
        value = loss_at_start(self.objective, start, warps, rows, kl_coefficient)

        inputs = [*warps.values(), *initial.values()]
        gradients = iter(torch.autograd.grad(value.loss.sum(), inputs, materialize_grads=True))
        found = [{name: next(gradients) for name in group} for group in (warps, initial)]
        return GradientSums(*(summed(gradient, value, rows.task) for gradient in found))

    def _chunks(self, numbers: Indices) -> list[Indices]:
        return [numbers[i : i + self.chunk] for i in range(0, len(numbers), self.chunk)]

    def _map(self, function: Callable[[Job], Answer], jobs: Sequence[Job]) -> list[Answer]:
        with pool(self.threads) as executor:
            return list(executor.map(function, jobs))


def hessian_product(scalar: Tensor, leaves: Params, vector: Tensor) -> Tensor:
    """The product ``H v`` of a scalar's Hessian in all leaves together with a vector.

    Args:
        scalar: a function of the leaves.
        leaves: named tensors with n numbers in all.
        vector: v, ``[n]``.

    Returns:
        ``[n]``.
    """
    inputs = list(leaves.values())
    slopes = torch.autograd.grad(scalar, inputs, create_graph=True, materialize_grads=True)
    rise = P.flatten(dict(zip(leaves, slopes, strict=True))).dot(vector)
    found = torch.autograd.grad(rise, inputs, materialize_grads=True)
    return P.flatten(dict(zip(leaves, found, strict=True)))


def summed(gradient: Params, value: MetaLossValue, task: Tensor) -> Sums:
    """The sums of one chunk, with its tasks named if a number is not finite.

    Args:
        gradient: summed over the chunk.
        value: loss and KL of each state or task, ``[S]``.
        task: the task of each of them, ``[S]``.
    """
    finite = P.all_finite(gradient) and bool(torch.isfinite(value.loss).all())
    diverged = frozenset() if finite else frozenset(task.tolist())
    loss, kl = (float(x.detach().sum()) for x in value)
    return Sums(gradient, loss, kl, len(task), diverged)


def finite_part(function: Callable[[Indices], GradientSums], chunk: Indices) -> GradientSums:
    """The chunk's sums without the states that make them non-finite.

    Args:
        function: the sums over states or tasks of some numbers.
        chunk: the numbers.

    Returns:
        The sums over the finite ones, with the tasks of the others named.
    """
    whole = function(chunk)
    diverged = whole.warp.diverged | whole.init.diverged
    if not diverged:
        return whole
    if len(chunk) == 1:
        return GradientSums(NOTHING._replace(diverged=diverged))
    parts = [finite_part(function, chunk[i : i + 1]) for i in range(len(chunk))]
    return GradientSums(add([part.warp for part in parts]), add([part.init for part in parts]))


def add(parts: Sequence[Sums]) -> Sums:
    """Sums added up in their order."""
    total = NOTHING
    for part in parts:
        if part.number:
            gradient = P.add(total.gradient, part.gradient) if total.number else part.gradient
            total = Sums(
                gradient,
                total.loss + part.loss,
                total.kl + part.kl,
                total.number + part.number,
                total.diverged,
            )
        total = total._replace(diverged=total.diverged | part.diverged)
    return total


def mean(total: Sums) -> Sums:
    """The means of sums; no gradient where there was nothing to sum."""
    number = total.number
    if not number:
        return total._replace(gradient={})
    return total._replace(
        gradient=P.tree_map(lambda g: g / number, total.gradient),
        loss=total.loss / number,
        kl=total.kl / number,
    )
