"""What the learned initialisation theta_0 descends: one table of kinds. Pure functions.

``C(theta_0)`` of eq. 13 (Flennerhag et al., ICLR 2020), per task ``[T]``, phi held constant:

* ``fixed``: nothing; theta_0 stays.
* ``reptile``: ``1/2 ||theta_0 - sg[theta_K]||^2`` (Nichol et al., 2018).
* ``leap``: the length of the path in (theta, loss) space (Flennerhag et al., ICLR 2019).
* ``fomaml``: ``L_meta`` at theta_K, the last inner step taken anew on the stored D_{K-1};
  first order (Finn et al., ICML 2017).
* ``maml``: ``L_meta`` after K inner steps on the stored D_0 .. D_{K-1}, differentiated through.

theta_0 is unstacked ``[...]``. The trajectories were drawn from an initialisation that theta_0 may
have left since (later epochs); the first-order kinds then take the visited points to move along
with it, which is their approximation ``d theta_k / d theta_0 = 1`` itself.

A new kind is a function here and a row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from warprl import params as P
from warprl.keys import Need, either
from warprl.objective import InitKind, MetaObjective, inner_step, moved_along
from warprl.types import Batch, MetaLossValue, Params, Trajectory


class InitGradient(NamedTuple):
    """Gradients of ``C`` ``[T, ...]``, with its value and KL ``[T]``.

    The KL is zero for the kinds whose objective is not a meta-loss.
    """

    gradient: Params
    value: MetaLossValue


Adapted = Callable[[MetaObjective, Params, Params, Trajectory], Params]
"""(objective, theta_0 once a task ``[T, ...]``, phi, trajectory) to the adapted theta ``[T, ...]``.

