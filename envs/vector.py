"""Task families as Gymnasium environments, for every program that uses Gymnasium.

The meta-learner does not use them: it steps a family's batch, which takes all tasks in one call and
leaves seeds, the horizon and resets to the sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from warprl.envs.family import ActionSpace, TaskFamily
from warprl.envs.registry import family_names, make_family
from warprl.envs.screen import Screen
from warprl.types import Bools, Floats, Ids, Task

Observation = Floats
Action = NDArray[Any]  # a vector, or the number of a discrete action
_PIXELS = 480
_MIN_FPS = 10  # with a step of a second, a video in real time would be a slide show


class FamilyEnv(gymnasium.Env[Observation, Action]):
    """One simulation of a task family.

    The task given at construction or by ``reset(options={"task": {...}})`` stays until another one
    is given; without one, every reset draws a task of the training distribution. The observation
    does not reveal it; ``info["task"]`` of a reset does. The horizon truncates, and so does a
    physics fault, which ``info["fault"]`` of a step reports.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, family: str, task: dict[str, Any] | None = None, render_mode: str | None = None
    ) -> None:
        """Make one simulation.

        Args:
            family: the name of the family.
            task: the values of a task's fields; without it, every reset draws a task.
            render_mode: ``"rgb_array"``, or None.

        Raises:
            ValueError: the family, the render mode or a value of the task is unknown.
        """
        self.family = make_family(family)
        fps = max(round(1.0 / self.family.dt), _MIN_FPS)
        self.metadata = {**self.metadata, "render_fps": fps}
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        self.render_mode = render_mode

        self.observation_space = self.family.observation_space
        self.action_space = self.family.action_space
        self._batch = self.family.make_batch(1)
        self._fixed = None if task is None else self.family.parse_task(task)
        self._task: Task | None = None
        self._steps = 0
        self._screen: Screen | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: seeds the generator; None keeps it.
            options: ``"task"``, the values of the fields of a task that stays from now on.

        Returns:
            The observation ``[O]``, and the task in ``info["task"]``.

        Raises:
            ValueError: the task is outside its range; the message names the field.
        """
        super().reset(seed=seed)
        self._fixed = _task_option(self.family, options) or self._fixed
        task = self._fixed or _draw(self.family, self.np_random)
        if task != self._task:
            self.close()  # the drawing shows the task
        self._task, self._steps = task, 0
        return self._batch.reset([task], [self.np_random])[0], {"task": asdict(task)}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance by one environment step, as Gymnasium does; ``info["fault"]`` names a fault."""
        observation, reward, terminated = self._batch.step(
            _rows(self.family.action_space, action, 1)
        )
        self._steps += 1
        fault = bool(self._batch.faults()[0])
        truncated = self._steps >= self.family.horizon or fault
        ended = bool(terminated[0])
        return observation[0], float(reward[0]), ended, truncated, {"fault": fault}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """A picture ``[480, 480, 3]`` if the render mode is ``"rgb_array"``."""
        if self.render_mode is None or self._task is None:
            return None
        if self._screen is None:
            self._screen = self.family.screen(self._task, _PIXELS)
        return self._screen.draw(self._batch.render_state(0))

    def close(self) -> None:
        """Free the graphics."""
        if self._screen is not None:
            self._screen.close()
            self._screen = None


class FamilyVectorEnv(VectorEnv[Observation, Action, NDArray[Any]]):
    """N simulations of a task family in one native batch.

    Simulation i does exactly what a :class:`FamilyEnv` seeded with ``seed + i`` does, whatever its
    neighbours do. An episode that ended starts anew in the next step, whose action is ignored and
    whose reward is 0 (``AutoresetMode.NEXT_STEP``).
    """

    def __init__(
        self,
        family: str,
        num_envs: int = 1,
        tasks: Sequence[Task] | None = None,
        seed: int | None = None,
    ) -> None:
        """Make N simulations.

        Args:
            family: the name of the family.
            num_envs: N.
            tasks: T tasks, of which each gets N / T simulations, in order; without them, every
                episode draws its task.
            seed: simulation i is seeded with ``seed + i``; None draws seeds from the system.

        Raises:
            ValueError: the family is unknown, a task is not one of it, or T does not divide N.
        """
        self.family = make_family(family)
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = num_envs

        self.single_observation_space = self.family.observation_space
        self.single_action_space = self.family.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        # Each simulation has a task (None if every episode draws one) and a generator.
        self._batch = self.family.make_batch(num_envs)
        self._fixed: list[Task | None] = _shared_out(self.family, tasks, num_envs)
        self._generators = [np_random(seed_i)[0] for seed_i in _seeds(seed, num_envs)]
        self._observation = np.zeros((num_envs, *self.single_observation_space.shape))
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode in every simulation, or in those that ``options["reset_mask"]`` names.

        Args:
            seed: simulation i is seeded with ``seed + i``; or a list with a seed for each; None
                keeps its generator.
            options: ``"reset_mask"``, ``[N]``, and ``"task"``, the values of the fields of a task
                that these simulations have from now on.

        Returns:
            Observations ``[N, O]``, and the tasks in ``info["task"]``.

        Raises:
            ValueError: the task is outside its range; the message names the field.
        """
        # Give the simulations that are reset the task and the seeds.
        options = dict(options or {})
        mask = options.pop("reset_mask", np.ones(self.num_envs, dtype=np.bool_))
        ids = np.flatnonzero(mask)
        if (task := _task_option(self.family, options)) is not None:
            for i in ids:
                self._fixed[i] = task
        seeds = _seeds(seed, self.num_envs)
        for i in ids:
            if seeds[i] is not None:
                self._generators[i] = np_random(seeds[i])[0]

        info = self._restart(ids)
        return self._observation.copy(), info

    def step(
        self, actions: Action
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Advance every simulation by one environment step; those that ended start anew instead.

        Args:
            actions: ``[N, A]``, or the numbers ``[N]`` of the choices.

        Returns:
            Observations ``[N, O]``; rewards, terminations and truncations ``[N]``; and ``info``.
        """
        observation, reward, terminated = self._batch.step(
            _rows(self.family.action_space, actions, self.num_envs)
        )
        self._observation[:] = observation
        self._steps += 1

        # The horizon truncates, and so does a fault.
        fault, running = self._batch.faults(), ~self._ended
        truncated = (self._steps >= self.family.horizon) | fault
        info: dict[str, Any] = {"fault": fault & running, "_fault": running}

        # Episodes that had ended before this step start anew.
        if self._ended.any():
            info |= self._restart(np.flatnonzero(self._ended))
            reward, terminated = reward * running, terminated & running
            truncated &= running
        self._ended = terminated | truncated
        return self._observation.copy(), reward, terminated, truncated, info

    def _restart(self, ids: Ids) -> dict[str, Any]:
        generators = [self._generators[i] for i in ids]
        tasks = [
            self._fixed[i] or _draw(self.family, generator)
            for i, generator in zip(ids, generators, strict=True)
        ]
        self._observation[ids] = self._batch.restart(ids, tasks, generators)
        self._steps[ids] = 0
        self._ended[ids] = False
        info: dict[str, Any] = {}
        for i, task in zip(ids, tasks, strict=True):
            info = self._add_info(info, {"task": asdict(task)}, int(i))
        return info


