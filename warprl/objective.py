"""The meta-objective of WarpGrad and the objectives of the learned initialisation. Pure functions.

Notation: ``L_task`` is the inner loss, ``L_meta`` the outer one, alpha the inner step size, S the
number of trajectory states at hand. Losses are per state, ``[S]``; nothing here averages over
states. Equation numbers are those of Flennerhag et al., "Meta-Learning with Warped Gradient
Descent", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, assert_never

import torch
from torch import Tensor

from warprl import params as P
from warprl.types import (
    Batch,
    MetaLoss,
    MetaLossValue,
    Params,
    StepSize,
    TaskLoss,
    Trajectory,
    TrajectoryState,
)

ObjectiveKind = Literal["exact", "approximate"]
InitKind = Literal["fixed", "leap", "reptile", "fomaml", "maml"]


def inner_step(
    task_loss: TaskLoss,
    theta: Params,
    phi: Params,
    batch: Batch,
    lr: StepSize,
    *,
    create_graph: bool = False,
) -> Params:
    """``theta - alpha rate grad_theta L_task(theta; phi, D)`` for every row of stacked theta.

    The gradient reaches theta through the warp layers, which precondition it (eq. 6). ``rate`` is
    what phi holds below ``rate.``, shaped like theta, element by element (Meta-SGD, Li et al.,
    2017), and 1 if it holds none. With ``create_graph`` the result keeps its dependence on theta
    and phi; without, it is a constant.
    """
    sizes = lr if isinstance(lr, Mapping) else dict.fromkeys(theta, lr)
    with torch.enable_grad():
        if not create_graph:
            theta = P.leaves(theta)
            phi = P.detach(phi)
        loss = task_loss(theta, phi, batch).sum()
        gradients = torch.autograd.grad(
            loss, [theta[name] for name in sizes], create_graph=create_graph
        )
        rates = P.subtree("rate", phi)
        # Every result is a point of its own, also where no step is taken.
        stepped = P.tree_map(lambda tensor: tensor.view_as(tensor), theta)
        for (name, size), gradient in zip(sizes.items(), gradients, strict=True):
            step = size * gradient
            stepped[name] = theta[name] - (step * rates[name] if name in rates else step)
    return stepped if create_graph else P.detach(stepped)


class LookAhead(NamedTuple):
    """The points behind one step from each state, ``[S, ...]``, and the meta-loss there ``[S]``."""

    theta: Params
    value: MetaLossValue


def warp_objective(
    kind: ObjectiveKind,
    task_loss: TaskLoss,
    meta_loss: MetaLoss,
    theta_0: Params,
    phi: Params,
    state: TrajectoryState,
    lr: StepSize,
    kl_coefficient: float,
) -> LookAhead:
    """The look-ahead loss of each state as a function of phi, and of the points it is taken at.

    ``exact`` (eq. 11): ``L_meta(theta_k - alpha grad L_task(theta_k; phi, D_k); phi, D_{k+1})``, in
    which phi acts twice. ``approximate`` (eq. 12): a stop-gradient round the look-ahead.

    In later epochs theta_0 ``[...]`` may have left the one that the states were reached from. The
    look-aheads are taken to have moved as far, so that both motions are seen together.
    """
    match kind:
        case "exact":
            theta = P.leaves(state.theta)
            ahead = inner_step(task_loss, theta, phi, state.support, lr, create_graph=True)
        case "approximate":
            ahead = inner_step(task_loss, state.theta, phi, state.support, lr)
        case _:
            assert_never(kind)
    ahead = _moved_along(ahead, state.start, theta_0)
    if kind == "approximate":
        ahead = P.leaves(ahead)
    return LookAhead(ahead, meta_loss(ahead, phi, state.query, kl_coefficient))


class InitGradient(NamedTuple):
    """Gradients of the initialisation objective ``[T, ...]``, with its value and KL ``[T]``.

    The KL is zero for the kinds that look at no meta-loss.
    """

    gradient: Params
    value: MetaLossValue


def init_gradient(
    kind: InitKind,
    task_loss: TaskLoss,
    meta_loss: MetaLoss,
    theta_0: Params,
    phi: Params,
    trajectory: Trajectory,
    lr: StepSize,
    kl_coefficient: float,
) -> InitGradient:
    """Gradient of ``C(theta_0)`` (eq. 13), stacked over tasks ``[T, ...]``, phi held constant.

    * ``fixed``: zero.
    * ``reptile``: ``1/2 ||theta_0 - sg[theta_K]||^2`` (Nichol et al., 2018).
    * ``fomaml``: ``L_meta`` at theta_K, the last inner step taken anew on the stored D_{K-1};
      first order (Finn et al., ICML 2017).
    * ``maml``: ``L_meta`` after K inner steps on the stored D_0 .. D_{K-1}, differentiated through.
    * ``leap``: the length of the path in (theta, loss) space (Flennerhag et al., ICLR 2019).

    theta_0 is unstacked ``[...]``. The trajectories were drawn from an initialisation that theta_0
    may have left since (later epochs); the first-order kinds then take the visited points to move
    along with it, which is their approximation ``d theta_k / d theta_0 = 1`` itself.
    """
    phi = P.detach(phi)
    start = P.broadcast(P.detach(theta_0), len(trajectory.task))
    last = trajectory.points - 1
    none = torch.zeros(len(trajectory.task))
    match kind:
        case "fixed":
            return InitGradient(P.zeros_like(start), MetaLossValue(none, none))
        case "reptile":
            gradient = {n: tensor - trajectory.theta[n][:, last] for n, tensor in start.items()}
            return InitGradient(gradient, MetaLossValue(0.5 * _squares(gradient), none))
        case "leap":
            gradient, length = _path_length(task_loss, phi, trajectory, start)
            return InitGradient(gradient, MetaLossValue(length, none))
        case "fomaml" | "maml":
            leaves = P.leaves(start)
            value = init_loss(
                kind, task_loss, meta_loss, leaves, phi, trajectory, lr, kl_coefficient
            )
            gradient = _gradient(value.loss, leaves)
            return InitGradient(gradient, MetaLossValue(value.loss.detach(), value.kl.detach()))
        case _:
            assert_never(kind)


def init_loss(
    kind: Literal["fomaml", "maml"],
    task_loss: TaskLoss,
    meta_loss: MetaLoss,
    start: Params,
    phi: Params,
    trajectory: Trajectory,
    lr: StepSize,
    kl_coefficient: float,
) -> MetaLossValue:
    """``C`` of those kinds that have a meta-loss, and its KL, ``[T]``, as functions of the start.

    ``start`` is theta_0 once for each task, ``[T, ...]``; the kinds are those of
    :func:`init_gradient`.
    """
    last = trajectory.points - 1
    theta = start
    match kind:
        case "fomaml":
            before = P.select(trajectory.theta, slice(None), last - 1)
            ahead = inner_step(task_loss, before, phi, _data(trajectory, last - 1), lr)
            theta = _moved_along(ahead, P.select(trajectory.theta, slice(None), 0), start)
        case "maml":
            for k in range(last):
                batch = _data(trajectory, k)
                theta = inner_step(task_loss, theta, phi, batch, lr, create_graph=True)
        case _:
            assert_never(kind)
    return meta_loss(theta, phi, _data(trajectory, last), kl_coefficient)


def init_kl(
    kind: InitKind,
    task_loss: TaskLoss,
    meta_loss: MetaLoss,
    start: Params,
    phi: Params,
    trajectory: Trajectory,
    lr: StepSize,
) -> Tensor:
    """KL of the adapted policies from those that drew the data, ``[T]``.

    It is a function of the start. ``maml`` sees that through all inner steps. For the others the
    adapted policies move along with it, those without a meta-loss among them: it is what a trust
    region bounds for them, too.
    """
    seen: Literal["fomaml", "maml"] = "maml" if kind == "maml" else "fomaml"
    return init_loss(seen, task_loss, meta_loss, start, phi, trajectory, lr, 0.0).kl


def _moved_along(point: Params, begun: Params, start: Params) -> Params:
    """A point reached from ``begun``, moved as far as the initialisation has since, to ``start``.

    This is the first-order kinds' approximation ``d theta_k / d theta_0 = 1``.
    """
    return {name: tensor + (start[name] - begun[name]) for name, tensor in point.items()}


def _gradient(loss: Tensor, inputs: Params) -> Params:
    return dict(zip(inputs, torch.autograd.grad(loss.sum(), list(inputs.values())), strict=True))


def _path_length(
    task_loss: TaskLoss, phi: Params, trajectory: Trajectory, start: Params
) -> tuple[Params, Tensor]:
    """``-sum_k (dtheta_k + dL_k grad L(theta_k)) / ||(dtheta_k, dL_k)||`` and the sum of the norms.

    Stacked ``[T, ...]`` and ``[T]``. Both ends of segment k are measured with the loss on D_k,
    whose gradient made the step. The end of a segment and the dependence of theta_k on theta_0
    beyond a shift are held constant.
    """
    total = P.zeros_like(P.select(trajectory.theta, slice(None), 0))
    path = torch.zeros(len(trajectory.task))
    for k in range(trajectory.points - 1):
        batch = _data(trajectory, k)
        visited, begun = (P.select(trajectory.theta, slice(None), step) for step in (k, 0))
        here = P.leaves(_moved_along(visited, begun, start))
        there = P.select(trajectory.theta, slice(None), k + 1)
        loss = task_loss(here, phi, batch)
        gradient = _gradient(loss, here)
        with torch.no_grad():
            fall = task_loss(there, phi, batch) - loss
            move = {n: there[n] - here[n] for n in here}
            length = torch.sqrt(_squares({"loss": fall[:, None], **move})).clamp_min(1e-12)
            for n in total:
                total[n] -= (move[n] + _rows(fall, move[n]) * gradient[n]) / _rows(length, move[n])
            path = path + length
    return total, path


def _squares(params: Params) -> Tensor:
    """Squared norm of each row of stacked parameters, ``[T]``."""
    return torch.stack([tensor.square().flatten(1).sum(1) for tensor in params.values()]).sum(0)


def _data(trajectory: Trajectory, k: int) -> Batch:
    return Batch(*(tensor[:, k] for tensor in trajectory.data))


def _rows(scalars: Tensor, like: Tensor) -> Tensor:
    return scalars.reshape(-1, *[1] * (like.dim() - 1))
