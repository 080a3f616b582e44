"""Grid mazes with a hidden goal, in plain NumPy: an agent must remember what it found out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from warprl.envs.family import Definition, RenderableBatch, TaskFamily, task_rows
from warprl.envs.screen import Picture, Screen
from warprl.envs.tasks import Cell, GoalCells
from warprl.types import Bools, EnvStep, Floats, Generators, Ids, Task

_REWARD = 10.0
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # row and column of up, down, left and right
# An observation begins with the patch of 9; the rest begin at these indices, and entry 9 is 0.
_PATCH, _BIAS, _TIME, _LAST_REWARD, _LAST_ACTION, _SIZE = 9, 10, 11, 12, 13, 17
_FREE, _WALL, _GOAL, _AGENT = (245, 245, 245), (60, 60, 70), (220, 60, 40), (40, 90, 200)

_DIFFERENCES = (
    "from the released code: it sends agents into pillars too (a fifth of the time), credits each "
    "action with the reward of the one before and shows 'up' as the last action before the first. "
    "Backpropamine's simplemaze and WarpGradRL have 11 x 11 cells; Backpropamine's README starts "
    "at random cells (--rsp 1)"
)
_SOURCE = (
    "WarpGrad (Flennerhag et al., ICLR 2020, section 4.3), maze_navigation of flennerhag/warpgrad, "
    "after Miconi et al. (Backpropamine, ICLR 2019, section 4.2)"
)


def layout(width: int) -> Bools:
    """Lay out the walls: the border, and pillars at even rows and columns; the centre is free.

    Args:
        width: how many rows and columns the grid has, border included; an odd number.

    Returns:
        ``[width, width]``: whether a cell is a wall.
    """
    walls = np.ones((width, width), dtype=np.bool_)
    walls[1:-1, 1:-1] = False
    walls[2:-1:2, 2:-1:2] = True
    walls[width // 2, width // 2] = False
    return walls


def _goals(width: int) -> GoalCells:
    """Every free cell but the centre, row by row."""
    free = ~layout(width)
    free[width // 2, width // 2] = False
    return GoalCells(tuple(Cell(int(row), int(col)) for row, col in np.argwhere(free)))


def _observation_space() -> Box:
    high = np.ones(_SIZE)
    high[_LAST_REWARD] = _REWARD
    return Box(np.zeros(_SIZE), high, dtype=np.float64)


class Maze(TaskFamily):
    """Find the goal from the centre, then again from each cell to which it sends the agent."""

    width: int
    horizon = 200
    dt = 1.0
    action_scale = 1.0
    observation_space = _observation_space()
    action_space = Discrete(len(_MOVES))

    def make_batch(self, num_envs: int) -> MazeBatch:
        """``num_envs`` agents that are moved together, each in a maze of its own."""
        return MazeBatch(self, num_envs)

    def screen(self, task: Task, size: int) -> Screen:
        """The maze from above, with the goal; see the base class."""
        return MazeScreen(self.width, astuple(task), size)

    def definition(self) -> Definition:
        """The definition card."""
        last = self.width - 2
        return self.card(
            reward=f"{_REWARD:g} for the step that reaches the goal, else 0; a bump costs nothing",
            observation="the walls (1) among the 3 x 3 cells about the agent, row by row (9); 0, "
            f"1, steps taken / {self.horizon}, the last reward (4); the last action, one-hot, "
            "zeros before the first (4). The goal and the agent's place are hidden",
            action="one of 4: up, down, left, right (row - 1, row + 1, col - 1, col + 1); a move "
            "into a wall is no move",
            initial_state="the centre",
            termination="never; the horizon truncates",
            physics=f"none: a grid of {self.width} x {self.width} cells, rows and columns 1 to "
            f"{last} within the border and a pillar wherever both are even, but for the centre. "
            "An agent that reaches the goal is sent, in the same step, to a free cell drawn "
            "uniformly, never the goal; an episode's draws are made when it starts",
            differences=_DIFFERENCES,
            source=_SOURCE,
        )


class Maze13(Maze):
    """The maze of the released code's defaults."""

    name = "maze-v1"
    width = 13
    distribution = _goals(width)


class Maze11(Maze):
    """The smaller maze of Backpropamine's simplemaze."""

    name = "maze-11-v1"
    width = 11
    distribution = _goals(width)


