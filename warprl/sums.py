"""Sums of gradients over trajectory states and tasks, of which means are made. Pure."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from warprl import params as P
from warprl.types import MetaLossValue, Params


class Sums(NamedTuple):
    """Sums over states (or tasks), how many there were, and the tasks that were left out."""

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


def summed(gradient: Params, value: MetaLossValue, task: int) -> Sums:
    """The sums over some states of one task, which is named if a number is not finite.

    Args:
        gradient: summed over the states, ``[...]``.
        value: loss and KL of each, ``[S]``.
        task: the task's position.

    Returns:
        The sums, with the task in ``diverged`` if any of the numbers is not finite.
    """
    finite = P.all_finite(gradient) and bool(torch.isfinite(value.loss).all())
    loss, kl = (float(x.detach().sum()) for x in value)
    diverged: frozenset[int] = frozenset() if finite else frozenset({task})
    return Sums(gradient, loss, kl, len(value.loss), diverged)


def row_by_row(gradient: Params, value: MetaLossValue, task: Tensor) -> list[Sums]:
    """The sums of each row alone.

    Args:
        gradient: of each row, ``[S, ...]``.
        value: loss and KL of each row, ``[S]``.
        task: the position of each row's task, ``[S]``.

    Returns:
        S sums of one state each.
    """
    return [
        summed(P.select(gradient, row), MetaLossValue(*(x[row : row + 1] for x in value)), name)
        for row, name in enumerate(task.tolist())
    ]


def added(left: Sums, right: Sums) -> Sums:
    """The sums over both.

    Args:
        left: sums over some states.
        right: sums over others.

    Returns:
        Their sums; all that diverged is named.
    """
    diverged = left.diverged | right.diverged
    if not (left.number and right.number):
        return (left if left.number else right)._replace(diverged=diverged)
    return Sums(
        P.add(left.gradient, right.gradient),
        left.loss + right.loss,
        left.kl + right.kl,
        left.number + right.number,
        diverged,
    )


def joined(left: GradientSums, right: GradientSums) -> GradientSums:
    """The sums over both, of each objective.

    Args:
        left: sums over some tasks.
        right: sums over others.

    Returns:
        Their sums.
    """
    return GradientSums(added(left.warp, right.warp), added(left.init, right.init))


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
