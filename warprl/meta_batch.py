"""The meta-batch: the trajectory states of one iteration, which answer questions about gradients.

The learner only asks; where the trajectories lie is the meta-batch's own affair. :class:`InMemory`
holds them all, or a part of them on behalf of a meta-batch that is spread over workers. Gradients
are summed up task by task, and then over tasks in a fixed tree (:mod:`warprl.tree`): the result has
the same bits however many threads compute it and however the tasks are spread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from warprl import params as P
from warprl import trajectories, tree
from warprl.initialisation import (
    INITIALISATIONS,
    AdaptedLoss,
    adapted_loss,
    init_gradient,
    loss_at_start,
)
from warprl.objective import LookAhead, MetaObjective, look_ahead
from warprl.sums import NOTHING, GradientSums, Sums, joined, row_by_row, summed
from warprl.threads import pool
from warprl.trajectories import Indices, Selection, of_tasks
from warprl.tree import Span
from warprl.types import MetaLossValue, Params, Trajectory

CHUNK = 3  # states differentiated in one call: they fit the cache, and threads end together
LONG_CHUNK = 5  # where a network runs step by step, which costs the same for several states

Group = Literal["theta", "phi"]
Leaf = tuple[int, GradientSums]  # the position of a task, and what it adds to the sums
Job = TypeVar("Job")
Answer = TypeVar("Answer")


class MetaBatch(Protocol):
    """The trajectories of one iteration, in memory or spread over workers.

    ``task``, ``returns`` and ``finite`` are those of :class:`warprl.types.Trajectory`, of all
    tasks.
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


def finite_tasks(batch: MetaBatch, left_out: Collection[int] = ()) -> Selection:
    """All states and trajectories of the tasks whose adaptation stayed finite.

    Args:
        batch: the meta-batch.
        left_out: positions of tasks that are left out all the same.

    Returns:
        Their numbers.
    """
    finite: list[int] = batch.task[batch.finite].tolist()
    return of_tasks([task for task in finite if task not in left_out], batch.steps)


class At(NamedTuple):
    """Where a gradient is taken: theta_0 ``[...]``, phi ``[...]``, and the weight of the KL."""

    theta: Params
    phi: Params
    kl_coefficient: float = 0.0


