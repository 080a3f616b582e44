"""The meta-objective of WarpGrad: the loss after a look-ahead from every trajectory state. Pure.

Notation: ``L_task`` is the inner loss, ``L_meta`` the outer one, alpha the inner step size, S the
number of trajectory states at hand. Losses are per state, ``[S]``; nothing here averages over
states. Equation numbers are those of Flennerhag et al., "Meta-Learning with Warped Gradient
Descent", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from annotated_types import Gt

from warprl import params as P
from warprl.keys import WARPS, Key
from warprl.types import (
    Batch,
    MetaLoss,
    MetaLossValue,
    Params,
    StepSize,
    TaskLoss,
    TrajectoryState,
)

Form = Literal["exact", "approximate"]
InitKind = Literal["fixed", "leap", "reptile", "fomaml", "maml"]


@dataclass(frozen=True)
class LookAhead:
    """phi descends the meta-loss after one inner step from every trajectory state."""

    type: Annotated[
        Literal["look-ahead"],
        Key("the warps descend the loss behind one inner step from every state", WARPS),
    ] = "look-ahead"
    kind: Annotated[
        Form, Key("whether that step is differentiated (eq. 11) or held constant (eq. 12)")
    ] = "exact"


@dataclass(frozen=True)
class TwoTimeScale:
    """theta_0 and phi descend the same loss on the data of theta_0, phi more slowly.

    phi takes one step in ``warp_every`` updates, along the sum of its gradients since the last one.
    So did the experiment of the paper's section 4.3 (in its released code, one in 30).
    """

    type: Annotated[
        Literal["two-time-scale"],
        Key("the warps descend the policy's own loss, and more slowly", WARPS),
    ] = "two-time-scale"
    warp_every: Annotated[int, Gt(0), Key("updates in which the warps take one step")] = 30


Objective: TypeAlias = LookAhead | TwoTimeScale


@dataclass(frozen=True)
class MetaObjective:
    """All that decides the meta-gradient besides parameters and data.

    Args:
        objective: what phi descends.
        init: what theta_0 descends (see :mod:`warprl.initialisation`).
        inner_lr: alpha; a parameter that it does not name is not adapted.
        task_loss: ``L_task``.
        meta_loss: ``L_meta``.
        trust_region: whether the KL is needed of initialisations, too, whose objective is not a
            meta-loss.
    """

    objective: Objective
    init: InitKind
    inner_lr: StepSize
    task_loss: TaskLoss
    meta_loss: MetaLoss
    trust_region: bool = False


def inner_step(
    task_loss: TaskLoss,
    theta: Params,
    phi: Params,
    batch: Batch,
    lr: StepSize,
    *,
    create_graph: bool = False,
) -> Params:
    """One inner step of every row of stacked theta.

    ``theta - alpha rate grad_theta L_task(theta; phi, D)``. The gradient reaches theta through the
    warp layers, which precondition it (eq. 6). ``rate`` is what phi holds below ``rate.``, shaped
    like theta, element by element (Meta-SGD, Li et al., 2017), and 1 if it holds none.

    Args:
        task_loss: ``L_task``.
        theta: stacked ``[S, ...]``.
        phi: shared ``[...]``.
        batch: D, ``[S, N, ...]``.
        lr: alpha.
        create_graph: whether the result keeps its dependence on theta and phi, or is a constant.

    Returns:
        The stepped parameters ``[S, ...]``; new tensors, also where no step is taken.
    """
    sizes = lr if isinstance(lr, Mapping) else dict.fromkeys(theta, lr)
    with torch.enable_grad():
        if not create_graph:
            theta = P.leaves(theta)
            phi = P.detach(phi)

        # The gradient through the warps.
        loss = task_loss(theta, phi, batch).sum()
        gradients = torch.autograd.grad(
            loss, [theta[name] for name in sizes], create_graph=create_graph
        )

        # The step, with a rate for each number where phi holds rates.
        rates = P.subtree("rate", phi)
        stepped = P.tree_map(lambda tensor: tensor.view_as(tensor), theta)
        for (name, size), gradient in zip(sizes.items(), gradients, strict=True):
            step = size * gradient
            stepped[name] = theta[name] - (step * rates[name] if name in rates else step)
    return stepped if create_graph else P.detach(stepped)


class Ahead(NamedTuple):
    """The points after one step from each state, ``[S, ...]``, and the meta-loss there ``[S]``."""

    theta: Params
    value: MetaLossValue


def look_ahead(
    meta: MetaObjective, theta_0: Params, phi: Params, state: TrajectoryState, kl_coefficient: float
) -> Ahead:
    """The look-ahead loss of each state as a function of phi, and of the points it is taken at.

    ``exact`` (eq. 11): ``L_meta(theta_k - alpha grad L_task(theta_k; phi, D_k); phi, D_{k+1})``, in
    which phi acts twice. ``approximate`` (eq. 12): a stop-gradient round the look-ahead.

    In later epochs theta_0 may have left the one that the states were reached from. The look-aheads
    are taken to have moved as far, so that both motions are seen together.

    Args:
        meta: the objective, a :class:`LookAhead`.
        theta_0: the initialisation now, ``[...]``.
        phi: the warp parameters now, ``[...]``.
        state: the trajectory states ``[S, ...]``; they are not differentiated.
        kl_coefficient: weight of the KL in the meta-loss.

    Returns:
        The points looked ahead to, and the meta-loss and KL there.
    """
    assert isinstance(meta.objective, LookAhead)
    exact = meta.objective.kind == "exact"
    theta = P.leaves(state.theta)
    ahead = inner_step(meta.task_loss, theta, phi, state.support, meta.inner_lr, create_graph=exact)
    ahead = moved_along(ahead, state.start, theta_0)
    if not exact:
        ahead = P.leaves(ahead)
    return Ahead(ahead, meta.meta_loss(ahead, phi, state.query, kl_coefficient))


def moved_along(point: Params, origin: Params, start: Params) -> Params:
    """A point that was reached from ``origin``, moved as far as the initialisation has since.

    This is the first-order kinds' approximation ``d theta_k / d theta_0 = 1``.

    Args:
        point: reached by inner steps, ``[S, ...]``.
        origin: the theta_0 that they began at, ``[S, ...]``.
        start: theta_0 now, ``[...]`` or ``[S, ...]``.

    Returns:
        ``[S, ...]``.
    """
    return {name: tensor + (start[name] - origin[name]) for name, tensor in point.items()}
