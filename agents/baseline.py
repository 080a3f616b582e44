"""Per-task linear feature baseline (Duan et al., ICML 2016, appendix; the one all peers use).

Features: observation clipped to +-10, its square, time t/100 with its square and cube, a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

OBS_CLIP = 10.0
TIME_SCALE = 100.0
RIDGE = 1e-5


def features(obs: Tensor) -> Tensor:
    """The features of a linear value function, in float64.

    Args:
        obs: observations ``[..., H, O]``, in the order of time.

    Returns:
        ``[..., H, 2 O + 4]``.
    """
    clipped = obs.double().clamp(-OBS_CLIP, OBS_CLIP)
    t = torch.arange(obs.shape[-2], dtype=torch.float64, device=obs.device) / TIME_SCALE
    time = torch.stack([t, t**2, t**3, torch.ones_like(t)], -1)
    return torch.cat([clipped, clipped**2, time.expand(*obs.shape[:-1], 4)], -1)


def fit_predict(obs: Tensor, returns: Tensor, valid: Tensor) -> Tensor:
    """Values of one task: a ridge regression of its returns on the features.

    It is solved in float64 with ridge 1e-5, so that a singular design is no special case.

    Args:
        obs: ``[E, H, O]``.
        returns: ``[E, H]``.
        valid: ``[E, H]``; steps where it is zero do not enter the fit.

    Returns:
        The values ``[E, H]``, float64.
    """
    x = features(obs).flatten(0, 1)
    weighted = (x * valid.double().reshape(-1, 1)).T
    gram = weighted @ x + RIDGE * torch.eye(x.shape[-1], dtype=torch.float64, device=x.device)
    coefficients = torch.linalg.solve(gram, weighted @ returns.double().flatten())
    value: Tensor = x @ coefficients
    return value.reshape(returns.shape)
