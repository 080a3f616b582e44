"""One natural-gradient step within a KL (Schulman et al., TRPO, ICML 2015, appendix C). Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor

from warprl import params as P
from warprl.keys import LEARNING, Key
from warprl.meta_batch import Group, MetaBatch
from warprl.sums import Gradients, mean_gradients
from warprl.trajectories import Selection
from warprl.types import Params

BACKTRACKS, BACKTRACK = 15, 0.8  # of the line search, as the peers
LONG_SEARCH = 30  # where an objective looks at no policy: the KL says little of a step's length
ITERATIONS = 10  # of conjugate gradients, as the peers
DAMPING = 1e-5
STRONG_DAMPING = 0.1  # for gradients that are not those of a policy's loss
SMALL = 1e-10  # a residual that is nothing

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trpo:
    """A single natural-gradient step of phi and theta_0 on all states, of the KL ``kl_limit``.

    Where no length of it improves one of both objectives and worsens none, everything stays. For
    ``leap`` and ``reptile``, whose objective is no meta-loss, the KL is first-order MAML's.
    """

    step_key: ClassVar[str] = "kl_limit"
    trust_region: ClassVar[bool] = True

    type: Annotated[Literal["trpo"], Key("one natural-gradient step within a KL", LEARNING)] = (
        "trpo"
    )
    kl_limit: Annotated[float, Gt(0), Key("largest KL of the step")] = 0.01


class Stepped(NamedTuple):
    """Where a natural step leads: parameters, what was found there, and whether it was taken."""

    theta: Params
    phi: Params
    found: Gradients
    taken: bool


def natural_step(
    config: Trpo,
    batch: MetaBatch,
    at: Gradients,
    where: tuple[Params, Params],
    which: Selection,
    meta_loss: bool,
) -> Stepped:
    """The longest natural step along both gradients that is an improvement within the KL limit.

    phi and theta_0 move together, and each descends an objective of its own. Do not compare the sum
    of the two: one loss could improve at the other's expense. So at the point that both have moved
    to neither may have risen. Where both are the same function (a single inner step), that is
    TRPO's own condition.

    Args:
        config: the KL limit.
        batch: the data.
        at: the gradients where the step begins.
        where: (theta_0, phi) there.
        which: the states and trajectories that count.
        meta_loss: whether theta_0 descends the loss of a policy. If not, its direction is damped
            more, and the line search goes on for longer.

    Returns:
        The parameters after the step, or those before it if no length of it will do.
    """
    # The direction F^-1 g of each group, and the length at which the KL reaches its limit.
    directions: dict[str, Params] = {"theta": {}, "phi": {}}
    size = 0.0
    groups: tuple[tuple[Group, Params], ...] = (("theta", at.theta), ("phi", at.phi))
    for group, gradient in groups:
        if gradient:
            product = batch.curvature(*where, group, which)
            damping = DAMPING if group == "phi" or meta_loss else STRONG_DAMPING
            direction, square = natural_direction(product, P.flatten(gradient), damping)
            directions[group], size = P.unflatten(direction, gradient), size + square
    length = float(np.sqrt(2.0 * config.kl_limit / size)) if size > 0.0 else 0.0

    # The line search.
    for n in range((BACKTRACKS if meta_loss else LONG_SEARCH) if any(directions.values()) else 0):
        theta, phi = (
            _moved(old, direction, BACKTRACK**n * length)
            for old, direction in zip(where, directions.values(), strict=True)
        )
        there = mean_gradients(batch.gradient(theta, phi, which, 0.0))
        if _improves(there, at) and there.kl <= config.kl_limit:
            return Stepped(theta, phi, there._replace(theta=at.theta, phi=at.phi), True)
    return Stepped(*where, at, False)


def _moved(params: Params, direction: Params, length: float) -> Params:
    return {k: x - length * direction[k] if k in direction else x for k, x in params.items()}


def _improves(there: Gradients, at: Gradients) -> bool:
    """Whether no loss is above what it was, one is below, and all are finite."""
    pairs = list(zip(there.losses, at.losses, strict=True))
    return not there.diverged and all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def conjugate_gradient(product: Product, b: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Solve ``F x = b`` for a positive definite F that is known by its products with vectors.

    The result is exact after n iterations but for rounding, and an ever better approximation
    before.

    Args:
        product: ``F v`` of a vector v ``[n]``.
        b: the right-hand side ``[n]``.
        iterations: how many at most.

    Returns:
        x, ``[n]``.
    """
    x = torch.zeros_like(b)
    residual, direction = b.clone(), b.clone()
    square = residual.dot(residual)
    for _ in range(iterations):
        if square < SMALL:
            break
        image = product(direction)
        length = square / direction.dot(image)
        x = x + length * direction
        residual = residual - length * image
        before, square = square, residual.dot(residual)
        direction = residual + (square / before) * direction
    return x


def natural_direction(
    product: Product, gradient: Tensor, damping: float = DAMPING
) -> tuple[Tensor, float]:
    """The natural direction ``x = F^-1 g``, and ``x^T F x``.

    Half of the latter is the KL of a step of x to second order. Where the gradient leaves the range
    of F, the KL does not see the step, and the damping alone bounds it.

    Args:
        product: ``F v`` of a vector v ``[n]``, F the Hessian of the KL.
        gradient: g, ``[n]``.
        damping: F stands for ``F + damping I``.

    Returns:
        x, ``[n]``, and the number.
    """

    def damped(vector: Tensor) -> Tensor:
        return product(vector) + damping * vector

    x = conjugate_gradient(damped, gradient)
    return x, float(x.dot(damped(x)))
