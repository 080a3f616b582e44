"""Tasks given by a function or a list, split into those to train on and those to evaluate on."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from warprl.envs.held_out import NUM_HELD_OUT
from warprl.envs.tasks import TaskDistribution
from warprl.seeding import generator
from warprl.types import Task

_HELD_OUT_SEED = 2026


class Split(TaskDistribution[Any]):
    """Tasks to train on, and tasks to evaluate on."""

    @property
    @abstractmethod
    def held_out(self) -> Sequence[Task]:
        """The tasks for evaluation."""

    @property
    @abstractmethod
    def held_out_text(self) -> str:
        """What the definition card says about them."""


class Drawn(Split):
    """Tasks that a function draws, one at a time."""

    def __init__(
        self, draw: Callable[[np.random.Generator], Task], held_out: Sequence[Task] | None = None
    ) -> None:
        """Hold out the given tasks, or 40 draws.

        Args:
            draw: draws one task from a generator.
            held_out: the tasks for evaluation.

        Raises:
            ValueError: ``draw`` returns no task, or too few different ones to hold out 40.
        """
        self._draw = draw
        self.task_type = type(_require_task(draw(generator(_HELD_OUT_SEED, "tasks"))))
        self._given = held_out is not None
        self._held_out = _hold_out(self) if held_out is None else _checked(self, held_out)

    @property
    def text(self) -> str:
        """The function's docstring; its name if it has none."""
        return inspect.getdoc(self._draw) or f"drawn by {self._draw.__qualname__}"

    @property
    def held_out(self) -> Sequence[Task]:
        """The tasks that were given, or 40 draws."""
        return self._held_out

    @property
    def held_out_text(self) -> str:
        """What the definition card says about them."""
        source = "given in a list" if self._given else "draws under a fixed seed"
        return f"{len(self._held_out)} {source}; a training draw that equals one is redrawn"

    def sample(self, rng: np.random.Generator, n: int) -> list[Task]:
        """Draw tasks one after the other; see the base class.

        Raises:
            ValueError: the function returned something else than a task of finite numbers.
        """
        return [self.parse(asdict(_require_task(self._draw(rng)))) for _ in range(n)]

    def check(self, task: Task) -> None:
        """Accept any finite numbers: which others the function may draw is unknown."""


class Listed(Split):
    """A list of tasks, each drawn as often as any other, in random order."""

    def __init__(self, tasks: Sequence[Task], held_out: Sequence[Task] | None = None) -> None:
        """Take the tasks for training, and those for evaluation if these are others.

        Raises:
            ValueError: a list is empty or repeats a task, or a task is on both lists.
        """
        self.task_type = type(_require_task(tasks[0])) if tasks else Task
        self._known = [*tasks, *(held_out or ())]
        self._tasks = _checked(self, tasks, "tasks")
        self._held_out = None if held_out is None else _checked(self, held_out)
        shared = [task for task in self._held_out or () if task in self._tasks]
        if shared:
            raise ValueError(f"{shared[0]} is on the list of tasks and held out as well")

    @property
    def text(self) -> str:
        """What the definition card says about the tasks for training."""
        return f"one of {len(self._tasks)}, as often as any other, in random order"

    @property
    def held_out(self) -> Sequence[Task]:
        """The held-out tasks that were given, or all tasks."""
        return self._tasks if self._held_out is None else self._held_out

    @property
    def held_out_text(self) -> str:
        """What the definition card says about them."""
        if self._held_out is None:
            return "all tasks: the family is discrete"
        return f"{len(self._held_out)} others, given in a list"

    def sample(self, rng: np.random.Generator, n: int) -> list[Task]:
        """Draw tasks; chance decides which come once more than the others. See the base class."""
        size = len(self._tasks)
        rounds = [rng.permutation(size) for _ in range(-(-n // size))]
        return [self._tasks[i] for i in rng.permutation(np.concatenate(rounds)[:n])]

    def check(self, task: Task) -> None:
        """Raise ValueError unless ``task`` is on one of the lists."""
        if task not in self._known:
            raise ValueError(f"{task} is not one of the {len(self._known)} tasks listed")

    def all_tasks(self) -> list[Task]:
        """The list to train on."""
        return list(self._tasks)


def make_split(
    tasks: Callable[[np.random.Generator], Task] | Sequence[Task] | Split,
    held_out: Sequence[Task] | None,
) -> Split:
    """Divide the tasks of a family.

    Args:
        tasks: a function that draws one task, the list of all tasks, or a ready split.
        held_out: tasks for evaluation; None where they follow from ``tasks``.

    Returns:
        The split.

    Raises:
        ValueError: tasks are too few, not finite numbers, or both trained on and held out.
    """
    if isinstance(tasks, Split):
        if held_out is not None:
            raise ValueError(f"{type(tasks).__name__} holds out its own tasks: give no others")
        return tasks
    return Drawn(tasks, held_out) if callable(tasks) else Listed(tasks, held_out)


def _require_task(task: object) -> Task:
    if not isinstance(task, Task):
        raise ValueError(
            f"a task must be a frozen dataclass that derives from warprl.types.Task, got {task!r}"
        )
    return task


def _checked(
    distribution: TaskDistribution[Any], tasks: Sequence[Task], what: str = "held-out tasks"
) -> list[Task]:
    """The tasks of a list. Raises ValueError if it is empty, or two of them are equal."""
    if not tasks:
        raise ValueError(f"the list of {what} is empty")
    parsed = [distribution.parse(asdict(_require_task(task))) for task in tasks]
    if len(set(parsed)) != len(parsed):
        raise ValueError(f"the list of {what} repeats one")
    return parsed


def _hold_out(distribution: TaskDistribution[Any]) -> list[Task]:
    """Hold out 40 draws. Raises ValueError unless all are different."""
    tasks = distribution.sample(generator(_HELD_OUT_SEED, "tasks"), NUM_HELD_OUT)
    if len(set(tasks)) != NUM_HELD_OUT:
        raise ValueError(
            f"{NUM_HELD_OUT} draws hold only {len(set(tasks))} different tasks: "
            "if there are so few, give their list"
        )
    return tasks
