"""Warp layers: the shared, frozen-in-adaptation layers that precondition the task gradient.

A warp layer maps the features of a task layer onto features of the same width. Back-propagation
through it multiplies the gradient that reaches the task layers below by its Jacobian; that is the
whole of the preconditioning (Flennerhag et al., ICLR 2020, section 2.2, eq. 6). Every kind starts
as the identity, bit for bit, so that the unwarped network is an exact control.
"""

from __future__ import annotations

from typing import Literal, assert_never, get_args

import numpy as np
import torch
from torch import Tensor

from warprl.activation import tanh
from warprl.keys import Need, either
from warprl.types import Params

WarpKind = Literal["linear", "residual", "gate"]

WARP_KINDS: tuple[WarpKind, ...] = get_args(WarpKind)
LAYER_WARPS = Need(f"policy.warp = {either(WARP_KINDS)}")


def init_warp(kind: WarpKind, width: int, rng: np.random.Generator) -> Params:
    """The parameters of one warp layer, at which it is the identity, bit for bit.

    Args:
        kind: what the layer computes; see :func:`apply_warp`.
        width: how many features it maps onto as many.
        rng: draws the inner weights of a ``residual`` warp.

    Returns:
        The named parameters.
    """
    square = (width, width)
    match kind:
        case "linear":
            return {"weight": torch.eye(width), "bias": torch.zeros(width)}
        case "residual":
            weight_in = rng.standard_normal(square, dtype=np.float32) / np.float32(np.sqrt(width))
            return {
                "weight_in": torch.from_numpy(weight_in),
                "bias_in": torch.zeros(width),
                "weight_out": torch.zeros(square),
                "bias_out": torch.zeros(width),
            }
        case "gate":
            return {"weight": torch.zeros(square), "bias": torch.zeros(width)}
        case _:
            assert_never(kind)


def warp_size(kind: WarpKind, width: int) -> int:
    """How many parameters one warp layer of so many features has, found without making them."""
    return (2 if kind == "residual" else 1) * (width + 1) * width


def apply_warp(kind: WarpKind, params: Params, x: Tensor) -> Tensor:
    """Warp features with parameters that all tasks share.

    * ``linear``: ``x W + b`` (a T-Net layer, Lee & Choi, ICML 2018)
    * ``residual``: ``x + tanh(x W_in + b_in) W_out + b_out``
    * ``gate``: ``x * (1 + tanh(x W + b))``

    Args:
        kind: what the layer computes.
        params: its parameters, unstacked.
        x: features ``[S, N, width]`` of S tasks.

    Returns:
        ``[S, N, width]``.
    """
    match kind:
        case "linear":
            return _affine(x, params["weight"], params["bias"])
        case "residual":
            inner = tanh(_affine(x, params["weight_in"], params["bias_in"]))
            return x + _affine(inner, params["weight_out"], params["bias_out"])
        case "gate":
            return x * (1.0 + tanh(_affine(x, params["weight"], params["bias"])))
        case _:
            assert_never(kind)


def fold_linear(params: Params, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Merge a ``linear`` warp into the affine layers above it: ``(x W + b) V + c = x V' + c'``.

    Args:
        params: the warp's, W and b.
        weight: V of S tasks, ``[S, width, out]``.
        bias: c of S tasks, ``[S, out]``.

    Returns:
        V' and c', of the shapes of V and c.
    """
    shared = params["weight"].expand(len(weight), -1, -1)
    row = params["bias"].expand(len(weight), 1, -1)
    return torch.bmm(shared, weight), torch.baddbmm(bias.unsqueeze(1), row, weight).squeeze(1)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # One product a task, although the weight is shared: the bits of a task's features then do not
    # depend on how many tasks share the call, as they would if the leading axes were folded.
    return torch.baddbmm(bias.expand(len(x), 1, -1), x, weight.expand(len(x), -1, -1))