@dataclass(frozen=True)
class InMemory:
    """Trajectories in this process: those of a whole meta-batch, or of a part of it.

    Args:
        trajectory: of the tasks, in the order of their positions.
        objective: what is differentiated.
        threads: how many compute chunks.
        chunk: states in one chunk.
        stacked: whether one chunk may hold states of several tasks, with phi stacked like theta.
            It pays where a network runs step by step.
        whole: the positions of the whole meta-batch, if the trajectories are a part of it.
    """

    trajectory: Trajectory
    objective: MetaObjective
    threads: int = 1
    chunk: int = CHUNK
    stacked: bool = False
    whole: Span | None = None

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

    @property
    def steps(self) -> int:
        """See :class:`MetaBatch`."""
        return self.trajectory.points - 1

    def gradient(
        self, theta: Params, phi: Params, which: Selection, kl_coefficient: float
    ) -> GradientSums:
        """See :meth:`MetaBatch.gradient`."""
        parts = self.gradient_parts(At(theta, phi, kl_coefficient), which)
        return tree.total(self._positions, parts, joined) or GradientSums()

    def curvature(
        self, theta: Params, phi: Params, group: Group, which: Selection
    ) -> Callable[[Tensor], Tensor]:
        """See :meth:`MetaBatch.curvature`."""
        number = len(which.states if group == "phi" else which.tasks)

        def product(vector: Tensor) -> Tensor:
            parts = self.curvature_parts(At(theta, phi), group, which, vector)
            found = tree.total(self._positions, parts, torch.add)
            assert found is not None, "there is no curvature of nothing"
            return found / number

        return product

    def gradient_parts(self, at: At, which: Selection) -> dict[Span, GradientSums]:
        """The sums of the largest subtrees whose tasks are all here.

        Args:
            at: where the gradients are taken.
            which: the states and tasks that count; those that are not here are passed over.

        Returns:
            The sums of each of these subtrees that has any.
        """
        kind, which = INITIALISATIONS[self.objective.init], self._here(which)
        jobs: list[tuple[Callable[[Indices], list[Leaf]], Indices]] = []

        # Which objective is computed from which states or tasks.
        loss = self._common_loss(at)
        if loss is not None:
            both = partial(self._of_both, loss, at)
            jobs += [(both, chunk) for chunk in self._chunks(which.tasks, 1)]
        else:
            if at.phi:
                chunks = self._chunks(which.states, self.steps)
                jobs += [(partial(self._of_states, at), chunk) for chunk in chunks]
            if kind.learned and not (at.phi and kind.at_last_state):
                chunks = self._chunks(which.tasks, 1)
                jobs += [(partial(self._of_tasks, at), chunk) for chunk in chunks]

        # The sums, in the order of the chunks.
        found = self._map(lambda job: finite_part(*job), jobs)
        return self._subtrees(chain.from_iterable(found), joined)

    def curvature_parts(
        self, at: At, group: Group, which: Selection, vector: Tensor
    ) -> dict[Span, Tensor]:
        """The summed products of the largest subtrees whose tasks are all here.

        Args:
            at: where the Hessian of the KL is taken.
            group: in which parameters.
            which: the states and tasks that count; those that are not here are passed over.
            vector: of the product, ``[n]``.

        Returns:
            The products of each of these subtrees that has any, ``[n]``.
        """
        which = self._here(which)

        def kl(chunk: Indices, leaves: Params) -> Tensor:
            if group == "phi":
                states = trajectories.states(self.trajectory, self._numbers(chunk, self.steps))
                return look_ahead(self.objective, at.theta, leaves, states, 0.0).value.kl
            rows = trajectories.select(self.trajectory, self._numbers(chunk, 1))
            return adapted_loss(
                self.objective, P.broadcast(leaves, len(chunk)), at.phi, rows, 0.0
            ).kl

        # The products of single tasks, in the order of the chunks.
        numbers, size = (which.states, self.steps) if group == "phi" else (which.tasks, 1)

        def of_chunk(chunk: Indices) -> tuple[int, Tensor]:
            leaves = P.leaves(at.phi if group == "phi" else at.theta)
            product = hessian_product(kl(chunk, leaves).sum(), leaves, vector)
            return int(chunk[0]) // size, product

        chunks = _of_single_tasks(numbers, size, self.chunk)
        return self._subtrees(self._map(of_chunk, chunks), torch.add)

    def _of_states(self, at: At, numbers: Indices) -> list[Leaf]:
        """phi's objective over some states, and theta_0's where it comes out on the way.

        First-order MAML's gradient is the outer factor of the look-ahead's gradient from the last
        visited point, so that beside warps it costs nothing.
        """
        states = trajectories.states(self.trajectory, self._numbers(numbers, self.steps))
        leaves = self._leaves_of(at.phi, len(numbers))
        ahead, value = look_ahead(self.objective, at.theta, leaves, states, at.kl_coefficient)
        on_the_way = INITIALISATIONS[self.objective.init].at_last_state

        # One backward pass for both.
        inputs = [*leaves.values(), *(ahead.values() if on_the_way else ())]
        gradients = iter(torch.autograd.grad(value.loss.sum(), inputs, materialize_grads=True))
        of_phi = {name: next(gradients) for name in leaves}
        sums = self._sums(of_phi, value, states.task)
        found = _leaves(states.task, [GradientSums(warp=own) for own in sums])
        if not on_the_way:
            return found

        # theta_0's share is that of the last states.
        end = states.step == self.steps - 1
        of_theta = {name: next(gradients)[end] for name in ahead}
        at_end = MetaLossValue(value.loss[end], value.kl[end])
        sums = row_by_row(of_theta, at_end, states.task[end])
        return found + _leaves(states.task[end], [GradientSums(init=own) for own in sums])

    def _of_tasks(self, at: At, numbers: Indices) -> list[Leaf]:
        """theta_0's objective over some tasks."""
        rows = trajectories.select(self.trajectory, self._numbers(numbers, 1))
        gradient, value = init_gradient(self.objective, at.theta, at.phi, rows, at.kl_coefficient)
        found = row_by_row(gradient, value, rows.task)
        return _leaves(rows.task, [GradientSums(init=own) for own in found])

    def _common_loss(self, at: At) -> AdaptedLoss | None:
        """The loss that phi and theta_0 both descend, if they descend the same one.

        On two time scales it is the loss at theta_0. With a single inner step, the look-ahead from
        theta_0 is all of MAML's objective, too.
        """
        objective = self.objective.objective
        if not isinstance(objective, LookAhead):
            return loss_at_start
        exact = objective.kind == "exact" and self.objective.init == "maml"
        return adapted_loss if exact and at.phi and self.steps == 1 else None

    def _of_both(self, loss: AdaptedLoss, at: At, numbers: Indices) -> list[Leaf]:
        """The same loss of some tasks in phi and theta_0."""
        rows = trajectories.select(self.trajectory, self._numbers(numbers, 1))
        start = P.leaves(P.broadcast(at.theta, len(numbers)))
        warps = self._leaves_of(at.phi, len(numbers))
        value = loss(self.objective, start, warps, rows, at.kl_coefficient)

        # One backward pass for both.
        inputs = [*warps.values(), *start.values()]
        gradients = iter(torch.autograd.grad(value.loss.sum(), inputs, materialize_grads=True))
        of_phi, of_theta = ({name: next(gradients) for name in group} for group in (warps, start))
        sums = self._sums(of_phi, value, rows.task), row_by_row(of_theta, value, rows.task)
        return _leaves(rows.task, [GradientSums(*both) for both in zip(*sums, strict=True)])

    def _leaves_of(self, phi: Params, rows: int) -> Params:
        return P.leaves(P.broadcast(phi, rows) if self.stacked else phi)

    def _sums(self, of_phi: Params, value: MetaLossValue, task: Tensor) -> list[Sums]:
        """phi's sums of each row if it is stacked, or of the one task that all rows are of."""
        if self.stacked:
            return row_by_row(of_phi, value, task)
        return [summed(of_phi, value, int(task[0]))]

    def _chunks(self, numbers: Indices, size: int) -> list[Indices]:
        """States or tasks that are differentiated together: of one task, unless phi is stacked."""
        if self.stacked:
            return _split(numbers, self.chunk)
        return _of_single_tasks(numbers, size, self.chunk)

    @property
    def _positions(self) -> Span:
        """The span of the tree."""
        return self.whole or (0, int(self.task[-1]) + 1)

    def _subtrees(
        self, parts: Iterable[tuple[int, Answer]], join: Callable[[Answer, Answer], Answer]
    ) -> dict[Span, Answer]:
        """The sums of the largest subtrees here, of parts that each belong to one position."""
        leaves: dict[Span, Answer] = {}
        for position, part in parts:
            span = position, position + 1
            leaves[span] = join(leaves[span], part) if span in leaves else part
        here = int(self.task[0]), int(self.task[-1]) + 1
        sums = {s: tree.total(s, leaves, join) for s in tree.subtrees(self._positions, here)}
        return {span: found for span, found in sums.items() if found is not None}

    def _here(self, which: Selection) -> Selection:
        """The part of a selection whose tasks are here."""
        task = self.task.cpu().numpy()
        states = which.states[np.isin(which.states // max(self.steps, 1), task)]
        return Selection(states, which.tasks[np.isin(which.tasks, task)])

    def _numbers(self, numbers: Indices, size: int) -> Indices:
        """Numbers of states (size K) or tasks (size 1) here, from those in the meta-batch."""
        row = np.searchsorted(self.task.cpu().numpy(), numbers // size)
        return row * size + numbers % size

    def _map(self, function: Callable[[Job], Answer], jobs: Sequence[Job]) -> list[Answer]:
        with pool(self.threads) as executor:
            return list(executor.map(function, jobs))


def finite_part(function: Callable[[Indices], list[Leaf]], numbers: Indices) -> list[Leaf]:
    """What states or tasks add to the sums, without those that make them non-finite.

    Args:
        function: what states or tasks with these numbers add.
        numbers: of the states or tasks.

    Returns:
        What the finite ones add; the tasks of the others are named.
    """
    found = function(numbers)
    diverged = frozenset().union(*(sums.warp.diverged | sums.init.diverged for _, sums in found))
    if not diverged:
        return found
    if len(numbers) == 1:
        return [(found[0][0], GradientSums(NOTHING._replace(diverged=diverged)))]
    return [leaf for n in range(len(numbers)) for leaf in finite_part(function, numbers[n : n + 1])]


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


def _leaves(task: Tensor, sums: Sequence[GradientSums]) -> list[Leaf]:
    """Sums with the position of the task of each; the sum of several rows is the first row's."""
    return list(zip(task.tolist(), sums, strict=False))


def _split(numbers: Indices, size: int) -> list[Indices]:
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def _of_single_tasks(numbers: Indices, size: int, chunk: int) -> list[Indices]:
    """Ascending numbers in chunks of one task each, which has ``size`` of them."""
    if not len(numbers):
        return []
    own = np.split(numbers, np.flatnonzero(np.diff(numbers // size)) + 1)
    return [part for of_task in own for part in _split(of_task, chunk)]
