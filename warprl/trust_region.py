"""Natural-gradient steps (Schulman et al., TRPO, ICML 2015, appendix C). Pure, on flat vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 10  # of conjugate gradients, as the peers
DAMPING = 1e-5
STRONG_DAMPING = 0.1  # for gradients that are not those of a policy's loss
SMALL = 1e-10  # a residual that is nothing

Product = Callable[[Tensor], Tensor]


def conjugate_gradient(product: Product, b: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Solve ``F x = b`` for a positive definite F known by its product with a vector, ``[n]``.

    Exact after n iterations but for rounding, and an ever better approximation before.
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
    """``x = F^-1 g`` and ``x^T F x``, whose half is the KL of a step of x to second order.

    F is the damped one, ``F + damping I``. Where the gradient leaves the range of F, the KL does
    not see the step, and the damping alone bounds it.
    """

    def damped(vector: Tensor) -> Tensor:
        return product(vector) + damping * vector

    x = conjugate_gradient(damped, gradient)
    return x, float(x.dot(damped(x)))
