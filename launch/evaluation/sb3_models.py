"""Policies as Stable-Baselines3's PPO models, and PPO models as initialisations.

An exported policy is an ordinary ``PPO`` model: ``PPO.load``, ``evaluate_policy`` and further
training work on it. Actions keep their unit: a family's environment divides what it is given by the
action scale, as the sampler's batch does, so that the scale is in no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any
from zipfile import is_zipfile

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from warprl import params as P
from warprl.agents.distributions import ActionDistribution, Categorical, Gaussian
from warprl.agents.policy import Policy
from warprl.agents.sb3 import ActionSpace, Actor, Layer, WarpedPolicy, shape
from warprl.types import Params

_SAME: dict[type, tuple[type, str]] = {  # what SB3 calls our distributions
    Gaussian: (DiagGaussianDistribution, "Gaussian"),
    Categorical: (CategoricalDistribution, "discrete"),
}


def to_ppo(policy: Policy, theta: Params, phi: Params, env: gymnasium.Env[Any, Any]) -> PPO:
    """A PPO model for ``env`` whose actor is the policy under unstacked (theta, phi).

    Its critic is fresh and always the same: a meta-learned policy has none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PPO(WarpedPolicy, env, policy_kwargs=shape(policy.config), device="cpu")
    actor = model.policy
    assert isinstance(actor, WarpedPolicy) and isinstance(actor.action_net, Actor)
    actor.action_net.copy(theta, phi)
    with torch.no_grad():
        for name in policy.distribution.names:
            getattr(actor, name).copy_(theta[name])
    return model


def save_ppo(model: PPO) -> bytes:
    """What ``model.save`` writes to a file."""
    buffer = BytesIO()
    model.save(buffer)
    return buffer.getvalue()


def load_ppo(content: bytes) -> PPO:
    """The PPO model in the bytes of a file of Stable-Baselines3.

    Such files hold pickled objects: loading one runs what its author put into it. Raises ValueError
    in one line if this is any other file.
    """
    file = BytesIO(content)
    if not is_zipfile(file):
        raise ValueError("not a zip file")
    try:
        return PPO.load(file, device="cpu")
    except Exception as error:  # unpickling may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not a PPO model of Stable-Baselines3: {reason}") from error


def from_ppo(model: PPO, policy: Policy, action_space: ActionSpace) -> Params:
    """Unstacked theta whose actions are those of an SB3 MlpPolicy, or of :func:`to_ppo`'s.

    Warps are imported only if they can be merged into the task layers, because theta holds only
    those. If the model was trained with other action bounds, its actions are mapped linearly from
    those bounds to those of ``action_space``. The file does not say how ``VecNormalize`` changed
    the observations, so a model that was trained behind it sees other observations here. Raises
    ValueError, in one line, for another architecture.
    """
    # Its layers, if it is a network like ours.
    actor = model.policy
    if isinstance(actor, WarpedPolicy):
        _require_network(actor, WarpedPolicy, policy.distribution)
        layers = actor.layers()
    else:
        _require_network(actor, ActorCriticPolicy, policy.distribution)
        layers = _mlp_layers(actor)
    found = (len(layers[0][0]), *(len(bias) for _, bias in layers))
    if found != policy.widths:
        raise ValueError(
            f"its layers are {_arrows(found)}, from observation to action, "
            f"and {_arrows(policy.widths)} are needed"
        )

    # The parameters under our names, with actions in our unit.
    theta: Params = {}
    for number, (weight, bias) in enumerate(layers):
        theta |= {f"weight_{number}": weight, f"bias_{number}": bias}
    theta |= {name: getattr(actor, name) for name in policy.distribution.names}
    theta = P.tree_map(lambda tensor: tensor.detach().clone(), theta)
    if not P.all_finite(theta):
        raise ValueError("its weights are not all finite")
    if isinstance(action_space, Discrete):
        return theta
    return _rescaled(theta, len(layers) - 1, model.action_space, action_space)


def _require_network(actor: nn.Module, kind: type, distribution: ActionDistribution) -> None:
    """Raise ValueError unless it is exactly this kind, with flat observations and our actions."""
    wanted, name = _SAME[type(distribution)]
    if (
        type(actor) is not kind  # a subclass may do anything
        or type(actor.pi_features_extractor) is not FlattenExtractor
        or type(actor.action_dist) is not wanted
    ):
        raise ValueError(
            f"an MlpPolicy with {name} actions is needed, and this is of type "
            f"{type(actor).__name__} with {type(getattr(actor, 'action_dist', None)).__name__}"
        )


def _mlp_layers(actor: ActorCriticPolicy) -> list[Layer]:
    """The layers of an MlpPolicy, from observation to action. Raises ValueError without tanh."""
    names = [type(layer).__name__ for layer in actor.mlp_extractor.policy_net]
    if names != ["Linear", "Tanh"] * (len(names) // 2):
        other = next((name for name in names if name not in ("Linear", "Tanh")), "no activation")
        raise ValueError(f"its hidden layers have {other}, and only Linear with Tanh can be used")
    assert isinstance(actor.action_net, nn.Linear)
    hidden = [layer for layer in actor.mlp_extractor.policy_net if isinstance(layer, nn.Linear)]
    return [(layer.weight.T.contiguous(), layer.bias) for layer in (*hidden, actor.action_net)]


def _rescaled(theta: Params, last: int, given: gymnasium.Space[Any], wanted: Box) -> Params:
    """The same policy after the linear map from one space's bounds to another's."""
    assert isinstance(given, Box)
    if np.array_equal(given.low, wanted.low) and np.array_equal(given.high, wanted.high):
        return theta
    if not (given.is_bounded() and wanted.is_bounded()):
        raise ValueError(
            "action bounds differ and are not finite, so the scale of its actions is unknown"
        )
    scale = (wanted.high - wanted.low) / (given.high - given.low)
    ratio, offset = torch.from_numpy(scale), torch.from_numpy(wanted.low - scale * given.low)
    return theta | {
        f"weight_{last}": theta[f"weight_{last}"] * ratio,
        f"bias_{last}": theta[f"bias_{last}"] * ratio + offset,
        "log_std": theta["log_std"] + ratio.log(),
    }


def _arrows(widths: Sequence[int]) -> str:
    return "-".join(map(str, widths))
