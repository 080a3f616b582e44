"""Tasks as plain numbers, and the distributions that they are drawn from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np

from warprl.types import Floats, Task

TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True)
class Direction(Task):
    """Run forward (+1) or backward (-1) along x."""

    direction: float


@dataclass(frozen=True)
class Velocity(Task):
    """Run along x at this velocity, in m/s."""

    velocity: float


@dataclass(frozen=True)
class Heading(Task):
    """Run in this direction on the plane, in radians from the x axis."""

    angle: float


@dataclass(frozen=True)
class Goal(Task):
    """Reach this point of the plane, in m."""

    x: float
    y: float


@dataclass(frozen=True)
class Cell(Task):
    """Reach this cell of a grid, counted from 0 at the top left."""

    row: int
    col: int


class TaskDistribution(ABC, Generic[TaskT]):
    """A distribution over tasks of one type, discrete or continuous."""

    task_type: type[TaskT]

    @property
    @abstractmethod
    def text(self) -> str:
        """What the definition card says about the tasks."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int) -> list[TaskT]:
        """Draw tasks.

        Args:
            rng: what draws them.
            n: how many to draw.

        Returns:
            The n tasks.
        """

    @abstractmethod
    def check(self, task: TaskT) -> None:
        """Check that this distribution can draw a task.

        Args:
            task: the task, of the right type.

        Raises:
            ValueError: the task lies outside the support; one line names the field and its range.
        """

    @property
    def size(self) -> int:
        """D, how many numbers a task has."""
        return len(fields(self.task_type))

    def all_tasks(self) -> list[TaskT] | None:
        """Every task of a discrete distribution; None for a continuous one."""
        return None

    def parse(self, values: Mapping[str, Any]) -> TaskT:
        """Make a task from the values of its fields, which a user may have typed.

        Args:
            values: the value of every field by its name.

        Returns:
            The task, which the distribution can draw.

        Raises:
            ValueError: in one line that names the field and what would be right.
        """
        names = [field.name for field in fields(self.task_type)]
        if not isinstance(values, Mapping) or set(values) != set(names):
            got = sorted(map(str, values)) if isinstance(values, Mapping) else repr(values)
            raise ValueError(f"a task here is a mapping with the fields {names}, got {got}")
        task = self.task_type(**{name: self.parse_field(name, values[name]) for name in names})
        self.check(task)
        return task

    def parse_field(self, name: str, value: Any) -> Any:
        """Read one field of a task: a number, unless a subclass says otherwise.

        Args:
            name: the name of the field.
            value: what a user gave for it.

        Returns:
            The value that the task holds.

        Raises:
            ValueError: in one line that names the field and what would be right.
        """
        if not is_finite_number(value):
            raise ValueError(f"task field {name!r} must be a finite number, got {value!r}")
        return float(value)


