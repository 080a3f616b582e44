"""What an inner step did, and what the warp layers did to it. Pure; one number a task, ``[S]``."""

from __future__ import annotations

import torch
from torch import Tensor

from warprl import params as P
from warprl.agents.losses import InnerLoss, masked_mean
from warprl.agents.policy import Policy
from warprl.types import Batch, Params, Trajectory
from warprl.warp import WarpKind, apply_warp

SAMPLE = 8  # activations a task and layer at which the Jacobian of a warp is taken


def diagnostics_of(policy: Policy) -> tuple[str, ...]:
    """What :func:`diagnose` measures of the inner steps of a policy."""
    cosine = ("cosine",) if policy.config.warp is not None else ()
    condition = ("condition",) if policy.warped else ()
    return ("kl", *cosine, *condition)


def diagnose(policy: Policy, phi: Params, trajectory: Trajectory) -> dict[str, Tensor]:
    """Diagnostics of every inner step of adaptation trajectories.

    Column k is about the step from theta_k to theta_{k+1} on D_k: ``kl`` (:func:`step_kl`), of a
    policy that has warps ``cosine`` (:func:`warp_cosine`) and, if they are layers of their own,
    ``condition`` (:func:`warp_condition`). There are none if a memory adapted: it took no step.

    Args:
        policy: the network.
        phi: the warp parameters ``[...]``.
        trajectory: the trajectories ``[T, K+1, ...]``.

    Returns:
        Each diagnostic by its name, ``[T, K]``.
    """
    found: dict[str, list[Tensor]] = {}
    wanted = diagnostics_of(policy)
    for k in range(trajectory.points - 1):
        theta, ahead = (P.select(trajectory.theta, slice(None), step) for step in (k, k + 1))
        batch = Batch(*(tensor[:, k] for tensor in trajectory.data))
        found.setdefault("kl", []).append(step_kl(policy, theta, ahead, phi, batch))
        if "cosine" in wanted:
            found.setdefault("cosine", []).append(warp_cosine(policy, theta, phi, batch))
        if "condition" in wanted:
            found.setdefault("condition", []).append(warp_condition(policy, theta, phi, batch))
    return {name: torch.stack(steps, 1) for name, steps in found.items()}


def step_kl(policy: Policy, theta: Params, ahead: Params, phi: Params, batch: Batch) -> Tensor:
    """``KL(pi_theta || pi_ahead)`` in closed form, mean over the valid states of the data.

    Args:
        policy: the network.
        theta: the parameters before a step, ``[S, ...]``.
        ahead: those after it.
        phi: ``[...]``.
        batch: where the policies are compared, ``[S, N, ...]``.

    Returns:
        ``[S]``.
    """
    with torch.no_grad():
        before, after = (policy.outputs(at, phi, batch.obs) for at in (theta, ahead))
        return masked_mean(policy.distribution.kl(before, theta, after, ahead), batch.valid)


def warp_cosine(policy: Policy, theta: Params, phi: Params, batch: Batch) -> Tensor:
    """Cosine between the task gradients with the warps and without.

    Both are ``grad_theta L_task(theta; phi, D)`` over all of theta ``[S, ...]``, once with phi and
    once with every warp at the identity. Each network is taken for the one that drew the data:
    where the two are far apart, true likelihood ratios would bury the direction in noise.

    Args:
        policy: the network.
        theta: ``[S, ...]``.
        phi: ``[...]``.
        batch: the data of the gradients, ``[S, N, ...]``.

    Returns:
        ``[S]``.
    """
    loss = InnerLoss(policy)
    with torch.enable_grad():
        leaves = P.leaves(theta)
        flat = []
        for warps in (P.detach(phi), {}):  # no parameters: no warps
            own = policy.log_prob(theta, warps, batch.obs, batch.act).detach()
            value = loss(leaves, warps, batch._replace(logp=own)).sum()
            gradient = torch.autograd.grad(value, list(leaves.values()))
            flat.append(torch.cat([tensor.flatten(1) for tensor in gradient], 1).double())
    sizes = [torch.linalg.vector_norm(gradient, dim=1) for gradient in flat]
    cosine: Tensor = (flat[0] * flat[1]).sum(1) / (sizes[0] * sizes[1])
    return cosine


def warp_condition(policy: Policy, theta: Params, phi: Params, batch: Batch) -> Tensor:
    """Condition number of the warps' Jacobians where the task's rollout passes.

    It is the median (the lower one of two) over all warps and, in each, over the activations at up
    to SAMPLE valid transitions, evenly spaced in the data.

    Args:
        policy: a network with warp layers.
        theta: ``[S, ...]``.
        phi: ``[...]``.
        batch: the rollout's transitions ``[S, N, ...]``.

    Returns:
        ``[S]``.
    """
    kind = policy.config.warp
    assert kind is not None and kind != "recurrent"
    obs = torch.stack([o[_spread(valid)] for o, valid in zip(batch.obs, batch.valid, strict=True)])
    with torch.no_grad():
        activations = policy.activations(theta, phi, obs)
    found = [
        condition_number(warp_jacobian(kind, P.subtree(f"warp_{layer}", phi), activations[layer]))
        for layer in policy.warped
    ]
    return torch.cat(found, 1).median(1).values


def warp_jacobian(kind: WarpKind, params: Params, x: Tensor) -> Tensor:
    """The Jacobian ``d warp(x)_i / d x_j`` of a warp layer, in float64.

    Args:
        kind: of the warp.
        params: its parameters.
        x: features ``[S, N, width]``.

    Returns:
        ``[S, N, i, j]``.
    """
    params = P.tree_map(lambda tensor: tensor.detach().double(), params)
    with torch.enable_grad():
        x = x.detach().double().requires_grad_()
        # Features do not mix with their neighbours: the gradient of a sum over them is theirs each.
        outputs = apply_warp(kind, params, x).sum((0, 1))
        rows = [torch.autograd.grad(y, x, retain_graph=True)[0] for y in outputs]
    return torch.stack(rows, -2)


def condition_number(matrix: Tensor) -> Tensor:
    """Largest over smallest singular value.

    Args:
        matrix: ``[..., n, n]``.

    Returns:
        ``[...]``; infinite for a singular matrix, NaN for one that is not finite.
    """
    finite = torch.isfinite(matrix).all(-1).all(-1)
    sizes = torch.linalg.svdvals(torch.where(finite[..., None, None], matrix, 0.0))
    largest, smallest = sizes[..., 0], sizes[..., -1]
    ratio = torch.where(smallest > 0.0, largest / smallest, torch.inf)
    return torch.where(finite, ratio, torch.nan)


def _spread(valid: Tensor) -> Tensor:
    """SAMPLE evenly spaced positions ``[SAMPLE]`` of the ones in ``valid [N]``."""
    positions = torch.nonzero(valid).flatten()
    spread = torch.arange(SAMPLE, device=valid.device) * (len(positions) - 1) // (SAMPLE - 1)
    return positions[spread]
