"""The policy class of exported policies, which files of Stable-Baselines3 name by this path.

:mod:`warprl.launch.evaluation.sb3_models` makes models of it and reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from warprl import params as P
from warprl.agents.distributions import ActionDistribution, Categorical, Gaussian
from warprl.agents.policy import Policy, PolicyConfig
from warprl.seeding import generator
from warprl.types import Params
from warprl.warp import WarpKind

ActionSpace: TypeAlias = Box | Discrete[Any]
Layer = tuple[Tensor, Tensor]  # weight [in, out] and bias [out]


class Actor(nn.Module):
    """Our policy as a torch module: theta can be trained, phi is frozen as in adaptation."""

    def __init__(self, policy: Policy) -> None:
        """Start with some parameters; the exported ones are copied over them."""
        super().__init__()
        self._policy = policy
        theta, phi = policy.init(generator(0, "init"))
        for name in policy.distribution.names:  # SB3 keeps them beside the network
            del theta[name]
        self.theta = nn.ParameterDict(theta)
        self.phi = nn.ParameterDict(
            {_key(name): nn.Parameter(tensor, False) for name, tensor in phi.items()}
        )
        self._names = tuple(phi)

    def forward(self, obs: Tensor) -> Tensor:
        """Mean actions, or logits, ``[N, A]`` at observations ``[N, O]``."""
        return self._policy.outputs(*self._stacked(), obs.unsqueeze(0)).squeeze(0)

    def layers(self) -> list[Layer]:
        """The layers of the plain network that acts alike.

        Returns:
            Weights and biases, from observation to action.

        Raises:
            ValueError: in one line, if its warps are of a kind that no such network has.
        """
        config = self._policy.config
        if config.warp not in (None, "linear"):
            raise ValueError(
                f"its warp layers are of kind {config.warp}, and an initialisation is task layers "
                "alone, into which only linear ones can be merged"
            )
        theta, _ = self._policy.fold(*self._stacked())
        theta = {name: tensor[0].detach() for name, tensor in theta.items()}
        return [(theta[f"weight_{n}"], theta[f"bias_{n}"]) for n in range(len(config.hidden) + 1)]

    def _stacked(self) -> tuple[Params, Params]:
        """theta of a single task ``[1, ...]``, and phi."""
        theta = P.broadcast(dict(self.theta.items()), 1)
        return theta, {name: self.phi[_key(name)] for name in self._names}

    def copy(self, theta: Params, phi: Params) -> None:
        """Take over parameters.

        Args:
            theta: unstacked ``[...]``.
            phi: ``[...]``.
        """
        with torch.no_grad():
            for name, parameter in self.theta.items():
                parameter.copy_(theta[name])
            for name in self._names:  # learned step sizes, which are in phi too, adapt no more
                self.phi[_key(name)].copy_(phi[name])


def _key(name: str) -> str:
    """A parameter's name without the dots, which torch keeps for modules in modules."""
    return name.replace(".", "/")


class WarpedPolicy(ActorCriticPolicy):
    """An SB3 policy whose mean action, or logits, are our network's, bit for bit.

    Its warp layers are of any kind; the critic is SB3's.
    """

    def __init__(
        self,
        *args: Any,
        hidden: Sequence[int],
        warp: WarpKind | None,
        warped: Sequence[int] | None = None,  # files from before it existed have none
        **kwargs: Any,
    ):
        """``hidden``, ``warp``, ``warped`` are those of the PolicyConfig; the others are SB3's."""
        places = None if warped is None else tuple(warped)
        self._config = PolicyConfig(tuple(hidden), warp, warped=places)
        # SB3's own actor shrinks to the identity on observations; ours follows it.
        super().__init__(*args, **kwargs | {"net_arch": {"pi": [], "vf": list(hidden)}})

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        assert isinstance(self.action_space, Box | Discrete)
        policy = Policy(self.features_dim, _distribution(self.action_space), self._config)
        self.action_net = Actor(policy)
        settings: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **settings)

    def layers(self) -> list[Layer]:
        """See :meth:`Actor.layers`."""
        assert isinstance(self.action_net, Actor)
        return self.action_net.layers()

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | shape(self._config)


def shape(config: PolicyConfig) -> dict[str, Any]:
    """What a WarpedPolicy is built from besides what SB3 knows."""
    return {"hidden": config.hidden, "warp": config.warp, "warped": config.warped}


def _distribution(space: ActionSpace) -> ActionDistribution:
    return Categorical(int(space.n)) if isinstance(space, Discrete) else Gaussian(space.shape[0])
