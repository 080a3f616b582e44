"""Policies that act: a network together with its parameters, for any program with observations.

:class:`AdaptedPolicy` needs no environment and no run. It takes and gives NumPy arrays, speaks
Stable-Baselines3's ``predict``, and is saved without pickle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from warprl import checkpoint
from warprl import params as P
from warprl.agents.inner import AdaptationConfig, GradientAdaptation, Shard, adapt
from warprl.agents.policy import Policy, PolicyConfig
from warprl.agents.rollout import Actor, Memory, collect
from warprl.counts import brief, shown, whole
from warprl.keys import from_plain
from warprl.seeding import generator
from warprl.types import BatchEnv, Params, Spaces, Task

LARGEST = float(np.finfo(np.float32).max)
GROUPS = ("theta", "phi", "memory", "bounds", "episode")  # of tensors; an adapter has episodes

PolicyState: TypeAlias = "tuple[NDArray[np.float32], ...]"
"""What n rows of a policy with memory remember: the cell's tensors ``[n, W]``, and the previous
action ``[n, A]`` (before clipping) and reward ``[n, 1]``."""


@dataclass(frozen=True, eq=False)
class AdaptedPolicy:
    """A policy with its parameters, after any number of inner steps or none.

    Args:
        spaces: sizes of observations and actions, and the bounds to which actions are clipped.
        config: the shape of the network.
        theta: task parameters, unstacked.
        phi: warp parameters.
        memory: what a policy with memory begins every episode with, in one row; zeros if empty.
        seed: keys the random numbers of actions that are not deterministic.
        returns: mean returns of the adaptation that led here: before the first step, after it, ...

    >>> from warprl.agents.policy import PolicyConfig
    >>> from warprl.types import Spaces
    >>> policy = AdaptedPolicy.fresh(Spaces(3, 2, ((-1, -1), (1, 1))), PolicyConfig((8,)))
    >>> policy.act([0.1, 0.2, 0.3]).shape
    (2,)
    >>> actions, state = policy.predict(np.zeros((5, 3)))
    >>> actions.shape, state
    ((5, 2), None)
    """

    spaces: Spaces
    config: PolicyConfig
    theta: Params
    phi: Params
    memory: PolicyState = ()
    seed: int = 0
    returns: tuple[float, ...] = ()

    @classmethod
    def fresh(cls, spaces: Spaces, config: PolicyConfig, seed: int = 0) -> AdaptedPolicy:
        """A policy with random parameters.

        Args:
            spaces: sizes of observations and actions, and the bounds of actions.
            config: the shape of the network.
            seed: keys the parameters, and later the actions that are not deterministic.

        Returns:
            The policy.
        """
        theta, phi = Policy.for_spaces(spaces, config).init(generator(seed, "init"))
        return cls(spaces, config, theta, phi, seed=seed)

    @cached_property
    def network(self) -> Policy:
        """The network without its parameters."""
        return Policy.for_spaces(self.spaces, self.config)

    @property
    def remembers(self) -> bool:
        """Whether the policy has a memory."""
        return self.config.memory is not None

    def act(self, obs: ArrayLike, deterministic: bool = True) -> Any:
        """The action at one observation.

        Args:
            obs: ``[O]``.
            deterministic: the mean action, or the most likely choice; otherwise a random one.

        Returns:
            A float32 vector ``[A]``, clipped to the bounds; or a choice, as an int.

        Raises:
            ValueError: if the policy has a memory, or the observation another size or a number
                that is not finite.
        """
        if self.remembers:
            raise ValueError(
                "act: this policy has a memory, which act cannot carry on: call predict(obs, "
                "state, episode_start), or act with an adapter"
            )
        action, _ = self.predict(np.reshape(obs, -1), deterministic=deterministic)
        return int(action) if self.spaces.discrete else action

    def predict(
        self,
        observation: ArrayLike,
        state: PolicyState | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], PolicyState | None]:
        """The actions at observations, with the signature of Stable-Baselines3's ``predict``.

        A policy with memory begins each episode with its own ``memory``. It also sees the reward
        of the step before, which this signature has no place for: call :meth:`with_reward` on the
        state; otherwise the policy sees 0.

        Args:
            observation: one, ``[O]``, or several, ``[n, O]``.
            state: what the last call returned. None begins episodes.
            episode_start: ``[n]``, the rows whose episode begins at this observation.
            deterministic: mean actions or most likely choices; otherwise random ones.

        Returns:
            Actions ``[n, A]`` clipped to the bounds, or choices ``[n]``, without n for a single
            observation; and the next state, which without a memory is the one given.

        Raises:
            ValueError: if the observations have another size, or are not finite.
        """
        obs, single = self._rows(observation)
        memory, first = self._recall(state, episode_start, len(obs))
        everywhere = np.ones(len(obs), dtype=bool)

        # One task with n episodes.
        noise = torch.zeros(1, len(obs), self.spaces.act_size)
        if not deterministic:
            noise = torch.from_numpy(self.network.distribution.noise(self._random, 1, len(obs)))
        rows = torch.from_numpy(obs).unsqueeze(0)
        acted = self._actor.act(rows, memory, noise, everywhere, first)

        actions = to_environment(self.spaces, acted.action.squeeze(0).numpy())
        if self.remembers:
            unknown = np.zeros(len(obs), dtype=np.float32)
            state = memory.after(acted.state, acted.action, unknown, everywhere).to_arrays()
        return (actions[0] if single else actions), state

    def with_reward(self, state: PolicyState, reward: ArrayLike) -> PolicyState:
        """Tell a policy with memory the rewards of its last actions.

        Args:
            state: what the last :meth:`predict` returned.
            reward: ``[n]``.

        Returns:
            The state for the next :meth:`predict`.
        """
        rewards = np.asarray(reward, dtype=np.float32).reshape(state[-1].shape)
        return (*state[:-1], rewards)

    def save(self, folder: str | Path) -> Path:
        """Write the policy to a new folder: safetensors and JSON, with checksums.

        Args:
            folder: the folder.

        Returns:
            Where it was written: ``folder/0``.

        Raises:
            warprl.checkpoint.CheckpointError: if a policy is there already.
        """
        return checkpoint.save(Path(folder), 0, *saved_form(self, "policy"))

    @classmethod
    def load(cls, folder: str | Path) -> AdaptedPolicy:
        """Read what :meth:`save` wrote; neither the run nor its environment is needed.

        Args:
            folder: the folder that was given to :meth:`save`.

        Returns:
            The policy.

        Raises:
            warprl.checkpoint.CheckpointError: if there is no policy, or it is damaged.
        """
        return policy_from(read(Path(folder), "policy"))

    @cached_property
    def _actor(self) -> Actor:
        return Actor.of(self.network, P.broadcast(self.theta, 1), self.phi)

    @cached_property
    def _random(self) -> np.random.Generator:
        return generator(self.seed, "action")

    def _rows(self, observation: ArrayLike) -> tuple[NDArray[np.float32], bool]:
        """Observations as rows ``[n, O]``, and whether it was a single one."""
        obs = np.asarray(observation, dtype=np.float32)
        if obs.ndim not in (1, 2) or obs.shape[-1] != self.spaces.obs_size:
            size = self.spaces.obs_size
            raise ValueError(
                f"observations have shape {obs.shape}: should be ({size},), or (n, {size})"
            )
        if not np.isfinite(obs).all():
            wrong = int((~np.isfinite(obs)).sum())
            raise ValueError(
                f"observations should be finite: {wrong} of {obs.size} numbers are not"
            )
        return np.atleast_2d(obs), obs.ndim == 1

    def _recall(
        self, state: PolicyState | None, episode_start: ArrayLike | None, n: int
    ) -> tuple[Memory, Tensor]:
        """The memory of n rows, and which of them begin an episode, ``[1, n, 1]``."""
        own = Memory.before(self.network, self._actor.theta, self.phi, n)
        if self.memory:
            own = Memory.of_arrays([np.repeat(part, n, axis=0) for part in self.memory])
        if not self.remembers or state is None:
            return own, torch.ones(1, n, 1)
        starts = np.zeros(n, dtype=bool) if episode_start is None else np.asarray(episode_start)
        first = torch.from_numpy(np.broadcast_to(starts.astype(bool), n).copy()).view(1, n, 1)
        given = Memory.of_arrays(state)
        cell = zip(own.state, given.state, strict=True)
        memory = Memory(
            tuple(torch.where(first, new, old) for new, old in cell),
            torch.where(first, own.action, given.action),
            torch.where(first, own.reward, given.reward),
        )
        return memory, first.float()


def to_environment(spaces: Spaces, raw: NDArray[np.float32]) -> NDArray[Any]:
    """The policy's actions as an environment takes them.

    Args:
        spaces: the bounds of continuous actions.
        raw: ``[n, A]``; one-hot if actions are choices.

    Returns:
        Clipped actions ``[n, A]``, or the numbers of the choices, ``[n]``.
    """
    if spaces.bounds is None:
        return np.asarray(raw.argmax(-1))
    low, high = np.asarray(spaces.bounds, dtype=np.float32)
    clipped: NDArray[np.float32] = np.clip(raw, low, high)
    return clipped


def adapt_policy(
    env: BatchEnv, start: AdaptedPolicy, task: Task, config: AdaptationConfig, seed: int
) -> AdaptedPolicy:
    """The policy adapted to one task, by inner steps or by its memory.

    Args:
        env: ``config.episodes`` simulations; of a memory, one: it remembers a single trial.
        start: the policy to begin with.
        task: what to adapt to.
        config: how, with the number of steps; a memory plays so many episodes of a trial.
        seed: keys every random number.

    Returns:
        The policy after the last step, with the mean returns on the way.

    Raises:
        FloatingPointError: if the adaptation diverges.
    """
    shard = Shard([task], [0], seed, 0)
    if isinstance(config, GradientAdaptation):
        trajectory, _ = adapt(env, start.network, start.theta, start.phi, shard, config)
        finite, returns = bool(trajectory.finite[0]), trajectory.returns[0].tolist()
        found = replace(start, theta=P.select(trajectory.theta, 0, config.steps))
    else:
        found, returns, finite = _after_trial(env, start, shard, config.steps)
    if not finite:
        raise FloatingPointError(f"the adaptation to {task} diverges")
    return replace(found, seed=seed, returns=tuple(returns))


def _after_trial(
    env: BatchEnv, start: AdaptedPolicy, shard: Shard, episodes: int
) -> tuple[AdaptedPolicy, list[float], bool]:
    """The policy with the memory of a trial, its returns, and whether all of it is finite."""
    theta, memory, rollouts = P.broadcast(start.theta, 1), None, []
    for k in range(episodes):
        rollout, memory, _ = collect(env, start.network, theta, start.phi, shard.draws(k), memory)
        rollouts.append(rollout)
    returns = [float(rollout.reward.sum()) for rollout in rollouts]
    finite = bool(np.isfinite(returns).all()) and not any(bool(r.fault) for r in rollouts)
    found = start if memory is None else replace(start, memory=memory.to_arrays())
    return found, returns, finite


def saved_form(policy: AdaptedPolicy, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A policy as tensors under flat names, and the rest of it.

    Args:
        policy: the policy.
        kind: a word for what is saved, which :func:`read` asks for.

    Returns:
        The tensors, with the bounds of actions, which may be infinite; and plain JSON values.
    """
    memory = {str(i): torch.from_numpy(part) for i, part in enumerate(policy.memory)}
    tensors = (
        P.prefix("theta", policy.theta) | P.prefix("phi", policy.phi) | P.prefix("memory", memory)
    )
    if policy.spaces.bounds is not None:
        tensors["bounds"] = torch.tensor(policy.spaces.bounds, dtype=torch.float64)
    return tensors, {
        "kind": kind,
        "obs_size": policy.spaces.obs_size,
        "act_size": policy.spaces.act_size,
        "config": asdict(policy.config),
        "seed": policy.seed,
        "returns": list(policy.returns),
    }


