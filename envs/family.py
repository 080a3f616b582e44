"""Task families: a distribution over tasks plus the world that they share."""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, TypeAlias

import mujoco
import numpy as np
from gymnasium.spaces import Box, Discrete

from warprl.envs.held_out import NUM_HELD_OUT, load_manifest
from warprl.envs.screen import ModelScreen, Screen
from warprl.envs.tasks import TaskDistribution
from warprl.types import BatchEnv, Bools, Floats, Generators, Ids, Spaces, Task

ActionSpace: TypeAlias = Box | Discrete[Any]
"""A Box action is its vector ``[A]``; a Discrete one is one-hot, with A the number of choices."""


@dataclass(frozen=True)
class Definition:
    """The definition card: all that fixes the numbers a family gives.

    Returns are comparable between two programs only if every line of their cards but
    ``differences`` agrees.
    """

    name: str
    reward: str
    tasks: str
    held_out: str
    horizon: int
    frame_skip: int
    dt: float
    observation: str
    action: str
    action_scale: float
    initial_state: str
    termination: str
    physics: str
    differences: str
    source: str

    def render(self) -> str:
        """The card as text: the name, then one aligned paragraph for each field."""
        lines = [self.name]
        for key, value in list(asdict(self).items())[1:]:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            label = f"  {key.replace('_', ' '):<15}"
            lines.append(textwrap.fill(text, 96, initial_indent=label, subsequent_indent=" " * 17))
        return "\n".join(lines)


class RenderableBatch(BatchEnv, ABC):
    """What the batches of this package offer beyond the sampler's protocol."""

    def __init__(self, num_envs: int, horizon: int) -> None:
        """Take N and H. Raises ValueError if ``num_envs`` is not positive."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.horizon = horizon

    def reset(self, tasks: Sequence[Task], generators: Generators) -> Floats:
        """Start an episode in every simulation; see :class:`warprl.types.BatchEnv`.

        Args:
            tasks: T tasks, which share the simulations evenly and in order.
            generators: one for each task, which draws the initial states of its episodes.

        Returns:
            Observations ``[N, O]``.

        Raises:
            ValueError: T does not divide N, or there are more or fewer generators than tasks.
        """
        return self.restart(np.arange(self.num_envs), tasks, generators)

    def restart(self, ids: Ids, tasks: Sequence[Task], generators: Generators) -> Floats:
        """Start a new episode in some simulations, and leave every other one untouched.

        Args:
            ids: ``[n]``, the simulations; the tasks share them evenly and in order.
            tasks: T tasks.
            generators: one for each task, which draws the initial states of its episodes.

        Returns:
            The observations of these simulations, ``[n, O]``.

        Raises:
            ValueError: T does not divide n, or there are more or fewer generators than tasks.
        """
        if not tasks or len(ids) % len(tasks):
            raise ValueError(
                f"{len(ids)} simulations cannot be shared evenly among {len(tasks)} tasks"
            )
        if len(generators) != len(tasks):
            raise ValueError(
                f"every task needs one generator: got {len(generators)} for {len(tasks)} tasks"
            )
        return self._restart(ids, tasks, generators)

    @abstractmethod
    def _restart(self, ids: Ids, tasks: Sequence[Task], generators: Generators) -> Floats:
        """See :meth:`restart`; the tasks can share the simulations, and each has a generator."""

    def skip(self, ended: Bools) -> None:
        """Advance them all the same: by default, skipping saves nothing."""

    @abstractmethod
    def render_state(self, index: int) -> Floats:
        """The numbers from which the family's :class:`Screen` draws one simulation."""