It is a function of theta_0, to be differentiated.
"""

AdaptedLoss = Callable[[MetaObjective, Params, Params, Trajectory, float], MetaLossValue]
"""(objective, theta_0 once a task ``[T, ...]``, phi, trajectory, kl_coefficient) to ``[T]``."""

Gradient = Callable[[MetaObjective, Params, Params, Trajectory, float], InitGradient]
"""(objective, theta_0, phi, trajectory, kl_coefficient) to the gradient of ``C``."""


@dataclass(frozen=True)
class Initialisation:
    """What the learner has to know of a kind.

    Args:
        gradient: of ``C``; None if theta_0 stays.
        adapted: the policy that a trust region bounds the KL of.
        meta_loss: whether ``C`` is a meta-loss, and so has a KL of its own.
        needs_steps: whether it is only defined where inner steps are taken.
        at_last_state: whether the look-ahead of phi from the last trajectory state yields the
            gradient on the way, so that it need not be computed again beside warps.
        all_layers: whether it leaves layers that do not adapt where they are, and so is refused
            where some do not.
    """

    gradient: Gradient | None
    adapted: Adapted
    meta_loss: bool = False
    needs_steps: bool = True
    at_last_state: bool = False
    all_layers: bool = False

    @property
    def learned(self) -> bool:
        """Whether theta_0 moves."""
        return self.gradient is not None


def init_gradient(
    meta: MetaObjective, theta_0: Params, phi: Params, trajectory: Trajectory, kl_coefficient: float
) -> InitGradient:
    """Gradient of ``C(theta_0)`` of the objective's kind, stacked over tasks ``[T, ...]``.

    Args:
        meta: the objective, whose ``init`` is the kind.
        theta_0: ``[...]``.
        phi: ``[...]``.
        trajectory: the trajectories ``[T, ...]``.
        kl_coefficient: weight of the KL in a meta-loss.

    Returns:
        The gradient with value and KL. Under a trust region, the KL is there for every kind.
    """
    kind = INITIALISATIONS[meta.init]
    if kind.gradient is None:
        zero = trajectory.returns.new_zeros(len(trajectory.task))
        start = P.broadcast(theta_0, len(trajectory.task))
        return InitGradient(P.zeros_like(start), MetaLossValue(zero, zero))
    found = kind.gradient(meta, theta_0, phi, trajectory, kl_coefficient)
    if meta.trust_region and not kind.meta_loss:
        start = P.broadcast(theta_0, len(trajectory.task))
        value = found.value._replace(kl=adapted_loss(meta, start, phi, trajectory, 0.0).kl)
        return found._replace(value=value)
    return found


def adapted_loss(
    meta: MetaObjective, start: Params, phi: Params, trajectory: Trajectory, kl_coefficient: float
) -> MetaLossValue:
    """The meta-loss of the adapted policies, and their KL from those that drew the data.

    It is ``C`` of the kinds that have a meta-loss; the KL is what a trust region bounds for every
    kind.

    Args:
        meta: the objective, whose ``init`` is the kind.
        start: theta_0 once for each task, ``[T, ...]``; the result is a function of it.
        phi: ``[...]``.
        trajectory: the trajectories ``[T, ...]``.
        kl_coefficient: weight of the KL in the meta-loss.

    Returns:
        Losses and KLs ``[T]``.
    """
    theta = INITIALISATIONS[meta.init].adapted(meta, start, phi, trajectory)
    return meta.meta_loss(theta, phi, _data(trajectory, trajectory.points - 1), kl_coefficient)


def loss_at_start(
    meta: MetaObjective, start: Params, phi: Params, trajectory: Trajectory, kl_coefficient: float
) -> MetaLossValue:
    """The meta-loss at theta_0 itself, without any step, on the data of theta_0.

    Args:
        meta: the objective.
        start: theta_0 once for each task, ``[T, ...]``; the result is a function of it.
        phi: ``[...]``; the result is a function of it, too.
        trajectory: trajectories of a single point, ``[T, ...]``.
        kl_coefficient: weight of the KL in the meta-loss.

    Returns:
        Losses and KLs ``[T]``.
    """
    return meta.meta_loss(start, phi, _data(trajectory, trajectory.points - 1), kl_coefficient)


def _after_last_step(
    meta: MetaObjective, start: Params, phi: Params, trajectory: Trajectory
) -> Params:
    """theta_K by its last inner step, taken anew and moved along with the start."""
    before, first = (_theta(trajectory, k) for k in (trajectory.points - 2, 0))
    data = _data(trajectory, trajectory.points - 2)
    ahead = inner_step(meta.task_loss, before, phi, data, meta.inner_lr)
    return moved_along(ahead, first, start)


def _after_all_steps(
    meta: MetaObjective, start: Params, phi: Params, trajectory: Trajectory
) -> Params:
    """theta_K by all inner steps on the stored data, to be differentiated through."""
    theta = start
    for k in range(trajectory.points - 1):
        data = _data(trajectory, k)
        theta = inner_step(meta.task_loss, theta, phi, data, meta.inner_lr, create_graph=True)
    return theta


def _of_meta_loss(
    meta: MetaObjective, theta_0: Params, phi: Params, trajectory: Trajectory, kl_coefficient: float
) -> InitGradient:
    leaves = P.leaves(P.broadcast(P.detach(theta_0), len(trajectory.task)))
    value = adapted_loss(meta, leaves, P.detach(phi), trajectory, kl_coefficient)
    gradient = _gradient(value.loss, leaves)
    return InitGradient(gradient, MetaLossValue(value.loss.detach(), value.kl.detach()))


def _reptile(
    meta: MetaObjective, theta_0: Params, phi: Params, trajectory: Trajectory, kl_coefficient: float
) -> InitGradient:
    last = trajectory.points - 1
    start = P.broadcast(P.detach(theta_0), len(trajectory.task))
    gradient = {n: tensor - trajectory.theta[n][:, last] for n, tensor in start.items()}
    loss = 0.5 * _squares(gradient)
    return InitGradient(gradient, MetaLossValue(loss, torch.zeros_like(loss)))


def _leap(
    meta: MetaObjective, theta_0: Params, phi: Params, trajectory: Trajectory, kl_coefficient: float
) -> InitGradient:
    """``-sum_k (dtheta_k + dL_k grad L(theta_k)) / ||(dtheta_k, dL_k)||`` and the sum of the norms.

    Both ends of segment k are measured with the loss on D_k, whose gradient made the step. The end
    of a segment and the dependence of theta_k on theta_0 beyond a shift are held constant.
    """
    phi = P.detach(phi)
    start = P.broadcast(P.detach(theta_0), len(trajectory.task))
    total = P.zeros_like(_theta(trajectory, 0))
    path = next(iter(start.values())).new_zeros(len(trajectory.task))
    for k in range(trajectory.points - 1):
        # The segment from theta_k, which moves along with theta_0, to theta_{k+1}.
        batch = _data(trajectory, k)
        here = P.leaves(moved_along(_theta(trajectory, k), _theta(trajectory, 0), start))
        there = _theta(trajectory, k + 1)
        loss = meta.task_loss(here, phi, batch)
        gradient = _gradient(loss, here)

        # Its length, and how that changes with its start.
        with torch.no_grad():
            fall = meta.task_loss(there, phi, batch) - loss
            move = {n: there[n] - here[n] for n in here}
            length = torch.sqrt(_squares({"loss": fall[:, None], **move})).clamp_min(1e-12)
            for n in total:
                total[n] -= (move[n] + _rows(fall, move[n]) * gradient[n]) / _rows(length, move[n])
            path = path + length
    return InitGradient(total, MetaLossValue(path, torch.zeros_like(path)))


INITIALISATIONS: Mapping[InitKind, Initialisation] = MappingProxyType(
    {
        "fixed": Initialisation(None, _after_last_step, needs_steps=False),
        "leap": Initialisation(_leap, _after_last_step),
        "reptile": Initialisation(_reptile, _after_last_step, all_layers=True),
        "fomaml": Initialisation(
            _of_meta_loss, _after_last_step, meta_loss=True, at_last_state=True
        ),
        "maml": Initialisation(_of_meta_loss, _after_all_steps, meta_loss=True, needs_steps=False),
    }
)
LEARNED_INIT = Need(
    f"init = {either(name for name, kind in INITIALISATIONS.items() if kind.learned)}"
)
META_LOSS = Need(
    "policy.warp, policy.rates = true or init = "
    f"{either(name for name, kind in INITIALISATIONS.items() if kind.meta_loss)}"
)


def _gradient(loss: Tensor, inputs: Params) -> Params:
    return dict(zip(inputs, torch.autograd.grad(loss.sum(), list(inputs.values())), strict=True))


def _squares(params: Params) -> Tensor:
    """Squared norm of each row of stacked parameters, ``[T]``."""
    # Added one after the other: a sum along the first axis has another order for a single row.
    return reduce(torch.add, [tensor.square().flatten(1).sum(1) for tensor in params.values()])


def _theta(trajectory: Trajectory, k: int) -> Params:
    return P.select(trajectory.theta, slice(None), k)


def _data(trajectory: Trajectory, k: int) -> Batch:
    return Batch(*(tensor[:, k] for tensor in trajectory.data))


def _rows(scalars: Tensor, like: Tensor) -> Tensor:
    return scalars.reshape(-1, *[1] * (like.dim() - 1))
