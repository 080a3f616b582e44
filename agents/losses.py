"""Policy-gradient losses of stacked tasks. Pure; each returns one number a task, ``[S]``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from warprl.agents.policy import Policy
from warprl.types import Batch, MetaLossValue, Params


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid entries of the last axis.

    Args:
        x: ``[..., N]``.
        valid: ``[..., N]``, 1.0 where an entry counts and 0.0 where it does not.

    Returns:
        ``[...]``; zero where no entry counts.
    """
    return (x * valid).sum(-1) / valid.sum(-1).clamp_min(1.0)


def surrogate(log_ratio: Tensor, batch: Batch) -> Tensor:
    """Likelihood-ratio surrogate ``-mean(exp(log_ratio) A)``.

    Its gradient at the behaviour policy is the policy gradient and its second derivative the
    low-variance-curvature estimator (Rothfuss et al., ProMP, ICLR 2019, section 5).

    Args:
        log_ratio: ``log pi(a|s) - log pi_behaviour(a|s)``, ``[S, N]``.
        batch: advantages and validity, ``[S, N]``.

    Returns:
        The loss of each row, ``[S]``.
    """
    return -masked_mean(torch.exp(log_ratio) * batch.advantage, batch.valid)


def ppo_clip(log_ratio: Tensor, batch: Batch, clip: float) -> Tensor:
    """Clipped surrogate ``-mean(min(r A, clip(r, 1 - c, 1 + c) A))``, r the likelihood ratio.

    Source: Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 7.

    Args:
        log_ratio: ``log r``, ``[S, N]``.
        batch: advantages and validity, ``[S, N]``.
        clip: c.

    Returns:
        The loss of each row, ``[S]``.
    """
    ratio = torch.exp(log_ratio)
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -masked_mean(
        torch.minimum(ratio * batch.advantage, clipped * batch.advantage), batch.valid
    )


def kl_estimate(log_ratio: Tensor, batch: Batch) -> Tensor:
    """Non-negative estimate ``mean(ratio - 1 - log ratio)`` of KL(behaviour || new).

    It is unbiased for samples of the behaviour policy, and has a lower variance than
    ``-mean(log ratio)``.

    Args:
        log_ratio: ``[S, N]``.
        batch: validity, ``[S, N]``.

    Returns:
        The estimate of each row, ``[S]``.
    """
    return masked_mean(torch.expm1(log_ratio) - log_ratio, batch.valid)


def log_ratio(policy: Policy, theta: Params, phi: Params, batch: Batch) -> Tensor:
    """Log-likelihood ratio ``log pi(a|s) - log pi_behaviour(a|s)``.

    Args:
        policy: the network.
        theta: stacked ``[S, ...]``.
        phi: shared ``[...]``.
        batch: transitions ``[S, N, ...]`` with the behaviour policy's log-probabilities.

    Returns:
        ``[S, N]``.
    """
    return policy.log_prob(theta, phi, batch.obs, batch.act) - batch.logp


@dataclass(frozen=True)
class InnerLoss:
    """``L_task``: the surrogate the inner steps descend."""

    policy: Policy

    def __call__(self, theta: Params, phi: Params, batch: Batch) -> Tensor:
        """Losses ``[S]``."""
        return surrogate(log_ratio(self.policy, theta, phi, batch), batch)


@dataclass(frozen=True)
class OuterLoss:
    """``L_meta``: the surrogate, clipped unless ``clip`` is None, plus a penalty on the KL."""

    policy: Policy
    clip: float | None

    def __call__(
        self, theta: Params, phi: Params, batch: Batch, kl_coefficient: float
    ) -> MetaLossValue:
        """Losses and KL estimates, each ``[S]``."""
        ratio = log_ratio(self.policy, theta, phi, batch)
        loss = surrogate(ratio, batch) if self.clip is None else ppo_clip(ratio, batch, self.clip)
        kl = kl_estimate(ratio, batch)
        return MetaLossValue(loss + kl_coefficient * kl, kl)
