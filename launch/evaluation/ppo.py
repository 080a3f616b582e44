"""Stable-Baselines3's PPO under the protocol of an evaluation, as a reference.

One PPO update takes as many environment steps as one inner step. The network, its initial standard
deviation, the discount and lambda are those of the run; the rest are SB3's defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from warprl.envs.vector import FamilyEnv
from warprl.launch.evaluation.curves import Curves
from warprl.launch.evaluation.evaluate import Protocol
from warprl.launch.evaluation.groups import Measured
from warprl.launch.runs.config import steps_per_iteration
from warprl.launch.runs.stored import StoredRun
from warprl.seeding import generator
from warprl.threads import one_thread
from warprl.types import Floats, Task

Env = gymnasium.Env[Any, Any]
MakeEnv = Callable[[], Env]


@dataclass(frozen=True)
class Likeness:
    """The settings that PPO shares with the run that it is compared with.

    ``pretrain_steps`` are the environment steps on the task distribution before any single task.
    """

    hidden: tuple[int, ...]
    log_std: float
    gamma: float
    lam: float
    pretrain_steps: int


def likeness(word: str, run: StoredRun) -> Likeness:
    """What a reference (``scratch``, ``finetuned`` or ``oracle``) takes from a run."""
    policy, adaptation = run.config.policy, run.config.adaptation
    trained = 0 if word == "scratch" else run.iteration * steps_per_iteration(run.config)
    return Likeness(policy.hidden, policy.log_std, adaptation.gamma, adaptation.lam, trained)


@one_thread()
def measure(word: str, run: StoredRun, protocol: Protocol, console: Console) -> Measured:
    """PPO like a run on every adaptation of a protocol.

    Args:
        word: ``scratch``, ``finetuned`` or ``oracle``, as in
            :data:`warprl.launch.evaluation.references.WORDS`.
        run: the run that it is compared with.
        protocol: the tasks, steps, episodes and the seed.
        console: shows how far it is.

    Returns:
        The curves, and how PPO was trained before them.
    """
    reference = _Reference(run.config.family, likeness(word, run), protocol)

    # First the training on the task distribution, then each adaptation.
    prepared = None
    if word != "scratch":
        with console.status(f"{word}: training on the task distribution"):
            prepared = reference.pretrained(sees_task=word == "oracle")
    rows = []
    with console.status("") as status:
        for number, (_, task) in enumerate(protocol.rows, 1):
            status.update(f"{word}: {number - 1} of {len(protocol.rows)} adaptations done")
            if prepared is not None and word == "oracle":
                rows.append(reference.constant_row(prepared, task, number))
            else:
                rows.append(reference.learning_row(prepared, task, number))

    returns = np.array(rows)
    return Measured.of(
        Curves(returns, np.isfinite(returns).all(axis=1), {}),
        seed=protocol.seed,
        agent="PPO of Stable-Baselines3",
        iteration=0,
        trained_inner_steps=0,
        env_steps=0.0 if prepared is None else float(prepared.num_timesteps),
        wall_s=None,
    )


@dataclass(frozen=True)
class _Reference:
    """How PPO is made, trained and measured for one protocol. Row 0 is the training before it."""

    family: str
    like: Likeness
    protocol: Protocol

    def pretrained(self, sees_task: bool) -> PPO:
        """PPO on the task distribution."""
        seed, _ = self._seeds(0)
        return self._new(self._environments(None, sees_task), seed).learn(self.like.pretrain_steps)

    def learning_row(self, begin: PPO | None, task: Task, number: int) -> list[float]:
        """Returns before and after each update on one task, from scratch or from another model."""
        seed, play = self._seeds(number)
        make_env = self._environments(task)
        model = self._new(make_env, seed)
        if begin is not None:
            take_over(model, begin)
        return learning_row(model, make_env, self.protocol.steps, self.protocol.episodes, play)

    def constant_row(self, trained: PPO, task: Task, number: int) -> list[float]:
        """The return of a model that sees the task, repeated for every point of the curve."""
        _, play = self._seeds(number)
        torch.manual_seed(play)
        make_env = self._environments(task, sees_task=True)
        (value,) = learning_row(trained, make_env, 0, self.protocol.episodes, play)
        return [value] * (self.protocol.steps + 1)

    def _new(self, make_env: MakeEnv, seed: int) -> PPO:
        horizon = self.protocol.family.horizon
        return new_ppo(make_env, self.like, self.protocol.episodes, horizon, seed)

    def _environments(self, task: Task | None, sees_task: bool = False) -> MakeEnv:
        """Makes the family's environment with one task, or with tasks drawn at every reset."""
        values = None if task is None else asdict(task)
        size = self.protocol.family.distribution.size

        def make_env() -> Env:
            env = FamilyEnv(self.family, values)
            return TaskObservation(env, size) if sees_task else env

        return make_env

    def _seeds(self, number: int) -> tuple[int, int]:
        """The seed with which a row learns, and the one with which its returns are measured."""
        drawn = generator(self.protocol.seed, "reset", task=number).integers(2**31, size=2)
        return int(drawn[0]), int(drawn[1])


def new_ppo(make_env: MakeEnv, like: Likeness, episodes: int, horizon: int, seed: int) -> PPO:
    """PPO from scratch, whose every update takes ``episodes * horizon`` environment steps.

    A minibatch holds ``horizon`` transitions.
    """
    hidden = list(like.hidden)
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([make_env] * episodes),
        n_steps=horizon,
        batch_size=horizon,
        gamma=like.gamma,
        gae_lambda=like.lam,
        policy_kwargs={
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation_fn": nn.Tanh,
            "log_std_init": like.log_std,
        },
        seed=seed,
        device="cpu",
    )
    model.set_logger(Logger(None, []))  # SB3's default logger creates a folder
    return model


def take_over(model: PPO, trained: PPO) -> None:
    """Copy another model's networks and optimiser into this one, for fine-tuning."""
    parameters: dict[str, Any] = trained.get_parameters()
    model.set_parameters(parameters, device="cpu")


def learning_row(
    model: PPO, make_env: MakeEnv, steps: int, episodes: int, seed: int
) -> list[float]:
    """Mean returns before and after 1..``steps`` PPO updates: one row of an adaptation curve.

    As in our own curves, actions are sampled, and each point is the mean of ``episodes`` episodes.
    These are played in separate environments, so that the model learns only from the steps of its
    updates.
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


class TaskObservation(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Appends the task's numbers, which ``info["task"]`` of a reset names, to the observation."""

    def __init__(self, env: Env, size: int) -> None:
        """``size`` is the number of numbers in a task, including those in its tuples.

        Tasks with fewer numbers are padded with zeros.
        """
        super().__init__(env)
        self._size = size
        (plain,) = env.observation_space.shape or ()
        self.observation_space = Box(-np.inf, np.inf, (plain + size,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        numbers = np.hstack(list(info["task"].values()))
        self._task = np.pad(numbers, (0, self._size - len(numbers)))
        return np.concatenate((observation, self._task)), info

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Advance by one environment step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        seen = np.concatenate((observation, self._task))
        return seen, float(reward), terminated, truncated, info
