"""Adaptation in your own loop: a real robot, or a simulator that this package does not know.

:class:`Adapter` acts, is told what came of it, and takes inner steps: the same steps, on the same
data, as :func:`warprl.agents.inner.adapt` takes on a batch of simulations. Beneath it are pure
functions of recorded episodes (:func:`rollout_of`, :func:`inner_update`) and a
:class:`Recorder` of one task; a loop over several tasks at once needs one recorder for each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from warprl import checkpoint
from warprl import params as P
from warprl.agents.adapted import (
    AdaptedPolicy,
    policy_from,
    read,
    saved_form,
    to_environment,
    usable,
)
from warprl.agents.inner import (
    MAX_EPISODES,
    AdaptationConfig,
    GradientAdaptation,
    MemoryAdaptation,
    step_each,
    to_batch,
)
from warprl.agents.losses import InnerLoss
from warprl.agents.policy import Policy
from warprl.agents.rollout import Acted, Actor, Memory
from warprl.counts import shown, whole
from warprl.keys import from_plain
from warprl.seeding import generator
from warprl.types import Params, Rollout

FIRST_ROWS = 256  # steps for which noise is drawn at first; more are drawn when they are needed

_ALIVE = np.ones(1, dtype=bool)

log = logging.getLogger(__name__)


class Episode(NamedTuple):
    """One whole episode of L steps."""

    obs: Tensor  # [L, S], what the network sees
    act: Tensor  # [L, A], before clipping; one-hot if actions are choices
    reward: Tensor  # [L]
    terminated: bool


class Recorder:
    """Cuts the steps of one task into episodes."""

    def __init__(self, episodes: Sequence[Episode] = ()) -> None:
        """Begin with these whole episodes."""
        self.episodes = tuple(episodes)
        self._steps: list[tuple[NDArray[np.float32], NDArray[np.float32], float]] = []

    @property
    def steps(self) -> int:
        """How many steps the episode under way has; 0 between episodes."""
        return len(self._steps)

    def record(
        self, obs: ArrayLike, act: ArrayLike, reward: float, terminated: bool, truncated: bool
    ) -> None:
        """Add one step, and end the episode if it terminated or was truncated.

        Args:
            obs: what the network saw, ``[S]``.
            act: what it did, ``[A]``, before clipping; one-hot if actions are choices.
            reward: what came of it.
            terminated: whether the task's end was reached.
            truncated: whether the episode was cut off.
        """
        seen, did = (np.array(values, dtype=np.float32) for values in (obs, act))
        self._steps.append((seen, did, reward))
        if terminated or truncated:
            columns = zip(*self._steps, strict=True)
            obs, act, rewards = (torch.from_numpy(np.array(column)) for column in columns)
            whole = Episode(obs, act, rewards.float(), terminated)
            self.episodes, self._steps = (*self.episodes, whole), []


def rollout_of(
    policy: Policy, theta: Params, phi: Params, tasks: Sequence[Sequence[Episode]]
) -> Rollout:
    """Recorded episodes of T tasks as one rollout, padded to the longest.

    Args:
        policy: the network that acted.
        theta: the parameters that acted, stacked ``[T, ...]``.
        phi: the warp parameters.
        tasks: the episodes of each task, E of each.

    Returns:
        The rollout ``[T, E, L, ...]``.

    Raises:
        ValueError: if tasks differ in how many episodes they have.
    """
    every = [episode for episodes in tasks for episode in episodes]
    (number,) = {len(episodes) for episodes in tasks}
    shape = len(tasks), number

    # What was recorded, followed by zeros up to the longest episode.
    def padded(steps: Iterable[Tensor]) -> Tensor:
        rows = pad_sequence(list(steps), batch_first=True)
        return rows.view(*shape, *rows.shape[1:])

    obs, act = padded(e.obs for e in every), padded(e.act for e in every)
    reward = padded(e.reward for e in every)
    valid = padded(torch.ones_like(e.reward) for e in every)

    # How likely the actions were under the parameters that took them.
    with torch.no_grad():
        logp = policy.log_prob(theta, phi, obs.flatten(1, 2), act.flatten(1, 2)).view_as(reward)
    terminated = torch.tensor([e.terminated for e in every]).view(shape)
    fault = torch.zeros(len(tasks), dtype=torch.bool)
    return Rollout(obs, act, logp, reward, valid, terminated, fault)


def inner_update(
    policy: Policy, theta: Params, phi: Params, rollout: Rollout, config: GradientAdaptation
) -> tuple[Params, Tensor]:
    """One inner step of each task; a step that is not finite is not taken.

    Args:
        policy: the network.
        theta: stacked ``[T, ...]``.
        phi: the warp parameters.
        rollout: the episodes of each task under its own theta.
        config: step sizes, and how advantages are estimated.

    Returns:
        The next theta ``[T, ...]``, and which tasks took their step, bool ``[T]``.
    """
    batch = to_batch(rollout, config, policy.obs_dim)
    stepped = step_each(InnerLoss(policy), theta, phi, batch, config.step_sizes(policy))
    taken = P.finite_rows(stepped) & P.finite_rows(batch._asdict())
    return P.where(taken, stepped, theta), taken


@dataclass(frozen=True, eq=False)
class AdapterState:
    """All that an adapter has learned, between two episodes."""

    theta: Params  # unstacked
    memory: Memory | None  # of an agent that adapts by it, after its first episode
    k: int  # updates so far; of an agent that adapts by memory, episodes so far
    episodes: tuple[Episode, ...]  # since the last update; of a memory, the last one at most
    count: int  # of episodes and updates so far: it names what is saved


class Adapter:
    """Adapts a policy to one task, in a loop that the caller runs.

    >>> from warprl.agents.policy import PolicyConfig
    >>> from warprl.types import Spaces
    >>> policy = AdaptedPolicy.fresh(Spaces(1, 2), PolicyConfig((8,)))  # two choices
    >>> adapter = Adapter(policy, GradientAdaptation(episodes=2))
    >>> for episode in range(2):
    ...     for step in range(5):
    ...         choice = adapter.act([0.0])
    ...         adapter.observe(float(choice == 1), terminated=False, truncated=step == 4)
    >>> adapter.ready, adapter.update()
    (True, True)
    >>> round(float(adapter.policy.theta["bias_1"].diff()), 2) > 0  # the other choice is likelier
    True

    An agent that adapts by inner steps explores with one theta until :meth:`update`; a memory
    inside its network begins anew with each episode. An agent that adapts by memory (RL^2) carries
    it through all episodes, which are those of one trial: it adapts while it acts, and
    :meth:`update` has nothing left to do.
    """

    _state: AdapterState
    _recorder: Recorder
    _memory: Memory  # before the next step
    _acted: Acted | None  # the action that waits for its reward

    def __init__(
        self,
        policy: AdaptedPolicy,
        adaptation: AdaptationConfig,
        seed: int = 0,
        episodes: int | None = None,
    ) -> None:
        """Begin with a policy that has not adapted yet.

        Args:
            policy: theta_0 and phi.
            adaptation: how it adapts.
            seed: keys the random numbers of exploration.
            episodes: how many an update is to have, by default as many as in training; 1 for an
                agent that adapts by memory, each of whose episodes is a step of its adaptation.

        Raises:
            ValueError: if ``seed`` or ``episodes`` is no whole number or out of range.
        """
        self.by_memory = isinstance(adaptation, MemoryAdaptation)
        default = 1 if self.by_memory else adaptation.episodes
        number = default if episodes is None else episodes
        self.episodes = whole("episodes", number, 1, MAX_EPISODES)
        if self.by_memory and self.episodes != 1:
            raise ValueError(f"episodes = {episodes}: must be 1 for an agent that adapts by memory")
        self.seed = whole("seed", seed, 0)
        self._start, self._adaptation = policy, adaptation
        self._network = policy.network
        self._noise = _Noise(policy.network, self.seed, self.episodes)
        self.restore(AdapterState(policy.theta, None, 0, (), 0))

    def act(self, obs: ArrayLike) -> Any:
        """The action to explore with at this observation.

        Args:
            obs: ``[O]``.

        Returns:
            A float32 vector ``[A]``, clipped to the bounds; or a choice, as an int.

        Raises:
            RuntimeError: if the last action was not observed.
            ValueError: if the observation has another size or is not finite.
        """
        if self._acted is not None:
            raise RuntimeError("act: call observe(reward, terminated, truncated) after each act")
        row = np.asarray(obs, dtype=np.float32).reshape(-1)
        if len(row) != self._network.obs_dim or not np.isfinite(row).all():
            raise ValueError(
                f"act: the observation should be {self._network.obs_dim} finite numbers, "
                f"got {np.asarray(obs).tolist()}"
            )

        # One task with one episode at a time.
        step = self._recorder.steps
        episode = 0 if self.by_memory else len(self._state.episodes)
        noise = self._noise.at(self._state.k, episode, step)
        seen = torch.from_numpy(row).view(1, 1, -1)
        self._acted = self._actor.act(seen, self._memory, noise, _ALIVE, step == 0)

        action = to_environment(self._start.spaces, self._acted.action[0].numpy())[0]
        return int(action) if self._start.spaces.discrete else action

    def observe(self, reward: float, terminated: bool, truncated: bool = False) -> None:
        """Tell what came of the last action.

        Args:
            reward: its reward.
            terminated: whether the task's end was reached.
            truncated: whether the episode was cut off, by a time limit or by hand.

        Raises:
            RuntimeError: if there is no action to observe.
            ValueError: if the reward is no number; the action still waits for it.
        """
        if self._acted is None:
            raise RuntimeError("observe: there is no action to observe: call act(obs) first")
        reward, terminated, truncated = _outcome(reward, terminated, truncated)
        acted, self._acted = self._acted, None
        if self._start.remembers:
            rewards = np.array([reward], dtype=np.float32)
            self._memory = self._memory.after(acted.state, acted.action, rewards, _ALIVE)
        row = acted.seen.flatten().numpy(), acted.action.flatten().numpy()
        self._recorder.record(*row, reward, terminated, truncated)
        if terminated or truncated:
            self.restore(self._after_episode())

    def update(self) -> bool:
        """Take one inner step on the episodes since the last one, whatever their number is.

        An agent that adapts by memory takes none: it has adapted while it acted. So one program
        serves both kinds of agents.

        Returns:
            Whether a step was taken. A step that is not finite is not: theta stays, the episodes
            are dropped, and a warning is logged.

        Raises:
            RuntimeError: if an episode is under way, or there is no whole one.
        """
        self._require_between("update")
        state, phi = self._state, self._start.phi
        if not state.episodes:
            raise RuntimeError("update: no whole episode was observed since the last update")
        if not isinstance(self._adaptation, GradientAdaptation):
            self.restore(replace(state, episodes=(), count=state.count + 1))
            return False

        # The step, on all episodes since the last one.
        stacked = self._actor.theta
        rollout = rollout_of(self._network, stacked, phi, [state.episodes])
        theta, taken = inner_update(self._network, stacked, phi, rollout, self._adaptation)

        # It may not have been taken; the adaptation goes on in any case.
        if not taken:
            cause = "a reward is not finite"
            if torch.isfinite(rollout.reward).all():
                cause = f"theta would not be finite with inner_lr = {self._adaptation.inner_lr:g}"
            log.warning("update %d is not taken: %s", state.k + 1, cause)
        self.restore(AdapterState(P.select(theta, 0), None, state.k + 1, (), state.count + 1))
        return bool(taken)

    def discard(self) -> None:
        """Drop the episode under way, as if it had never begun."""
        self.restore(self._state)

    @property
    def ready(self) -> bool:
        """Whether as many episodes are there as an update is to have."""
        return len(self._state.episodes) >= self.episodes

    @property
    def policy(self) -> AdaptedPolicy:
        """The policy as it has adapted so far, to act with and to save."""
        carried = self._state.memory
        memory = self._start.memory if carried is None else carried.to_arrays()
        return replace(self._start, theta=self._state.theta, memory=memory, seed=self.seed)

    def state(self) -> AdapterState:
        """Where the adaptation stands.

        Returns:
            What :meth:`restore` takes.

        Raises:
            RuntimeError: if an episode is under way.
        """
        self._require_between("state")
        return self._state

    def restore(self, state: AdapterState) -> None:
        """Go on from a state, with the same random numbers as if never interrupted.

        Args:
            state: what :meth:`state` returned, of this adapter or of one made alike.
        """
        network, phi = self._network, self._start.phi
        self._state = state
        self._actor = Actor.of(network, P.broadcast(state.theta, 1), phi)
        self._recorder = Recorder(state.episodes)
        self._acted = None
        self._memory = state.memory or Memory.before(network, self._actor.theta, phi, 1)
        if self._start.memory and not state.memory:
            self._memory = Memory.of_arrays(self._start.memory)

    def save(self, folder: str | Path) -> Path:
        """Write all of it, between two episodes: safetensors and JSON, with checksums.

        Args:
            folder: the folder; several states may be saved in it.

        Returns:
            Where it was written: ``folder/<episodes and updates so far>``. The two newest stay.

        Raises:
            RuntimeError: if an episode is under way.
            warprl.checkpoint.CheckpointError: if this state is saved there already.
        """
        state = self.state()
        tensors, document = saved_form(self.policy, "adapter")
        for number, episode in enumerate(state.episodes):
            found = {"obs": episode.obs, "act": episode.act, "reward": episode.reward}
            tensors |= P.prefix(f"episode.{number}", found)
        document |= {
            "adaptation": asdict(self._adaptation),
            "episodes": self.episodes,
            "k": state.k,
            "terminated": [episode.terminated for episode in state.episodes],
        }
        return checkpoint.save(Path(folder), state.count, tensors, document)

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Go on with the newest adaptation that :meth:`save` wrote, in any process.

        Args:
            folder: the folder that was given to :meth:`save`.

        Returns:
            The adapter, between two episodes.

        Raises:
            warprl.checkpoint.CheckpointError: if there is none, or it is damaged.
        """
        saved = read(Path(folder), "adapter")
        policy, document = policy_from(saved), saved.document
        with usable(saved):
            adaptation = _adaptation_from(document["adaptation"])
            adapter = cls(policy, adaptation, document["seed"], document["episodes"])
            episodes = tuple(
                _episode(adapter._network, P.subtree(f"episode.{number}", saved.tensors), ended)
                for number, ended in enumerate(document["terminated"])
            )
            k = whole("k", document["k"], 0)
            adapter.restore(AdapterState(policy.theta, None, k, episodes, saved.iteration))
            return adapter

    def _after_episode(self) -> AdapterState:
        episodes, count = self._recorder.episodes, self._state.count + 1
        if self.by_memory:
            k = self._state.k + 1
            return AdapterState(self._state.theta, self._memory, k, episodes[-1:], count)
        return replace(self._state, episodes=episodes, count=count)

    def _require_between(self, call: str) -> None:
        if self._recorder.steps or self._acted is not None:
            raise RuntimeError(
                f"{call}: an episode is under way: end it with observe(reward, terminated, "
                "truncated=True), or drop it with discard()"
            )


