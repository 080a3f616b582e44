"""Point navigation in the plane, in plain NumPy: the smallest family, for tests and first tries."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import mujoco
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from warprl.envs.family import Definition, ModelFamily, RenderableBatch, check_reset, task_rows
from warprl.envs.markers import add_goal
from warprl.envs.tasks import Goal, SquareGoals
from warprl.types import Task

_MAX_STEP = 0.1
_TOLERANCE = 0.01


class PointNavigation(ModelFamily):
    """Walk from the origin to a hidden goal.

    The policy's output is divided by ``action_scale``, as for the robots: an initial standard
    deviation of 1 is then one full step, neither lost in the clipping nor too small to explore.
    """

    name = "point-navigation-v1"
    horizon = 100
    dt = 1.0
    action_scale = 10.0
    distribution = SquareGoals(0.5)
    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-action_scale * _MAX_STEP, action_scale * _MAX_STEP, (2,), np.float32)

    def make_batch(self, num_envs: int) -> PointBatch:
        """``num_envs`` points moved together."""
        return PointBatch(self, num_envs)

    def render_model(self, task: Task) -> mujoco.MjModel:
        """The plane from above with the goal on it; ``qpos`` is the position xy."""
        assert isinstance(task, Goal)
        xml = (files("warprl.envs") / "point.xml").read_text(encoding="utf-8")
        spec = mujoco.MjSpec.from_string(xml)
        add_goal(spec, task.x, task.y, radius=0.03, height=0.01)
        return spec.compile()

    def definition(self) -> Definition:
        """The definition card."""
        return Definition(
            name=self.name,
            reward="-|xy_after - g|_2, the Euclidean distance to the goal after the move",
            tasks=self.distribution.text,
            held_out=self.held_out_text,
            horizon=self.horizon,
            frame_skip=1,
            dt=self.dt,
            observation="position xy (2), in m; the goal is hidden",
            action=f"displacement xy = clip(a / {self.action_scale:g}, -{_MAX_STEP:g}, "
            f"{_MAX_STEP:g}) m; a is the policy's output",
            action_scale=self.action_scale,
            initial_state="the origin, without noise",
            termination=f"|dx| < {_TOLERANCE:g} and |dy| < {_TOLERANCE:g} after the move; the "
            "horizon truncates",
            physics="none: xy_after = xy_before + action, in float64",
            differences="MAML 2017 and pytorch-maml-rl have no action scale; learn2learn's and "
            "ProMP's point worlds use other starts, corners, or sparse rewards",
            source="MAML 2017 (cbfinn/maml_rl, 2D navigation) and pytorch-maml-rl "
            "(2DNavigation-v0)",
        )


class PointBatch(RenderableBatch):
    """N points; see :class:`warprl.types.BatchEnv`."""

    def __init__(self, family: PointNavigation, num_envs: int) -> None:
        """Raises ValueError if ``num_envs`` is not positive."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self.num_envs = num_envs
        self.horizon = family.horizon
        self.observation_space = family.observation_space
        self.action_space = family.action_space
        self._scale = family.action_scale
        self._position: NDArray[np.float64] = np.zeros((num_envs, 2))
        self._goal = np.zeros((num_envs, 2))

    def reset(
        self, tasks: Sequence[Task], generators: Sequence[np.random.Generator]
    ) -> NDArray[np.float64]:
        """Put every point at the origin; the start has no noise, so nothing is drawn."""
        check_reset(tasks, generators, self.num_envs)
        self._goal[:] = task_rows(tasks, self.num_envs)
        self._position[:] = 0.0
        return self._position.copy()

    def restart(
        self,
        ids: NDArray[np.intp],
        tasks: Sequence[Task],
        generators: Sequence[np.random.Generator],
    ) -> NDArray[np.float64]:
        """Put the points ``ids`` back at the origin."""
        check_reset(tasks, generators, len(ids))
        self._goal[ids] = task_rows(tasks, len(ids))
        self._position[ids] = 0.0
        return self._position[ids]

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Move by the clipped actions ``[N, 2]``; see the protocol."""
        displacement = action.astype(np.float64) / self._scale
        self._position += np.clip(displacement, -_MAX_STEP, _MAX_STEP)
        offset = self._position - self._goal
        near = np.abs(offset) < _TOLERANCE
        reward: NDArray[np.float64] = -np.hypot(offset[:, 0], offset[:, 1])
        return self._position.copy(), reward, near[:, 0] & near[:, 1]

    def faults(self) -> NDArray[np.bool_]:
        """``[N]``: points that a NaN action sent nowhere."""
        finite = np.isfinite(self._position)
        return ~(finite[:, 0] & finite[:, 1])

    def render_state(self, index: int) -> NDArray[np.float64]:
        """A copy of one point's position."""
        position: NDArray[np.float64] = self._position[index].copy()
        return position
