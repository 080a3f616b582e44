"""Adam (Kingma & Ba, ICLR 2015; decay as in Loshchilov & Hutter, AdamW, ICLR 2019). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from warprl import params as P
from warprl.initialisation import LEARNED_INIT, META_LOSS
from warprl.keys import LEARNING, SEVERAL_STEPS, WARPS, Key
from warprl.types import Params

EPSILON = 1e-8

Beta = Annotated[float, Interval(ge=0, lt=1)]
_KL = META_LOSS, SEVERAL_STEPS  # it is zero until a step has been taken


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

    step_key: ClassVar[str] = "init_lr"  # bounds the step of theta_0
    trust_region: ClassVar[bool] = False

    type: Annotated[Literal["adam"], Key("steps of Adam, as far as the KL allows", LEARNING)] = (
        "adam"
    )
    warp_lr: Annotated[
        float, Gt(0), Key("step size of the warps and rates (beta in the paper)", WARPS)
    ] = 1e-3
    init_lr: Annotated[
        float, Gt(0), Key("step size of the initialisation (lambda beta)", LEARNED_INIT)
    ] = 1e-3
    epochs: Annotated[int, Gt(0), Key("passes over the meta-batch in an update")] = 5
    minibatches: Annotated[int, Gt(0), Key("parts of a pass, each of which makes one step")] = 1
    betas: Annotated[tuple[Beta, Beta], Key("decay of the two moments, from step to step")] = (
        0.9,
        0.999,
    )
    weight_decay: Annotated[
        float, Ge(0), Key("decay of the parameters, times the step size (AdamW)")
    ] = 0.0
    max_grad_norm: Annotated[
        float, Gt(0), Key("norm to which a larger gradient is scaled down")
    ] = 1.0
    kl_coefficient: Annotated[
        float, Gt(0), Key("weight of the KL penalty in the first update", *_KL)
    ] = 5e-4
    kl_target: Annotated[
        float, Gt(0), Key("KL towards which the weight of the penalty adapts", *_KL)
    ] = 0.02
    kl_limit: Annotated[
        float, Gt(0), Key("KL past which a step is taken back and ends the update", *_KL)
    ] = 0.1

    @property
    def steps(self) -> int:
        """The most steps that an update can take."""
        return self.epochs * self.minibatches


class Point(NamedTuple):
    """Parameters, and the moments of each that has been moved: ``<name>.<moment>``."""

    params: Params
    moments: dict[str, Tensor]


def adam_init(params: Params) -> Point:
    """The point before the first step. A parameter gets its moments with its own first step.

    Args:
        params: named tensors.

    Returns:
        The parameters, without moments.
    """
    return Point(params, {})


def require_moments(at: Point) -> None:
    """Make sure of moments from elsewhere, such as a file.

    Args:
        at: the parameters, which are right, and their moments.

    Raises:
        ValueError: in one line, unless steps may have left such moments.
    """
    moved = {name: x for name, x in at.params.items() if f"{name}.step" in at.moments}
    expected: Params = {}
    for name, parameter in moved.items():
        count = torch.zeros((), dtype=parameter.dtype)
        expected |= P.prefix(name, {"step": count, "exp_avg": parameter, "exp_avg_sq": parameter})
    P.require_like(at.moments, expected)
    for name in moved:
        step = at.moments[f"{name}.step"].item()
        if step < 1 or step != int(step):
            raise ValueError(f"{name}.step is {step} and should be a whole number, 1 or more")
        if (at.moments[f"{name}.exp_avg_sq"] < 0).any():
            raise ValueError(f"{name}.exp_avg_sq has a number below 0")


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
    """Gradients scaled down together to a Euclidean norm, if theirs is larger.

    Args:
        gradients: named tensors.
        max_norm: the largest norm of all of them together.

    Returns:
        The gradients, of the same shapes.
    """
    if not gradients:
        return {}
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients.values()]
    size = torch.linalg.vector_norm(torch.stack(norms))
    return P.tree_map(lambda g: g * (max_norm / (size + 1e-6)).clamp(max=1.0), gradients)