def is_finite_number(value: Any) -> bool:
    """Whether ``value`` is a finite number and not a truth value."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and math.isfinite(value)


class Directions(TaskDistribution[Direction]):
    """Forward and backward, balanced: half of the tasks each, in random order.

    With an odd number of tasks, chance decides the direction of the last one.
    """

    task_type = Direction
    text = "direction d in {-1, +1}, half of the meta-batch each, in random order"

    def sample(self, rng: np.random.Generator, n: int) -> list[Direction]:
        """Draw directions, balanced; see the base class."""
        signs = np.resize([1.0, -1.0], n)
        signs[n - n % 2 :] = rng.choice([1.0, -1.0])
        return [Direction(float(sign)) for sign in rng.permutation(signs)]

    def check(self, task: Direction) -> None:
        """Raise ValueError unless the direction is +1 or -1."""
        if task.direction not in (-1.0, 1.0):
            raise ValueError(f"task field 'direction' must be -1 or 1, got {task.direction:g}")

    def all_tasks(self) -> list[Direction]:
        """Both directions, forward first."""
        return [Direction(1.0), Direction(-1.0)]


@dataclass(frozen=True)
class UniformVelocity(TaskDistribution[Velocity]):
    """A target velocity, uniform on ``[low, high]``, in m/s."""

    low: float
    high: float
    task_type = Velocity

    @property
    def text(self) -> str:
        """What the definition card says about the tasks."""
        return f"target velocity v* ~ U[{self.low:g}, {self.high:g}] m/s"

    def sample(self, rng: np.random.Generator, n: int) -> list[Velocity]:
        """Draw target velocities; see the base class."""
        return [Velocity(float(v)) for v in rng.uniform(self.low, self.high, n)]

    def check(self, task: Velocity) -> None:
        """Raise ValueError if the velocity is outside ``[low, high]``."""
        _check_between("velocity", task.velocity, self.low, self.high)


class Headings(TaskDistribution[Heading]):
    """A direction on the plane, uniform on the circle."""

    task_type = Heading
    text = "direction g = (cos angle, sin angle), angle ~ U[0, 2 pi)"

    def sample(self, rng: np.random.Generator, n: int) -> list[Heading]:
        """Draw directions; see the base class."""
        return [Heading(float(angle)) for angle in rng.uniform(0.0, 2.0 * np.pi, n)]

    def check(self, task: Heading) -> None:
        """Raise ValueError if the angle is outside ``[0, 2 pi)``."""
        if not 0.0 <= task.angle < 2.0 * np.pi:
            raise ValueError(
                f"task field 'angle' must be at least 0 and less than 2 pi, got {task.angle:g}"
            )


@dataclass(frozen=True)
class SquareGoals(TaskDistribution[Goal]):
    """A goal, uniform on the square ``[-half_width, half_width]^2``, in m."""

    half_width: float
    task_type = Goal

    @property
    def text(self) -> str:
        """What the definition card says about the tasks."""
        return f"goal g ~ U[-{self.half_width:g}, {self.half_width:g}]^2 m"

    def sample(self, rng: np.random.Generator, n: int) -> list[Goal]:
        """Draw goals; see the base class."""
        return _goals(*(rng.uniform(-1, 1, (n, 2)) * self.half_width).T)

    def check(self, task: Goal) -> None:
        """Raise ValueError if the goal is outside the square."""
        _check_between("x", task.x, -self.half_width, self.half_width)
        _check_between("y", task.y, -self.half_width, self.half_width)


@dataclass(frozen=True)
class DiscGoals(TaskDistribution[Goal]):
    """A goal, uniform in area on the disc of this radius, in m, about the origin."""

    radius: float
    task_type = Goal

    @property
    def text(self) -> str:
        """What the definition card says about the tasks."""
        return f"goal g uniform in area on the disc of radius {self.radius:g} m"

    def sample(self, rng: np.random.Generator, n: int) -> list[Goal]:
        """Draw goals; the square root makes them uniform in area. See the base class."""
        distance = self.radius * np.sqrt(rng.uniform(size=n))
        angle = rng.uniform(0.0, 2.0 * np.pi, n)
        return _goals(distance * np.cos(angle), distance * np.sin(angle))

    def check(self, task: Goal) -> None:
        """Raise ValueError if the goal is outside the disc."""
        distance = math.hypot(task.x, task.y)
        if distance > self.radius * (1 + 1e-12):  # rounding may push a goal on the rim outside
            raise ValueError(
                f"task fields 'x' and 'y' must lie within {self.radius:g} of the origin,"
                f" got {distance:g}"
            )


@dataclass(frozen=True)
class HalfCircleGoals(TaskDistribution[Goal]):
    """A goal, uniform on the half circle of this radius, in m, about the origin with y >= 0."""

    radius: float
    task_type = Goal

    @property
    def text(self) -> str:
        """What the definition card says about the tasks."""
        return f"goal g uniform on the half circle of radius {self.radius:g} m with y >= 0"

    def sample(self, rng: np.random.Generator, n: int) -> list[Goal]:
        """Draw goals; see the base class."""
        angle = rng.uniform(0.0, math.pi, n)
        return _goals(self.radius * np.cos(angle), self.radius * np.sin(angle))

    def check(self, task: Goal) -> None:
        """Raise ValueError if the goal is off the half circle by more than its millionth."""
        distance = math.hypot(task.x, task.y)
        if task.y < 0 or abs(distance - self.radius) > 1e-6 * self.radius:
            raise ValueError(
                f"task fields 'x' and 'y' must lie {self.radius:g} from the origin with y >= 0,"
                f" got ({task.x:g}, {task.y:g}) at {distance:g}"
            )


@dataclass(frozen=True)
class GoalCells(TaskDistribution[Cell]):
    """A goal cell, uniform on these free cells of a grid."""

    cells: tuple[Cell, ...]
    task_type = Cell

    @property
    def text(self) -> str:
        """What the definition card says about the tasks."""
        return f"goal cell (row, col), uniform on the {len(self.cells)} free ones but the start"

    def sample(self, rng: np.random.Generator, n: int) -> list[Cell]:
        """Draw goal cells, with replacement; see the base class."""
        return [self.cells[i] for i in rng.integers(len(self.cells), size=n)]

    def check(self, task: Cell) -> None:
        """Raise ValueError unless the cell is free and not the start."""
        if task not in self.cells:
            raise ValueError(
                f"task fields 'row' and 'col' must name one of the {len(self.cells)} free cells but"
                f" the start, got ({task.row}, {task.col})"
            )

    def all_tasks(self) -> list[Cell]:
        """The cells, row by row."""
        return list(self.cells)

    def parse_field(self, name: str, value: Any) -> int:
        """Read a whole number; see the base class."""
        number = super().parse_field(name, value)
        if number != int(number):
            raise ValueError(f"task field {name!r} must be a whole number, got {value!r}")
        return int(number)


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"task field {name!r} must be between {low:g} and {high:g}, got {value:g}")


def _goals(x: Floats, y: Floats) -> list[Goal]:
    return [Goal(*point) for point in zip(x.tolist(), y.tolist(), strict=True)]
