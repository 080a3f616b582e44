"""Pure operations on named parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from warprl.counts import shown
from warprl.types import Params


def tree_map(function: Callable[[Tensor], Tensor], params: Params) -> Params:
    """Apply a function to every tensor.

    Args:
        function: of one tensor.
        params: named tensors.

    Returns:
        What it makes of each, under the same names.
    """
    return {name: function(tensor) for name, tensor in params.items()}


def stack(copies: Sequence[Params], dim: int = 0) -> Params:
    """Equally named parameters stacked along a new axis.

    Args:
        copies: C of them, ``[...]``.
        dim: where the new axis goes.

    Returns:
        ``[C, ...]`` if it goes to the front.
    """
    return {name: torch.stack([copy[name] for copy in copies], dim) for name in copies[0]}


def broadcast(params: Params, size: int) -> Params:
    """Stacked copies, as views.

    Args:
        params: ``[...]``.
        size: how many copies.

    Returns:
        ``[size, ...]``.
    """
    return tree_map(lambda tensor: tensor.expand(size, *tensor.shape), params)


def detach(params: Params) -> Params:
    """The same values cut from any graph."""
    return tree_map(lambda tensor: tensor.detach(), params)


def leaves(params: Params) -> Params:
    """The same values as fresh leaves that require gradients."""
    return tree_map(lambda tensor: tensor.detach().requires_grad_(), params)


def select(params: Params, *index: Tensor | int | slice) -> Params:
    """Index every tensor along its leading axes."""
    return tree_map(lambda tensor: tensor[index], params)


def add(left: Params, right: Params) -> Params:
    """Element-wise sum of equally named parameters.

    Args:
        left: ``[...]``.
        right: of the same names and shapes.

    Returns:
        ``[...]``.
    """
    return {name: tensor + right[name] for name, tensor in left.items()}


def zeros_like(params: Params) -> Params:
    """Zeros of the same names and shapes."""
    return tree_map(torch.zeros_like, params)


def prefix(name: str, params: Params) -> Params:
    """``{key: v}`` as ``{name.key: v}``.

    Args:
        name: what is put in front.
        params: named tensors.

    Returns:
        The same tensors under longer names.
    """
    return {f"{name}.{key}": tensor for key, tensor in params.items()}


def subtree(name: str, params: Params) -> Params:
    """The inverse of :func:`prefix`.

    Args:
        name: the prefix.
        params: named tensors, of this prefix or others.

    Returns:
        Those below ``name.``, without it.
    """
    start = f"{name}."
    return {key[len(start) :]: t for key, t in params.items() if key.startswith(start)}


def flatten(params: Params) -> Tensor:
    """All numbers in one vector ``[n]``, tensor after tensor."""
    return torch.cat([tensor.reshape(-1) for tensor in params.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """The inverse of :func:`flatten`.

    Args:
        vector: ``[n]``.
        like: gives the names and shapes, of n numbers in all.

    Returns:
        The numbers under these names and in these shapes.
    """
    parts = torch.split(vector, [tensor.numel() for tensor in like.values()])
    return {
        name: part.reshape(tensor.shape)
        for (name, tensor), part in zip(like.items(), parts, strict=True)
    }


def norm(params: Params) -> Tensor:
    """Euclidean norm over all tensors together; zero for no parameters."""
    squares = [tensor.square().sum() for tensor in params.values()]
    return torch.sqrt(torch.as_tensor(sum(squares[1:], squares[0]) if squares else 0.0))


def all_finite(params: Params) -> bool:
    """Whether every number of every tensor is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in params.values())


def require_like(found: Params, expected: Params) -> None:
    """Make sure of parameters from elsewhere, such as a file.

    Args:
        found: the parameters.
        expected: parameters with the names, shapes and types that they should have.

    Raises:
        ValueError: in one line, for the first tensor that is missing, does not belong there, has
            another shape or type, or holds a number that is not finite.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        other = found[name]
        if other.shape != tensor.shape:
            shapes = f"{shown(list(other.shape))} and should be of {list(tensor.shape)}"
            raise ValueError(f"{name} is of shape {shapes}")
        if other.dtype != tensor.dtype:
            raise ValueError(f"{name} is of {other.dtype} and should be of {tensor.dtype}")
        if not torch.isfinite(other).all():
            raise ValueError(f"{name} has a number that is not finite")
    for name in found:
        if name not in expected:
            raise ValueError(f"{shown(name)} does not belong there")


def finite_rows(params: Params) -> Tensor:
    """Which rows of the leading axis of stacked parameters are finite: bool ``[T]``."""
    rows = [torch.isfinite(tensor).flatten(1).all(1) for tensor in params.values()]
    return torch.stack(rows).all(0)


def where(keep: Tensor, new: Params, old: Params) -> Params:
    """Stacked parameters put together row by row.

    Args:
        keep: bool ``[T]``.
        new: ``[T, ...]``, the rows where ``keep`` is true.
        old: ``[T, ...]``, the rows where it is false.

    Returns:
        ``[T, ...]``.
    """
    rows = {name: keep.reshape(-1, *[1] * (tensor.dim() - 1)) for name, tensor in new.items()}
    return {name: torch.where(rows[name], tensor, old[name]) for name, tensor in new.items()}