def policy_from(saved: checkpoint.Checkpoint) -> AdaptedPolicy:
    """The inverse of :func:`saved_form`.

    Args:
        saved: a checkpoint of both.

    Returns:
        The policy.

    Raises:
        warprl.checkpoint.CheckpointError: if no policy was saved like that.
    """
    with usable(saved):
        tensors, document = saved.tensors, saved.document
        for name in tensors:
            if name.partition(".")[0] not in GROUPS:
                raise ValueError(f"{shown(name)} does not belong there")
        bounds = None
        if "bounds" in tensors:
            low, high = tensors["bounds"].tolist()
            bounds = tuple(low), tuple(high)
        policy = AdaptedPolicy(
            Spaces(document["obs_size"], document["act_size"], bounds),
            from_plain(PolicyConfig, document["config"]),
            P.subtree("theta", tensors),
            P.subtree("phi", tensors),
            tuple(tensor.numpy() for tensor in P.subtree("memory", tensors).values()),
            whole("seed", document["seed"], 0),
            tuple(map(_number, document["returns"])),
        )
        _require_possible(policy)
        return policy


@contextmanager
def usable(saved: checkpoint.Checkpoint) -> Iterator[None]:
    """Turn what goes wrong in the ``with`` block into CheckpointError, in one line.

    Args:
        saved: the checkpoint that is decoded there. Its checksums are right, but whoever forges one
            makes them right.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise checkpoint.CheckpointError(f"{saved.path} cannot be used: {brief(reason)}") from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is not a number")
    return value


def _require_possible(policy: AdaptedPolicy) -> None:
    """Raise ValueError, in one line, unless the parts of a policy fit together."""
    # What it sees and does.
    spaces = policy.spaces
    whole("obs_size", spaces.obs_size, 1)
    whole("act_size", spaces.act_size, 1)
    if spaces.bounds is not None:
        pairs = list(zip(*spaces.bounds, strict=True))
        ordered = all(low <= high for low, high in pairs)
        single = all(math.isinf(x) or abs(x) <= LARGEST for pair in pairs for x in pair)
        if len(pairs) != spaces.act_size or not ordered or not single:
            raise ValueError(f"bounds = {shown(spaces.bounds)}: not those of an action")

    # Its parameters: their number is compared first, before others of that number are made.
    policy.config.require_consistent()
    network, found = (
        policy.network,
        {**P.prefix("theta", policy.theta), **P.prefix("phi", policy.phi)},
    )
    if sum(tensor.numel() for tensor in found.values()) != sum(network.sizes):
        raise ValueError(f"it has other parameters than the {sum(network.sizes)} of its network")
    theta, phi = network.init(generator(0, "init"))
    P.require_like(found, {**P.prefix("theta", theta), **P.prefix("phi", phi)})

    # Its memory, if it has one.
    if policy.memory:
        empty = Memory.before(network, P.broadcast(theta, 1), phi, 1).to_arrays()
        shapes, expected = ([part.shape for part in parts] for parts in (policy.memory, empty))
        numbers = all(
            part.dtype == np.float32 and np.isfinite(part).all() for part in policy.memory
        )
        if not policy.remembers or shapes != expected or not numbers:
            raise ValueError("its memory is not that of its network")


def read(folder: Path, kind: str) -> checkpoint.Checkpoint:
    """The newest intact checkpoint of a folder, if it is of this kind.

    Args:
        folder: where it was saved.
        kind: the word for what was saved.

    Returns:
        The checkpoint.

    Raises:
        warprl.checkpoint.CheckpointError: if there is none, or it is of another kind.
    """
    saved = checkpoint.load(folder)
    found = saved.document.get("kind", "checkpoint of a run")
    if found != kind:
        word = shown(found).strip("'")
        raise checkpoint.CheckpointError(f"{saved.path} holds a {word} and not a {kind}")
    return saved