def make_vector(name: str, tasks: Sequence[Task], episodes: int, seed: int) -> FamilyVectorEnv:
    """Make a vector environment with the same number of simulations of each task.

    Args:
        name: the name of the family.
        tasks: T tasks of it.
        episodes: E, how many simulations each task gets.
        seed: simulation i is seeded with ``seed + i``.

    Returns:
        T * E simulations, of which number ``t * E + e`` has task t.

    Raises:
        ValueError: the family is unknown, a task is not one of it, or there are no tasks or
            episodes.
    """
    if not tasks or episodes < 1:
        raise ValueError(
            f"tasks and episodes must be at least 1, got {len(tasks)} tasks and {episodes} episodes"
        )
    return FamilyVectorEnv(name, len(tasks) * episodes, tasks=tasks, seed=seed)


def register() -> None:
    """Register every family with Gymnasium: ``warprl/HalfCheetahDir-v1`` and so on."""
    for name in family_names():
        gymnasium.register(
            id=gymnasium_id(name),
            entry_point="warprl.envs.vector:FamilyEnv",
            vector_entry_point="warprl.envs.vector:FamilyVectorEnv",
            kwargs={"family": name},
        )


def gymnasium_id(name: str) -> str:
    """The id of a family in Gymnasium's registry.

    Args:
        name: the name of the family, which ends in its version.

    Returns:
        The id, in the namespace of this package.

    >>> gymnasium_id("half-cheetah-dir-v1")
    'warprl/HalfCheetahDir-v1'
    """
    *words, version = name.split("-")
    return f"warprl/{''.join(word.capitalize() for word in words)}-{version}"


def _rows(space: ActionSpace, actions: Action, num_envs: int) -> NDArray[np.float32]:
    """Actions ``[N, A]`` as a batch takes them, those of a discrete space one-hot.

    Raises ValueError for a number that is not an action.
    """
    if not isinstance(space, Discrete):
        return np.asarray(actions, np.float32).reshape(num_envs, *space.shape)
    number = int(space.n)
    chosen: Bools = np.reshape(actions, (num_envs, 1)) == np.arange(number)
    if not chosen.any(1).all():
        raise ValueError(f"an action is a whole number from 0 to {number - 1}, got {actions}")
    return chosen.astype(np.float32)


def _draw(family: TaskFamily, rng: np.random.Generator) -> Task:
    return family.sample_tasks(rng, 1)[0]


def _task_option(family: TaskFamily, options: dict[str, Any] | None) -> Task | None:
    """The task in the options of a reset, if there is one."""
    values = (options or {}).get("task")
    return None if values is None else family.parse_task(values)


def _shared_out(
    family: TaskFamily, tasks: Sequence[Task] | None, num_envs: int
) -> list[Task | None]:
    """The fixed task of each simulation; None where each episode draws one."""
    if tasks is None:
        return [None] * num_envs
    if not tasks or num_envs % len(tasks):
        raise ValueError(f"{num_envs} simulations cannot be shared evenly among {len(tasks)} tasks")
    checked = [family.parse_task(asdict(task)) for task in tasks]
    return [task for task in checked for _ in range(num_envs // len(tasks))]


def _seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """A seed for each simulation: by Gymnasium's convention ``seed + i``; None seeds nothing."""
    if isinstance(seed, int):
        return [seed + i for i in range(num_envs)]
    seeds: list[int | None] = [None] * num_envs if seed is None else list(seed)
    if len(seeds) != num_envs:
        raise ValueError(
            f"every simulation needs a seed: got {len(seeds)} for {num_envs} simulations"
        )
    return seeds
