"""Policies called with explicit, stacked parameters.

The network interleaves task layers h (parameters theta, adapted) with warp layers w (parameters
phi, shared and frozen in adaptation): ``h_L . w_{L-1} . tanh . h_{L-1} ... w_1 . tanh . h_1``.
A warp follows each hidden activation, or some of them; the output layer and the
parameters of the distribution over actions are the task's alone. Without warp layers phi is empty.
In a policy with memory, a recurrent cell stands in the place of h_1
(:mod:`warprl.agents.recurrent`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Interval, Le, Len
from torch import Tensor

from warprl.activation import tanh
from warprl.agents import recurrent
from warprl.agents.distributions import ActionDistribution, distribution_for
from warprl.agents.recurrent import FLAGS, MemoryKind, State
from warprl.keys import CONTINUOUS, Key, Need
from warprl.params import prefix, subtree, tree_map
from warprl.types import Params, Spaces
from warprl.warp import (
    LAYER_WARPS,
    WARP_KINDS,
    WarpKind,
    apply_warp,
    fold_linear,
    init_warp,
    warp_size,
)

Layers = Literal["all", "head", "body"]

MAX_WIDTH = 4096
MAX_LAYERS = 32


@dataclass(frozen=True)
class PolicyConfig:
    """Shape of the policy. ``log_std`` is the initial one, in units of the policy's action.

    Discrete actions have none. ``rates`` gives every adapted number a step-size factor of its own,
    learned as the warps are. ``memory`` makes the first hidden layer a recurrent cell, which the
    ``recurrent`` warp gates. The other kinds follow every hidden layer, or only those
    in ``warped``, ascending from 0 at the bottom.
    """

    hidden: Annotated[
        tuple[Annotated[int, Gt(0), Le(MAX_WIDTH)], ...],
        Len(1, MAX_LAYERS),
        Key("widths of the hidden layers, from the bottom"),
    ] = (64, 64)
    warp: Annotated[
        Literal[WarpKind, "recurrent"] | None,
        Key("warp behind hidden layers, or in the memory (recurrent)"),
    ] = None
    rates: Annotated[
        bool, Key("whether every adapted number has a learned step-size factor of its own")
    ] = False
    log_std: Annotated[
        float,
        Interval(ge=-10, le=10),
        Key("first log standard deviation, in units of the policy's action", CONTINUOUS),
    ] = 0.0
    memory: Annotated[
        MemoryKind | None, Key("recurrent cell in the place of the first hidden layer")
    ] = None
    warped: Annotated[
        Annotated[tuple[Annotated[int, Ge(0)], ...], Len(1, MAX_LAYERS)] | None,
        Key("hidden layers with a warp, from 0 at the bottom; none for all", LAYER_WARPS),
    ] = None

    def require_consistent(self) -> None:
        """Raise ValueError, in one line, for parts that cannot work together."""
        if self.warp == "recurrent" and self.memory != "rnn":
            raise ValueError(
                "policy.warp = recurrent needs policy.memory = rnn, the cell that it gates"
            )
        if self.memory and self.warp in WARP_KINDS:
            raise ValueError(
                f"policy.memory = {self.memory} needs policy.warp = recurrent (of an rnn) or none: "
                f"{self.warp} warps stand behind feed-forward layers"
            )
        # In one order only, so that there is one name for each policy.
        places, layers = list(self.warped or []), len(self.hidden)
        if places and (max(places) >= layers or places != sorted(set(places))):
            raise ValueError(
                f"policy.warped = {places}: should be in order and each once, of the hidden layers "
                f"{list(range(layers))}"
            )

    def met(self, continuous: bool) -> set[Need]:
        """What keys of the policy may need and find here, for this kind of action."""
        found = {CONTINUOUS: continuous, LAYER_WARPS: self.warp in WARP_KINDS}
        return {need for need, here in found.items() if here}


@dataclass(frozen=True)
class Policy:
    """A network with a distribution over actions on top; it holds no parameters.

    theta: ``weight_l [.., in, out]``, ``bias_l [.., out]`` of task layer l, or ``cell.*`` of a
    memory in the place of layer 0, and the distribution's.
    phi: ``warp_l.*`` for each warped hidden layer l (see :mod:`warprl.warp`), and ``rate.*`` shaped
    like theta (see :func:`warprl.objective.inner_step`).

    The input of the network is the observation. With a memory there is more, ``[..., input_dim]``:
    observation, previous action and reward, 1.0 in the first step of an episode, and the flags of
    :mod:`warprl.agents.recurrent`; its steps are then those of whole sequences, in order.
    """

    obs_dim: int
    distribution: ActionDistribution
    config: PolicyConfig

    @classmethod
    def for_spaces(cls, spaces: Spaces, config: PolicyConfig) -> Policy:
        """The policy for an environment's observations and actions.

        Args:
            spaces: sizes and bounds of both.
            config: the shape of the network.

        Returns:
            The policy.
        """
        return cls(spaces.obs_size, distribution_for(spaces), config)

    @property
    def act_dim(self) -> int:
        """A: how many numbers an action has."""
        return self.distribution.size

    @property
    def input_dim(self) -> int:
        """How many numbers the network reads in a step."""
        return self.obs_dim if self.config.memory is None else self._cell_inputs + FLAGS

    @property
    def _cell_inputs(self) -> int:
        return self.obs_dim + self.act_dim + 2

    @property
    def warped(self) -> tuple[int, ...]:
        """The hidden layers that a warp follows, from the bottom; a cell's gates do not count."""
        if self.config.warp in (None, "recurrent"):
            return ()
        every = range(len(self.config.hidden))
        return tuple(every if self.config.warped is None else self.config.warped)

    @property
    def widths(self) -> tuple[int, ...]:
        """Layer widths from observation to action."""
        return (self.obs_dim, *self.config.hidden, self.act_dim)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers theta and phi have, found without making them."""
        # The task layers, and the distribution's own parameters.
        width, kind = self.config.hidden[0], self.config.warp
        theta = sum(x.numel() for x in self.distribution.init(0.0).values())
        for layer in range(self._first, len(self.widths) - 1):
            theta += (self.widths[layer] + 1) * self.widths[layer + 1]
        if self.config.memory is not None:
            theta += recurrent.cell_size(self.config.memory, self._cell_inputs, width)

        # The warps, and the rates.
        phi = theta if self.config.rates else 0
        if kind == "recurrent":
            phi += recurrent.recurrent_warp_size(self._cell_inputs, width)
        elif kind is not None:
            phi += sum(warp_size(kind, self.config.hidden[layer]) for layer in self.warped)
        return theta, phi

    def init(self, rng: np.random.Generator) -> tuple[Params, Params]:
        """Fresh parameters: Xavier-uniform weights (Glorot & Bengio, 2010), no bias.

        theta does not depend on the kind of warp: agents that differ in it alone start alike.

        Args:
            rng: draws the weights.

        Returns:
            (theta, phi), unstacked.
        """
        # The task layers, and the distribution's own parameters.
        theta: Params = {}
        width, memory = self.config.hidden[0], self.config.memory
        if memory is not None:
            cell = recurrent.init_cell(memory, self._cell_inputs, width, rng)
            theta |= prefix("cell", cell)
        for layer in range(self._first, len(self.widths) - 1):
            fan_in, fan_out = self.widths[layer : layer + 2]
            bound = math.sqrt(6.0 / (fan_in + fan_out))
            weight = rng.uniform(-bound, bound, (fan_in, fan_out)).astype(np.float32)
            theta[f"weight_{layer}"] = torch.from_numpy(weight)
            theta[f"bias_{layer}"] = torch.zeros(fan_out)
        theta |= self.distribution.init(self.config.log_std)

        # The warps, at the identity, and the rates, which are 1.
        phi: Params = {}
        if self.config.warp == "recurrent":
            warp = recurrent.init_recurrent_warp(self._cell_inputs, width, rng)
            phi |= prefix("warp_0", warp)
        elif self.config.warp is not None:
            for layer in self.warped:
                warp = init_warp(self.config.warp, self.config.hidden[layer], rng)
                phi |= prefix(f"warp_{layer}", warp)
        if self.config.rates:
            phi |= prefix("rate", tree_map(torch.ones_like, theta))
        return theta, phi

    def layers(self, part: Layers) -> list[str]:
        """The names in theta of a part of the network; the distribution's are the head's."""
        last = len(self.config.hidden)
        head = [f"weight_{last}", f"bias_{last}", *self.distribution.names]
        dense = range(self._first, last)
        body = [f"{kind}_{layer}" for layer in dense for kind in ("weight", "bias")]
        if self.config.memory is not None:
            body = [f"cell.{name}" for name in recurrent.PARAMETERS] + body
        return {"all": body + head, "head": head, "body": body}[part]

    def outputs(self, theta: Params, phi: Params, obs: Tensor) -> Tensor:
        """What the network says of the actions: the means of a Gaussian, or logits.

        Args:
            theta: stacked ``[T, ...]``.
            phi: shared ``[...]``.
            obs: inputs ``[T, N, input_dim]``; of a policy with memory, whole sequences in order.

        Returns:
            ``[T, N, A]``.
        """
        theta, phi = self.fold(theta, phi)
        if self.config.memory is None:
            return self._dense(theta, phi, obs)
        return self._dense(theta, phi, recurrent.run(self.config.memory, *_cell(theta, phi), obs))

    def begin(self, theta: Params, phi: Params, sequences: int) -> State:
        """The memory before the first step.

        Args:
            theta: stacked ``[T, ...]``.
            phi: shared ``[...]``.
            sequences: E, how many sequences each task has.

        Returns:
            Tensors ``[T, E, width]``; none without a cell.
        """
        if self.config.memory is None:
            return ()
        return recurrent.begin(*_cell(theta, phi), sequences)

    def advance(
        self, theta: Params, phi: Params, seen: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """One step of all episodes.

        Args:
            theta: stacked ``[T, ...]``.
            phi: shared ``[...]``.
            seen: inputs ``[T, E, input_dim]``.
            state: the memory before the step.

        Returns:
            Outputs ``[T, E, A]``, as :meth:`outputs` gives them, and the memory after the step.
        """
        if self.config.memory is None:
            return self._dense(theta, phi, seen), state
        state = recurrent.advance(self.config.memory, *_cell(theta, phi), seen, state)
        return self._dense(theta, phi, state[0]), state

    @property
    def _first(self) -> int:
        """The lowest feed-forward layer."""
        return 0 if self.config.memory is None else 1

    def _dense(self, theta: Params, phi: Params, x: Tensor) -> Tensor:
        last = len(self.config.hidden)
        for layer in range(self._first, last):
            x = self.warp(phi, layer, tanh(_task_layer(theta, layer, x)))
        return _task_layer(theta, last, x)

    def activations(self, theta: Params, phi: Params, obs: Tensor) -> list[Tensor]:
        """The output of each hidden layer before its warp.

        Args:
            theta: stacked ``[T, ...]``.
            phi: shared ``[...]``.
            obs: inputs ``[T, N, O]`` of a policy without memory.

        Returns:
            ``[T, N, width]`` of each layer, from the bottom.
        """
        found: list[Tensor] = []
        x = obs
        for layer in range(len(self.config.hidden)):
            found.append(tanh(_task_layer(theta, layer, x)))
            x = self.warp(phi, layer, found[-1])
        return found

    def warp(self, phi: Params, layer: int, x: Tensor) -> Tensor:
        """The features behind a hidden layer, warped if there is a warp. A subclass may differ.

        Args:
            phi: the warp parameters; without any, nothing is warped.
            layer: the number of the hidden layer, from 0.
            x: its features, ``[T, N, width]``.

        Returns:
            Features ``[T, N, width]``, which the next layer takes.
        """
        kind = self.config.warp
        if kind is None or kind == "recurrent" or layer not in self.warped or not phi:
            return x
        return apply_warp(kind, subtree(f"warp_{layer}", phi), x)

    def fold(self, theta: Params, phi: Params) -> tuple[Params, Params]:
        """The same policy with ``linear`` warps merged into the task layers above them.

        This saves up to half of the arithmetic of a forward pass, for one product of weights in
        each layer; gradients flow through it. Other kinds of warp are returned as they are.

        Args:
            theta: stacked ``[T, ...]``.
            phi: shared ``[...]``.

        Returns:
            (theta, phi) of the same shapes, phi empty if the warps were merged.
        """
        if self.config.warp != "linear" or not phi:
            return theta, phi
        theta = dict(theta)
        for layer in self.warped:
            weight, bias = f"weight_{layer + 1}", f"bias_{layer + 1}"
            theta[weight], theta[bias] = fold_linear(
                subtree(f"warp_{layer}", phi), theta[weight], theta[bias]
            )
        return theta, {}

    def log_prob(self, theta: Params, phi: Params, obs: Tensor, act: Tensor) -> Tensor:
        """Log-probability of actions.

        Args:
            theta: stacked ``[T, ...]``.
            phi: shared ``[...]``.
            obs: inputs ``[T, N, input_dim]``.
            act: ``[T, N, A]``.

        Returns:
            ``[T, N]``.
        """
        return self.distribution.log_prob(self.outputs(theta, phi, obs), theta, act)


def _cell(theta: Params, phi: Params) -> tuple[Params, Params]:
    return subtree("cell", theta), subtree("warp_0", phi)


def _task_layer(theta: Params, layer: int, x: Tensor) -> Tensor:
    return torch.baddbmm(theta[f"bias_{layer}"].unsqueeze(1), x, theta[f"weight_{layer}"])