class MazeBatch(RenderableBatch):
    """N agents; see :class:`warprl.types.BatchEnv`.

    The arrays of this class number a cell ``row * width + col``.
    """

    def __init__(self, family: Maze, num_envs: int) -> None:
        """Raises ValueError if ``num_envs`` is not positive."""
        super().__init__(num_envs, family.horizon)
        self._width = family.width
        walls = layout(family.width)
        self._walls = walls.ravel()
        self._free = np.flatnonzero(~self._walls)
        windows = sliding_window_view(np.pad(walls, 1), (3, 3))
        self._patches = windows.reshape(-1, _PATCH).astype(np.float64)
        self._moves = np.array([row * family.width + col for row, col in _MOVES])
        self._position = np.full(num_envs, walls.size // 2)
        self._goal = np.zeros(num_envs, dtype=np.intp)
        self._sent_to = np.zeros((num_envs, family.horizon), dtype=np.intp)
        self._steps = np.zeros(num_envs, dtype=np.intp)

    def _restart(self, ids: Ids, tasks: Sequence[Task], generators: Generators) -> Floats:
        """Put the agents ``ids`` back in the centre; see the base class.

        For each step of the episode one cell is drawn, so that what a generator gives to an episode
        does not depend on when, or how often, the goal is reached.
        """
        # For each step, draw one of the free cells but the goal.
        shape = len(ids) // len(tasks), self.horizon
        goal = task_rows(tasks, len(ids)).astype(np.intp) @ (self._width, 1)
        drawn = np.concatenate(
            [rng.integers(len(self._free) - 1, size=shape) for rng in generators]
        )
        drawn += drawn >= np.searchsorted(self._free, goal)[:, None]  # skips the goal

        # Start the episodes.
        self._goal[ids] = goal
        self._sent_to[ids] = self._free[drawn]
        self._position[ids] = len(self._walls) // 2
        self._steps[ids] = 0
        return self._observe()[ids]

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Move by one-hot actions ``[N, 4]``; see :class:`warprl.types.BatchEnv`."""
        # Move those that no wall stops, then send those at the goal elsewhere.
        choice = action.argmax(1)
        ahead = self._position + self._moves[choice]
        position = np.where(self._walls[ahead], self._position, ahead)
        reached = position == self._goal
        number = np.minimum(self._steps, self.horizon - 1)  # callers mask what comes later
        self._position = np.where(
            reached, self._sent_to[np.arange(self.num_envs), number], position
        )
        self._steps += 1

        # Report the reward and the action of this very step.
        reward = _REWARD * reached
        observation = self._observe()
        observation[:, _LAST_REWARD] = reward
        observation[np.arange(self.num_envs), _LAST_ACTION + choice] = 1.0
        return observation, reward, np.zeros(self.num_envs, dtype=np.bool_)

    def _observe(self) -> Floats:
        """Observations ``[N, 17]`` without the last reward and action."""
        observation = np.zeros((self.num_envs, _SIZE))
        observation[:, :_PATCH] = self._patches[self._position]
        observation[:, _BIAS] = 1.0
        observation[:, _TIME] = self._steps / self.horizon
        return observation

    def faults(self) -> Bools:
        """``[N]``: none, since nothing can diverge on integers."""
        return np.zeros(self.num_envs, dtype=np.bool_)

    def render_state(self, index: int) -> Floats:
        """Row and column of one agent."""
        return np.array(divmod(self._position[index], self._width), dtype=np.float64)


class MazeScreen(Screen):
    """The maze from above: walls dark, the goal red and the agent blue."""

    def __init__(self, width: int, goal: tuple[int, int], size: int) -> None:
        """Draw pictures of ``size`` x ``size`` pixels with the goal at this row and column."""
        cells = np.where(layout(width)[..., None], _WALL, _FREE)
        cells[goal] = _GOAL
        self._cells = cells.astype(np.uint8)
        self._index = np.arange(size) * width // size

    def draw(self, state: Floats, panel: int = 0) -> Picture:
        """The maze with the agent, whose row and column are ``state``; see the base class."""
        cells = self._cells.copy()
        row, col = state.astype(np.intp)
        cells[row, col] = _AGENT
        return cells[self._index[:, None], self._index]

    def close(self) -> None:
        """Nothing to free."""