def _outcome(reward: Any, terminated: Any, truncated: Any) -> tuple[float, bool, bool]:
    """What :meth:`Adapter.observe` is told, as plain values."""
    try:
        return float(reward), bool(terminated), bool(truncated)
    except (TypeError, ValueError):
        raise ValueError(
            f"observe: reward = {shown(reward)}, terminated = {shown(terminated)}, truncated = "
            f"{shown(truncated)}: should be a number and two bools"
        ) from None


class _Noise:
    """The noise of a rollout's actions, drawn as :func:`warprl.agents.rollout.collect` draws it.

    It is a function of its place alone, so that nothing of it needs to be saved.
    """

    def __init__(self, policy: Policy, seed: int, episodes: int) -> None:
        self._policy, self._seed, self._episodes = policy, seed, episodes
        self._key, self._block = (-1, -1), np.zeros((0, 0, 0), dtype=np.float32)

    def at(self, k: int, episode: int, step: int) -> Tensor:
        """The noise ``[1, 1, A]`` of one step, of however long an episode."""
        turn, place = divmod(episode, self._episodes)
        if self._key != (k, turn) or step >= len(self._block):
            # A longer block begins like a shorter one, for steps come first.
            rows = FIRST_ROWS
            while rows <= step:
                rows *= 2
            rng = generator(self._seed, "action", task=turn, k=k)
            self._block = self._policy.distribution.noise(rng, rows, self._episodes)
            self._key = k, turn
        return torch.from_numpy(self._block[step, place]).view(1, 1, -1)


def _adaptation_from(document: Mapping[str, Any]) -> AdaptationConfig:
    """The inverse of ``asdict``. Raises ValueError for what it never gives."""
    if document["type"] == "memory":
        return from_plain(MemoryAdaptation, document)
    return from_plain(GradientAdaptation, document)


def _episode(network: Policy, tensors: Params, terminated: Any) -> Episode:
    """A stored episode. Raises ValueError unless the network can have played it."""
    steps = len(tensors["reward"])
    like = {
        "obs": torch.zeros(steps, network.input_dim),
        "act": torch.zeros(steps, network.act_dim),
        "reward": torch.zeros(steps),
    }
    for name, tensor in tensors.items():
        if name not in like or (tensor.shape, tensor.dtype) != (like[name].shape, torch.float32):
            raise ValueError(f"{shown(name)} is not that of an episode of {steps} steps")
    if not steps or not isinstance(terminated, bool):
        raise ValueError(
            f"terminated = {shown(terminated)}: should be true or false, of some steps"
        )
    return Episode(**tensors, terminated=terminated)
