"""The bridge to Stable-Baselines3: policies out, initialisations in, and its PPO as a reference.

An exported policy is an ordinary ``PPO`` model: ``PPO.load``, ``evaluate_policy`` and further
training work on it. Actions keep their unit: a family's environment divides what it is given by the
action scale, as the sampler's batch does, so that the scale is in no network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, TypeAlias
from zipfile import is_zipfile

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from warprl import params as P
from warprl.agents.distributions import (
    ActionDistribution,
    Categorical,
    Gaussian,
)
from warprl.agents.inner import AdaptationConfig
from warprl.agents.policy import Policy, PolicyConfig
from warprl.seeding import generator
from warprl.types import Params
from warprl.warp import WarpKind

Env = gymnasium.Env[Any, Any]
ActionSpace: TypeAlias = Box | Discrete[Any]
MakeEnv = Callable[[], Env]
Layer = tuple[Tensor, Tensor]  # weight [in, out] and bias [out]

_SAME: dict[type, tuple[type, str]] = {  # what SB3 calls our distributions
    Gaussian: (DiagGaussianDistribution, "Gaussian"),
    Categorical: (CategoricalDistribution, "discrete"),
}


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
        theta = P.broadcast(dict(self.theta.items()), 1)
        phi = {name: self.phi[_key(name)] for name in self._names}
        return self._policy.outputs(theta, phi, obs.unsqueeze(0)).squeeze(0)

    def layers(self) -> list[Layer]:
        """The layers of the plain network that acts alike, from observation to action.

        Raises ValueError, in one line, if its warps are of a kind that no such network has.
        """
        config = self._policy.config
        if config.warp not in (None, "linear"):
            raise ValueError(
                f"its warp layers are of kind {config.warp}, and an initialisation is task layers "
                "alone, into which only linear ones can be merged"
            )
        stacked = P.broadcast(P.detach(dict(self.theta.items())), 1)
        phi = {name: self.phi[_key(name)] for name in self._names}
        theta, _ = self._policy.fold(stacked, phi)
        last = len(config.hidden)
        return [(theta[f"weight_{n}"][0], theta[f"bias_{n}"][0]) for n in range(last + 1)]

    def copy(self, theta: Params, phi: Params) -> None:
        """Take over unstacked parameters."""
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
        # SB3's own actor shrinks to the identity on observations; ours stands behind it.
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
        return super()._get_constructor_parameters() | _shape(self._config)


def _shape(config: PolicyConfig) -> dict[str, Any]:
    """What a WarpedPolicy is built from besides what SB3 knows."""
    return {"hidden": config.hidden, "warp": config.warp, "warped": config.warped}


def to_ppo(policy: Policy, theta: Params, phi: Params, env: Env) -> PPO:
    """A PPO model for ``env`` whose actor is the policy under unstacked (theta, phi).

    Its critic is fresh and always the same: a meta-learned policy has none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PPO(WarpedPolicy, env, policy_kwargs=_shape(policy.config), device="cpu")
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
    in one line if it is no such file.
    """
    file = BytesIO(content)
    if not is_zipfile(file):
        raise ValueError("not a zip file")
    try:
        return PPO.load(file, device="cpu")
    except Exception as error:  # unpickling may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not a PPO model of Stable-Baselines3: {reason}") from error


def _distribution(space: ActionSpace) -> ActionDistribution:
    return Categorical(int(space.n)) if isinstance(space, Discrete) else Gaussian(space.shape[0])


def from_ppo(model: PPO, policy: Policy, action_space: ActionSpace) -> Params:
    """Unstacked theta whose actions are those of an SB3 MlpPolicy, or of :func:`to_ppo`'s.

    Warps come along only where they can be merged into the task layers, for theta is those alone.
    Where the model was trained with other action bounds, its actions are mapped linearly from those
    bounds to those of ``action_space``. The file does not tell what ``VecNormalize`` did to the
    observations: a model trained behind it acts on others here. Raises ValueError, in one line, for
    another architecture.
    """
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
    theta: Params = {}
    for number, (weight, bias) in enumerate(layers):
        theta[f"weight_{number}"] = weight.detach().clone()
        theta[f"bias_{number}"] = bias.detach().clone()
    for name in policy.distribution.names:
        theta[name] = getattr(actor, name).detach().clone()
    if not P.all_finite(theta):
        raise ValueError("its weights are not all finite")
    if isinstance(action_space, Discrete):
        return theta
    return _rescaled(theta, len(layers) - 1, model.action_space, action_space)


class TaskObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Appends the task's numbers, which ``info["task"]`` of a reset names, to the observation."""

    def __init__(self, env: Env, size: int) -> None:
        """``size`` is how many numbers a task has, those in its tuples included.

        Of tasks that have fewer, zeros take the place of the rest.
        """
        super().__init__(env)
        self._size = size
        (plain,) = env.observation_space.shape or ()
        self.observation_space = Box(-np.inf, np.inf, (plain + size,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        numbers = np.hstack(list(info["task"].values()))
        self._task = np.pad(numbers, (0, self._size - len(numbers)))
        return np.concatenate((observation, self._task)), info

    def step(self, action: Any) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Advance by one environment step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        seen = np.concatenate((observation, self._task))
        return seen, float(reward), terminated, truncated, info


def new_ppo(
    make_env: MakeEnv,
    policy: PolicyConfig,
    adaptation: AdaptationConfig,
    horizon: int,
    seed: int,
) -> PPO:
    """PPO from scratch, whose every update sees as many environment steps as one inner step.

    The network, its initial standard deviation, the discount and lambda are those of the agent that
    it is compared with; a minibatch holds ``horizon`` transitions; the rest are SB3's defaults.
    """
    envs = DummyVecEnv([make_env] * adaptation.episodes)
    model = PPO(
        "MlpPolicy", envs, n_steps=horizon, batch_size=horizon,
        gamma=adaptation.gamma, gae_lambda=adaptation.lam,
        policy_kwargs=_network(policy) | {"log_std_init": policy.log_std},
        seed=seed, device="cpu",
    )  # fmt: skip
    model.set_logger(Logger(None, []))  # SB3's own makes a folder somewhere
    return model


def take_over(model: PPO, trained: PPO) -> None:
    """Go on with another model's networks and optimiser, for fine-tuning."""
    parameters: dict[str, Any] = trained.get_parameters()
    model.set_parameters(parameters, device="cpu")


def learning_row(
    model: PPO, make_env: MakeEnv, steps: int, episodes: int, seed: int
) -> list[float]:
    """Mean returns before and after 1..``steps`` PPO updates: one row of an adaptation curve.

    As in our own curves actions are sampled, and each point is the mean of ``episodes`` episodes.
    They are played in environments apart, so that the model learns from the steps of its updates
    alone.
    """
    envs = DummyVecEnv([make_env] * episodes)
    envs.seed(seed)
    returns = [_mean_return(model, envs, episodes)]
    for k in range(steps):
        model.learn(model.n_steps * model.n_envs, reset_num_timesteps=k == 0)
        returns.append(_mean_return(model, envs, episodes))
    return returns


def _mean_return(model: PPO, envs: DummyVecEnv, episodes: int) -> float:
    mean, _ = evaluate_policy(model, envs, episodes, deterministic=False, warn=False)
    assert isinstance(mean, float)
    return mean


def _network(config: PolicyConfig) -> dict[str, Any]:
    """SB3's keyword arguments for the policy of this shape."""
    hidden = list(config.hidden)
    return {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": nn.Tanh}


def _require_network(actor: nn.Module, kind: type, distribution: ActionDistribution) -> None:
    """Raise ValueError unless it is of this very kind, on flat observations, and draws as we do."""
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
        raise ValueError(f"its hidden layers have {other} and Linear with Tanh alone are needed")
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
