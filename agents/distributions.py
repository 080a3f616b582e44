"""Distributions over actions: how noise becomes an action, and how likely an action was.

A policy's network says where a distribution stands; a continuous action is a vector, a discrete one
a one-hot vector as wide as the number of choices, so that both have the same shapes everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from warprl.types import Params, Spaces

LOG_2PI = math.log(2.0 * math.pi)


class ActionDistribution(Protocol):
    """What a policy needs of a distribution; it is pure and holds no parameters.

    Outputs of the network, noise and actions are ``[T, N, A]``, log-probabilities ``[T, N]``.
    Parameters of its own, beside the network's, are in the stacked theta ``[T, ...]``.
    """

    @property
    def size(self) -> int:
        """A: how many numbers an action has, and so the network's outputs."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its own parameters in theta."""

    def init(self, log_std: float) -> Params:
        """Its own parameters before training.

        Args:
            log_std: the logarithm of the standard deviation, for those that have one.

        Returns:
            Parameters by :attr:`names`, unstacked ``[...]``.
        """

    def noise(self, rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
        """The noise that makes an action random.

        Args:
            rng: draws it.
            *shape: of everything but the action.

        Returns:
            ``[*shape, A]``; it does not depend on any output of the network.
        """

    def sample(self, outputs: Tensor, theta: Params, noise: Tensor) -> Tensor:
        """Actions of outputs and noise, distributed as this distribution says.

        Args:
            outputs: of the network, ``[T, N, A]``.
            theta: stacked ``[T, ...]``.
            noise: of :meth:`noise`, ``[T, N, A]``.

        Returns:
            ``[T, N, A]``.
        """

    def log_prob_of_sample(self, outputs: Tensor, theta: Params, noise: Tensor) -> Tensor:
        """Log-probability of the actions that :meth:`sample` makes of this noise.

        Args:
            outputs: of the network, ``[T, N, A]``.
            theta: stacked ``[T, ...]``.
            noise: of :meth:`noise`, ``[T, N, A]``.

        Returns:
            ``[T, N]``.
        """

    def log_prob(self, outputs: Tensor, theta: Params, act: Tensor) -> Tensor:
        """Log-probability, or log-density, of actions.

        Args:
            outputs: of the network, ``[T, N, A]``.
            theta: stacked ``[T, ...]``.
            act: ``[T, N, A]``.

        Returns:
            ``[T, N]``.
        """

    def kl(self, outputs: Tensor, theta: Params, other: Tensor, other_theta: Params) -> Tensor:
        """``KL(this || other)`` in closed form.

        Args:
            outputs: of the network, ``[T, N, A]``.
            theta: stacked ``[T, ...]``.
            other: the outputs of the other policy, ``[T, N, A]``.
            other_theta: its theta, stacked ``[T, ...]``.

        Returns:
            ``[T, N]``.
        """


@dataclass(frozen=True)
class Gaussian:
    """Diagonal Gaussians about the outputs; theta has ``log_std [T, A]``."""

    size: int

    @property
    def names(self) -> tuple[str, ...]:
        """The log standard deviation."""
        return ("log_std",)

    def init(self, log_std: float) -> Params:
        """The same deviation in every dimension; see the protocol."""
        return {"log_std": torch.full((self.size,), log_std)}

    def noise(self, rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
        """Standard normal; see the protocol."""
        return rng.standard_normal((*shape, self.size), dtype=np.float32)

    def sample(self, outputs: Tensor, theta: Params, noise: Tensor) -> Tensor:
        """``outputs + exp(log_std) * noise``; see the protocol."""
        return torch.addcmul(outputs, _log_std(theta).exp(), noise)

    def log_prob_of_sample(self, outputs: Tensor, theta: Params, noise: Tensor) -> Tensor:
        """The scaled density of the noise, which no output changes; see the protocol."""
        return -0.5 * (noise.square() + 2.0 * _log_std(theta) + LOG_2PI).sum(-1)

    def log_prob(self, outputs: Tensor, theta: Params, act: Tensor) -> Tensor:
        """The density of the noise that would have made the actions; see the protocol."""
        noise = (act - outputs) * torch.exp(-_log_std(theta))
        return self.log_prob_of_sample(outputs, theta, noise)

    def kl(self, outputs: Tensor, theta: Params, other: Tensor, other_theta: Params) -> Tensor:
        """Sum over dimensions of ``log(s_q / s_p) + (s_p^2 + (m_p - m_q)^2) / (2 s_q^2) - 1/2``.

        See the protocol.
        """
        apart = (outputs - other) * torch.exp(-_log_std(other_theta))
        widths = _log_std(theta) - _log_std(other_theta)
        return 0.5 * (torch.expm1(2.0 * widths) - 2.0 * widths + apart.square()).sum(-1)


@dataclass(frozen=True)
class Categorical:
    """One of ``size`` choices; the outputs are logits and an action is one-hot."""

    size: int

    @property
    def names(self) -> tuple[str, ...]:
        """None: there are no parameters beside the logits."""
        return ()

    def init(self, log_std: float) -> Params:
        """Nothing: the logits say it all; see the protocol."""
        return {}

    def noise(self, rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
        """Standard Gumbel; see the protocol."""
        return rng.gumbel(size=(*shape, self.size)).astype(np.float32)

    def sample(self, outputs: Tensor, theta: Params, noise: Tensor) -> Tensor:
        """``one_hot(argmax(logits + noise))``, which is ``softmax(logits)`` (Gumbel, 1954).

        See the protocol.
        """
        choice = (outputs + noise).argmax(-1, keepdim=True)
        return torch.zeros_like(outputs).scatter_(-1, choice, 1.0)

    def log_prob_of_sample(self, outputs: Tensor, theta: Params, noise: Tensor) -> Tensor:
        """That of the choice that the noise makes; see the protocol."""
        return self.log_prob(outputs, theta, self.sample(outputs, theta, noise))

    def log_prob(self, outputs: Tensor, theta: Params, act: Tensor) -> Tensor:
        """``log_softmax(logits)`` at the choice; see the protocol."""
        return (outputs.log_softmax(-1) * act).sum(-1)

    def kl(self, outputs: Tensor, theta: Params, other: Tensor, other_theta: Params) -> Tensor:
        """``sum_i p_i (log p_i - log q_i)``; see the protocol."""
        logp = outputs.log_softmax(-1)
        return (logp.exp() * (logp - other.log_softmax(-1))).sum(-1)


def distribution_for(spaces: Spaces) -> ActionDistribution:
    """The distribution over an environment's actions: Gaussian, or categorical over choices."""
    return Categorical(spaces.act_size) if spaces.discrete else Gaussian(spaces.act_size)


def _log_std(theta: Params) -> Tensor:
    return theta["log_std"].unsqueeze(1)
