"""Task families of any registered Gymnasium environment, on Gymnasium's own vector environments.

A user defines a family as an object in a module, and names it ``package.module:FAMILY`` wherever
WarpRL takes a family. ``docs/custom_family.md`` has a worked example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.spaces.utils import flatdim, flatten_space
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray
from PIL import Image, ImageOps

from warprl.envs.family import ActionSpace, Definition, RenderableBatch, TaskFamily
from warprl.envs.screen import Picture, Screen
from warprl.envs.splits import Split, make_split
from warprl.envs.tasks import TaskT
from warprl.types import Bools, EnvStep, Floats, Generators, Ids, Task

Env = gymnasium.Env[Any, Any]

_MAX_SEED = 2**31


class GymFamily(TaskFamily, Generic[TaskT]):
    """Tasks that differ in what ``set_task`` does to a registered Gymnasium environment.

    Results have the same bits for any number of workers and neighbours if the environment keeps two
    promises. After ``reset(seed=...)``, everything that happens in an episode follows from the
    seed, the task and the actions: the environment draws from its ``np_random`` alone and carries
    nothing over from earlier episodes. And ``set_task``, which is called before each episode on an
    environment that may have had any other task, sets values and never scales the present ones.

    The policy's output is clipped to a Box of actions; ``policy.log_std`` sets how wide it explores
    at first. The policy draws one of Discrete actions. Observations are flattened.
    """

    action_scale = 1.0
    distribution: Split

    def __init__(
        self,
        name: str,
        env_id: str,
        tasks: Callable[[np.random.Generator], TaskT] | Sequence[TaskT] | Split,
        set_task: Callable[[Env, TaskT], None],
        horizon: int | None = None,
        held_out: Sequence[TaskT] | None = None,
    ) -> None:
        """Make one environment, for its spaces.

        Args:
            name: the name of the family; with other ``tasks`` come other held-out tasks, so give
                the family a new name then.
            env_id: the id of a registered environment.
            tasks: a function that draws one task, a frozen dataclass of numbers, from a generator;
                or the list of all tasks. A :class:`Split` decides about training and evaluation by
                itself, and may find its tasks when they are first needed: a worker is sent its
                tasks, and so never asks for them.
            set_task: puts a task into an environment.
            horizon: H, which takes the place of the registered step limit; by default equal to it.
            held_out: tasks for evaluation that are never trained on. By default, 40 draws of a
                function under a fixed seed are held out, and a list serves training and evaluation
                alike.

        Raises:
            ValueError: in one line, if the actions are neither a Box of floats nor Discrete, the
                observations cannot be flattened into a Box or there is no step limit; or if tasks
                are too few, not finite numbers, or both trained on and held out.
        """
        self.name = name
        self.env_id = env_id
        self.set_task: Callable[[Env, Any], None] = set_task
        self.horizon = self._require_horizon(horizon)

        # Ask one environment for its spaces, and for what the card and the videos need.
        env = self.make_env()
        self.env_action_space = self._require_actions(env.action_space)
        self.action_space = _flat(self.env_action_space)
        assert isinstance(env.observation_space, Box)
        low, high = env.observation_space.low, env.observation_space.high
        self.observation_space = Box(
            low.astype(np.float64), high.astype(np.float64), dtype=np.float64
        )
        self.draws = "rgb_array" in (env.metadata.get("render_modes") or ())
        self.dt = 1.0 / (env.metadata.get("render_fps") or 1.0)
        self._frame_skip = getattr(env.unwrapped, "frame_skip", 1)
        env.close()  # type: ignore[no-untyped-call]

        try:
            self.distribution = make_split(tasks, held_out)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def make_env(self, render_mode: str | None = None) -> Env:
        """Make one environment with flat observations, which is truncated at the horizon.

        Args:
            render_mode: Gymnasium's; None for an environment that does not draw.

        Returns:
            The environment.

        Raises:
            ValueError: the observations cannot be flattened into a Box.
        """
        drawing = {} if render_mode is None else {"render_mode": render_mode}
        env: Env = gymnasium.make(
            self.env_id, max_episode_steps=self.horizon, disable_env_checker=True, **drawing
        )

        # Gymnasium flattens some spaces into something else than a Box, and others not at all.
        try:
            flat: object = flatten_space(env.observation_space)
        except NotImplementedError:
            flat = None
        if not isinstance(flat, Box):
            raise ValueError(
                f"{self.name}: the observations of {self.env_id} must flatten into a Box, "
                f"and are {env.observation_space}"
            )
        return FlattenObservation(env)

    def held_out_tasks(self) -> list[Task]:
        """The tasks for evaluation."""
        return list(self.distribution.held_out)

    def make_batch(self, num_envs: int) -> GymBatch:
        """``num_envs`` environments that are stepped one after the other."""
        return GymBatch(self, num_envs)

    def screen(self, task: Task, size: int) -> Screen:
        """The environment's own pictures; see the base class."""
        return GymScreen(self, task, size)

    def definition(self) -> Definition:
        """The definition card; for the rest it refers to the environment's documentation."""
        its = f"that of {self.env_id}"
        return self.card(
            self._frame_skip,
            reward=its,
            observation=f"{its} ({self.observation_space.shape[0]}), flattened",
            action=f"{its} {self._action_text}",
            initial_state=f"{its} after reset(seed=...)",
            termination=f"{its}; the horizon truncates",
            physics=f"{self.env_id} of Gymnasium {gymnasium.__version__}, stepped one by one",
            differences=f"from {self.env_id}: what the task sets, and the horizon",
            source=f"{self.set_task.__module__}.{self.set_task.__qualname__}",
        )

    @property
    def held_out_text(self) -> str:
        """What the card says about the tasks for evaluation."""
        return self.distribution.held_out_text

    @property
    def _action_text(self) -> str:
        if isinstance(self.action_space, Discrete):
            return f"({self.action_space.n} to choose from)"
        size = self.action_space.shape[0]
        return f"({size}), to whose range the policy's output is clipped"

    def _require_horizon(self, horizon: int | None) -> int:
        steps = gymnasium.spec(self.env_id).max_episode_steps if horizon is None else horizon
        if steps is None:
            raise ValueError(f"{self.name}: {self.env_id} has no step limit: give a horizon")
        if steps < 1:
            raise ValueError(f"{self.name}: the horizon must be at least 1, got {steps}")
        return steps

    def _require_actions(self, space: gymnasium.Space[Any]) -> ActionSpace:
        if isinstance(space, Discrete):
            return space
        if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
            return space
        raise ValueError(
            f"{self.name}: the actions of {self.env_id} must be a Box of floats or Discrete, "
            f"and are {space}"
        )