class TaskFamily(ABC):
    """A versioned distribution over tasks and the physics, observation and reward they share.

    A family is stateless: the caller hands in the generator of every draw.
    """

    name: str
    horizon: int
    dt: float  # seconds in an environment step; 1 where there is no clock
    action_scale: float
    distribution: TaskDistribution[Any]
    observation_space: Box
    action_space: ActionSpace

    @property
    def spaces(self) -> Spaces:
        """Observations and actions as plain numbers, for a policy."""
        (obs_size,) = self.observation_space.shape
        if isinstance(self.action_space, Discrete):
            return Spaces(obs_size, int(self.action_space.n))
        (act_size,) = self.action_space.shape
        low, high = self.action_space.low.tolist(), self.action_space.high.tolist()
        return Spaces(obs_size, act_size, (tuple(low), tuple(high)))

    @property
    def task_type(self) -> type[Task]:
        """The frozen dataclass of this family's tasks."""
        return self.distribution.task_type

    def parse_task(self, values: Mapping[str, Any]) -> Task:
        """Make a task from the values of its fields.

        Args:
            values: the value of every field by its name.

        Returns:
            A task of this family.

        Raises:
            ValueError: in one line that names the family, the field and what would be right.
        """
        try:
            task: Task = self.distribution.parse(values)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        return task

    def sample_tasks(self, rng: np.random.Generator, n: int) -> list[Task]:
        """Draw training tasks; of a continuous family, never one of the held-out tasks.

        Args:
            rng: what draws them.
            n: how many to draw.

        Returns:
            The n tasks.

        Raises:
            ValueError: n is not positive.
        """
        if n < 1:
            raise ValueError(f"{self.name}: the number of tasks must be at least 1, got {n}")
        if self.distribution.all_tasks() is not None:
            return self.distribution.sample(rng, n)

        # Draw again in place of every draw that is held out.
        held_out = set(self.held_out_tasks())
        tasks: list[Task] = []
        while len(tasks) < n:
            drawn = self.distribution.sample(rng, n - len(tasks))
            tasks += [task for task in drawn if task not in held_out]
        return tasks

    def held_out_tasks(self) -> list[Task]:
        """The tasks for evaluation: the saved manifest, or all tasks of a discrete family."""
        return self.distribution.all_tasks() or list(load_manifest(self.name, self.parse_task))

    @property
    def held_out_text(self) -> str:
        """What the definition card says about the tasks for evaluation."""
        if self.distribution.all_tasks() is not None:
            return "all tasks: the family is discrete"
        return (
            f"{NUM_HELD_OUT} tasks in a saved manifest; a training draw that equals one is redrawn"
        )

    @abstractmethod
    def make_batch(self, num_envs: int) -> RenderableBatch:
        """Make simulations that are stepped together on one thread.

        Args:
            num_envs: N, how many there are.

        Returns:
            The batch, in which no episode has begun.

        Raises:
            ValueError: ``num_envs`` is not positive.
        """

    @abstractmethod
    def definition(self) -> Definition:
        """The definition card."""

    def card(self, frame_skip: int = 1, **lines: str) -> Definition:
        """The definition card, made of the lines that only the family itself can write.

        Args:
            frame_skip: how many physics steps an environment step takes.
            **lines: the text of ``reward``, ``observation``, ``action``, ``initial_state``,
                ``termination``, ``physics``, ``differences`` and ``source``.

        Returns:
            The card.
        """
        return Definition(
            name=self.name,
            tasks=self.distribution.text,
            held_out=self.held_out_text,
            horizon=self.horizon,
            frame_skip=frame_skip,
            dt=self.dt,
            action_scale=self.action_scale,
            **lines,
        )

    @abstractmethod
    def screen(self, task: Task, size: int) -> Screen:
        """Make what draws the simulations of one task.

        Args:
            task: the task, which the pictures show.
            size: the width and height of a picture, in pixels.

        Returns:
            What draws them.

        Raises:
            ValueError: in one line, if the family cannot be drawn.
        """


class ModelFamily(TaskFamily):
    """A family that is drawn from a MuJoCo model; the render state is its ``qpos``."""

    @abstractmethod
    def render_model(self, task: Task) -> mujoco.MjModel:
        """A model for drawing, which shows the task and has the ``qpos`` of the physics."""

    def screen(self, task: Task, size: int) -> Screen:
        """Draws the render model, seen by its camera "track"; see the base class."""
        return ModelScreen(self.render_model(task), size)


def task_rows(tasks: Sequence[Task], num_envs: int) -> Floats:
    """Give every simulation the numbers of its task.

    Args:
        tasks: T tasks.
        num_envs: N simulations, a multiple of T.

    Returns:
        ``[N, D]``: a row holds the numbers of one task, field by field.
    """
    rows = np.array([np.hstack(astuple(task)) for task in tasks], dtype=np.float64)
    return np.repeat(rows, num_envs // len(tasks), axis=0)
