"""Returns and advantages. Pure functions of tensors ``[..., H]``, time on the last axis.

The objective is the finite-horizon return, and the baseline sees the time, so the value after the
last step is zero by definition, whether the episode was truncated by the horizon or terminated.
"""

from __future__ import annotations

import torch
from torch import Tensor


def discounted_returns(reward: Tensor, valid: Tensor, gamma: float) -> Tensor:
    """Discounted returns ``G_t = r_t + gamma G_{t+1}``.

    Args:
        reward: ``[..., H]``.
        valid: ``[..., H]``, 1.0 for real steps and 0.0 for padding.
        gamma: the discount of one step.

    Returns:
        ``[..., H]``; zero at padding.
    """
    return _discounted_sum(reward * valid, gamma)


def gae(reward: Tensor, value: Tensor, valid: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates.

    ``A_t = sum_l (gamma lam)^l delta_{t+l}`` with ``delta_t = r_t + gamma V_{t+1} - V_t``.

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation", ICLR 2016, eq. 16.

    Args:
        reward: ``[..., H]``.
        value: ``[..., H]``, V at every step; after the last real one it is zero.
        valid: ``[..., H]``, 1.0 for real steps and 0.0 for padding.
        gamma: the discount of one step.
        lam: 0 trusts the values, 1 the rewards.

    Returns:
        ``[..., H]``; zero at padding.
    """
    value = value * valid
    following = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], -1)
    delta = (reward + gamma * following - value) * valid
    return _discounted_sum(delta, gamma * lam)


def normalise(advantage: Tensor, valid: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Advantages of zero mean and unit standard deviation over the valid steps of a task.

    Args:
        advantage: ``[..., E, H]``.
        valid: ``[..., E, H]``, 1.0 for real steps and 0.0 for padding.
        epsilon: added to the standard deviation.

    Returns:
        ``[..., E, H]``; zero at padding.
    """
    dims = (-2, -1)
    count = valid.sum(dims, keepdim=True).clamp_min(1.0)
    centred = (advantage - (advantage * valid).sum(dims, keepdim=True) / count) * valid
    std = torch.sqrt(centred.square().sum(dims, keepdim=True) / count)
    return centred / (std + epsilon)


def _discounted_sum(x: Tensor, discount: float) -> Tensor:
    total = torch.zeros_like(x)
    running = torch.zeros_like(x[..., 0])
    for t in reversed(range(x.shape[-1])):
        running = x[..., t] + discount * running
        total[..., t] = running
    return total