class GymBatch(RenderableBatch):
    """N environments of a :class:`GymFamily`; see :class:`warprl.types.BatchEnv`.

    The seeds of a task's episodes are drawn from its generator, as many numbers below 2^31. An
    environment whose episode ended starts an unseeded one in its next step, which callers mask.
    """

    def __init__(self, family: GymFamily[Any], num_envs: int) -> None:
        """Raises ValueError if ``num_envs`` is not positive."""
        super().__init__(num_envs, family.horizon)
        self._family = family
        self._envs: Any = SyncVectorEnv(  # its methods are not annotated with what they return
            [family.make_env] * num_envs, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP
        )
        self._seeds = np.zeros(num_envs, dtype=np.int64)
        width = flatdim(family.action_space)
        self._actions = np.zeros((num_envs, family.horizon, width), np.float32)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._running = np.zeros(num_envs, dtype=np.bool_)
        self._faults = np.zeros(num_envs, dtype=np.bool_)

    def _restart(self, ids: Ids, tasks: Sequence[Task], generators: Generators) -> Floats:
        """Start a new episode in environments ``ids``; see the base class."""
        # Draw the seeds and set the tasks.
        episodes = len(ids) // len(tasks)
        self._seeds[ids] = np.concatenate(
            [g.integers(_MAX_SEED, size=episodes) for g in generators]
        )
        for position, i in enumerate(ids):
            self._family.set_task(self._envs.envs[i], tasks[position // episodes])

        # Reset these environments and no others.
        chosen = np.zeros(self.num_envs, dtype=np.bool_)
        chosen[ids] = True
        options = None if chosen.all() else {"reset_mask": chosen}
        observation, _ = self._envs.reset(seed=self._seeds.tolist(), options=options)
        self._steps[ids] = 0
        self._running[ids] = True
        self._faults[ids] = False
        return np.asarray(observation[ids], np.float64)

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Advance every environment by one step; see :class:`warprl.types.BatchEnv`.

        Args:
            action: ``[N, A]``; one-hot if the actions are Discrete.

        Returns:
            Observations ``[N, O]``, rewards ``[N]`` and terminations ``[N]``.

        Raises:
            RuntimeError: an environment truncated an episode before the horizon, which the sampler
                would take for a termination.
        """
        running = np.flatnonzero(self._running)
        self._actions[running, self._steps[running]] = action[running]
        observation, reward, terminated, truncated, _ = self._envs.step(
            _fit(action, self._family.env_action_space)
        )
        self._steps[running] += 1

        # Refuse an episode that was cut short.
        early = self._running & truncated & ~terminated & (self._steps < self.horizon)
        if early.any():
            raise RuntimeError(
                f"{self._family.name}: {self._family.env_id} truncated an episode after "
                f"{self._steps[early][0]} steps: give the family that horizon, not {self.horizon}"
            )

        # Note faults, and which episodes go on.
        finite = np.isfinite(observation).all(axis=1) & np.isfinite(reward)
        for i in running:
            self._faults[i] |= not finite[i] or _warned(self._envs.envs[i])
        self._running &= ~(terminated | truncated)
        return observation.astype(np.float64), reward, terminated

    def faults(self) -> Bools:
        """``[N]``: episodes with a number that is not finite, or that MuJoCo warned about."""
        return self._faults.copy()

    def render_state(self, index: int) -> Floats:
        """The history of one episode: its seed, then its actions ``[t, A]`` flattened."""
        taken = self._actions[index, : self._steps[index]]
        return np.concatenate(([self._seeds[index]], taken.ravel()))


class GymScreen(Screen):
    """Repeats the episodes of one task in environments that draw; a state is a history."""

    def __init__(self, family: GymFamily[Any], task: Task, size: int) -> None:
        """Draw once, as a trial. Raises ValueError, in one line, if that fails."""
        self._family, self._task, self._size = family, task, size
        self._replays: dict[int, _Replay] = {}
        problem = f"{family.name}: {family.env_id} draws no rgb_array"
        if not family.draws:
            raise ValueError(f"{problem}: it has no such render mode")
        try:
            self.draw(np.zeros(1))
        except Exception as error:  # an environment without a package or a display raises anything
            self.close()
            raise ValueError(f"{problem}: {' '.join(str(error).split())}") from error

    def draw(self, state: Floats, panel: int = 0) -> Picture:
        """The picture at the end of a history, scaled into the square; see the base class."""
        if panel not in self._replays:
            self._replays[panel] = _Replay(self._family, self._task)
        picture = Image.fromarray(self._replays[panel].picture(state))
        return np.array(ImageOps.pad(picture, (self._size, self._size)))

    def close(self) -> None:
        """Close the environments."""
        for replay in self._replays.values():
            replay.env.close()  # type: ignore[no-untyped-call]


class _Replay:
    """One environment that draws, and the history of its episode so far."""

    def __init__(self, family: GymFamily[Any], task: Task) -> None:
        self.env = family.make_env("rgb_array")
        self._family, self._task = family, task
        self._history: Floats = np.zeros(0)
        self._picture: Picture = np.zeros((0, 0, 3), np.uint8)

    def picture(self, history: Floats) -> Picture:
        """Go to the end of a history and draw: onwards if possible, otherwise from its start."""
        known = len(self._history)
        if not known or not np.array_equal(self._history, history[:known]):
            self._family.set_task(self.env, self._task)
            self.env.reset(seed=int(history[0]))
            known = 1
        elif known == len(history):
            return self._picture
        space = self._family.env_action_space
        for action in _fit(history[known:].reshape(-1, flatdim(space)), space):
            self.env.step(action)
        self._history = history
        self._picture = np.asarray(self.env.render())
        return self._picture


def _flat(space: ActionSpace) -> ActionSpace:
    """The actions that the policy draws: a vector, or one of the first n integers."""
    if isinstance(space, Discrete):
        return Discrete(int(space.n))
    low, high = (np.ravel(end).astype(np.float32) for end in (space.low, space.high))
    return Box(low, high, dtype=np.float32)


def _fit(actions: NDArray[Any], space: ActionSpace) -> NDArray[Any]:
    """Give actions ``[n, A]`` the type, shape and range that the environment takes."""
    if isinstance(space, Discrete):
        return np.asarray(space.start + actions.argmax(axis=1))
    shaped = actions.astype(space.dtype).reshape(-1, *space.shape)
    return np.asarray(np.clip(shaped, space.low, space.high))


def _warned(env: Env) -> bool:
    """Whether MuJoCo warned: it silently resets a simulation that went wrong, and goes on."""
    data = getattr(env.unwrapped, "data", None)
    return isinstance(data, mujoco.MjData) and bool(data.warning.number.any())
