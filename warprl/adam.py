"""Adam (Kingma & Ba, ICLR 2015; decay as in Loshchilov & Hutter, AdamW, ICLR 2019). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from warprl import params as P
from warprl.types import Params

EPSILON = 1e-8

Beta = Annotated[float, Interval(ge=0, lt=1)]
Count = Annotated[int, Gt(0)]
Positive = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Adam:
    """Adam on phi and theta_0, pass after pass over the meta-batch, as far as the KL allows.

    ``epochs`` passes over all states without replacement, in ``minibatches`` parts each: one and
    one are algorithm 1 (online) of the paper; several parts are algorithm 2 (offline). The KL is
    that of the adapted policies from those that drew the data. The penalty's coefficient adapts
    towards ``kl_target``; a step after which the KL is found above ``kl_limit`` is taken back and
    ends the update, and the next update's step sizes are halved; they recover by a tenth an update.
    The gradients of phi and of theta_0 are each scaled down to the norm ``max_grad_norm``.
    """

    type: Literal["adam"] = "adam"
    warp_lr: Positive = 1e-3  # of phi: beta in the paper
    init_lr: Positive = 1e-3  # of theta_0: lambda beta
    epochs: Count = 5
    minibatches: Count = 1
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: Annotated[float, Ge(0)] = 0.0
    max_grad_norm: Positive = 1.0
    kl_coefficient: Positive = 5e-4
    kl_target: Positive = 0.02
    kl_limit: Positive = 0.1


class Point(NamedTuple):
    """Parameters, and the moments of each that has been moved: ``<name>.<moment>``."""

    params: Params
    moments: dict[str, Tensor]


def adam_step(at: Point, gradients: Params, lr: float, config: Adam) -> Point:
    """One step along gradients scaled down to the largest norm; a parameter without one stays.

    ``m = b1 m + (1 - b1) g``, ``v = b2 v + (1 - b2) g^2``,
    ``x = (1 - lr decay) x - lr m^ / (sqrt(v^) + eps)`` with ``m^ = m / (1 - b1^t)``, ``v^`` alike.

    Args:
        at: the parameters and their moments before the step.
        gradients: of some or all of the parameters.
        lr: the step size.
        config: moments' decay, weight decay and largest norm.

    Returns:
        The parameters and moments after the step; nothing that was given is changed.
    """
    (beta_1, beta_2), decay = config.betas, config.weight_decay
    params, moments = dict(at.params), dict(at.moments)
    for name, gradient in clipped(gradients, config.max_grad_norm).items():
        # The moments, which are zero before the first step.
        own = P.subtree(name, moments)
        step = own.get("step", torch.zeros((), device=gradient.device)) + 1
        m = own.get("exp_avg", torch.zeros_like(gradient)).lerp(gradient, 1 - beta_1)
        v = own.get("exp_avg_sq", torch.zeros_like(gradient)) * beta_2
        v = v.addcmul(gradient, gradient, value=1 - beta_2)
        moments |= P.prefix(name, {"step": step, "exp_avg": m, "exp_avg_sq": v})

        # The step, with the bias of the zeros taken out.
        t = step.item()
        scale = (v.sqrt() / (1 - beta_2**t) ** 0.5).add(EPSILON)
        before = params[name] * (1 - lr * decay) if decay else params[name]
        params[name] = before.addcdiv(m, scale, value=-lr / (1 - beta_1**t))
    return Point(params, moments)


def clipped(gradients: Params, max_norm: float) -> Params:
    """Gradients scaled down together to a Euclidean norm, if theirs is larger."""
    if not gradients:
        return {}
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients.values()]
    size = torch.linalg.vector_norm(torch.stack(norms))
    return P.tree_map(lambda g: g * (max_norm / (size + 1e-6)).clamp(max=1.0), gradients)
