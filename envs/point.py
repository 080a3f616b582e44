"""A point in the plane, in plain NumPy: the smallest families, for tests and first tries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import astuple
from importlib.resources import files

import mujoco
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from warprl.envs.family import Definition, ModelFamily, RenderableBatch, task_rows
from warprl.envs.tasks import HalfCircleGoals, SquareGoals
from warprl.types import Bools, EnvStep, Floats, Generators, Ids, Task

_MAX_STEP = 0.1
_TOLERANCE = 0.01
_GOAL_RADIUS = 0.2


class Point(ModelFamily):
    """What the families share: a point that starts at the origin and a hidden goal.

    The policy's output is divided by ``action_scale``, as for the robots: an initial standard
    deviation of 1 is then one full step, neither lost in the clipping nor too small to explore.

    The attributes that end in ``_text`` are lines of the definition card.
    """

    reward_text: str
    termination_text: str
    differences_text: str
    source_text: str
    dt = 1.0
    action_scale = 10.0
    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-action_scale * _MAX_STEP, action_scale * _MAX_STEP, (2,), np.float32)

    @abstractmethod
    def reward(self, offset: Floats) -> Floats:
        """Compute the rewards that ``reward_text`` states in words.

        Args:
            offset: ``[N, 2]``, the positions after the move minus their goals, in m.

        Returns:
            Rewards ``[N]``.
        """

    def terminated(self, offset: Floats) -> Bools:
        """``[N]``: points whose episode ends there; none by default."""
        return np.zeros(len(offset), dtype=np.bool_)

    def make_batch(self, num_envs: int) -> PointBatch:
        """``num_envs`` points moved together."""
        return PointBatch(self, num_envs)

    def definition(self) -> Definition:
        """The definition card: what the family says, and what its world fixes."""
        return self.card(
            reward=self.reward_text,
            observation="position xy (2), in m; the goal is hidden",
            action=f"displacement xy = clip(a / {self.action_scale:g}, -{_MAX_STEP:g}, "
            f"{_MAX_STEP:g}) m; a is the policy's output",
            initial_state="the origin, without noise",
            termination=self.termination_text,
            physics="none: xy_after = xy_before + action, in float64",
            differences=self.differences_text,
            source=self.source_text,
        )

    def drawing(self, task: Task) -> mujoco.MjSpec:
        """The plane from above with the goal on it; ``qpos`` is the position xy."""
        xml = (files("warprl.envs") / "point.xml").read_text(encoding="utf-8")
        spec = mujoco.MjSpec.from_string(xml)
        spec.site("goal").pos[:2] = astuple(task)
        return spec

    def render_model(self, task: Task) -> mujoco.MjModel:
        """The drawing, compiled."""
        return self.drawing(task).compile()


class PointNavigation(Point):
    """Walk from the origin to a hidden goal."""

    name = "point-navigation-v1"
    horizon = 100
    distribution = SquareGoals(0.5)
    reward_text = "-|xy_after - g|_2, the Euclidean distance to the goal after the move"
    termination_text = (
        f"|dx| < {_TOLERANCE:g} and |dy| < {_TOLERANCE:g} after the move; the horizon truncates"
    )
    differences_text = (
        "MAML 2017, pytorch-maml-rl and learn2learn (Particles2D) have no action scale. Other "
        "tasks: ProMP's point starts in U[-0.2, 0.2]^2, moves by 0.2 and seeks one of the four "
        "corners (+-2, +-2), with rewards -d, -d^2 or sparse ones; PEARL's starts and seeks in "
        "U[-1, 1]^2 for 20 steps"
    )
    source_text = "MAML 2017 (cbfinn/maml_rl, 2D navigation) and pytorch-maml-rl (2DNavigation-v0)"

    def reward(self, offset: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        return -np.hypot(offset[:, 0], offset[:, 1])

    def terminated(self, offset: Floats) -> Bools:
        """``[N]``: points that are near their goal in x and in y."""
        near = np.abs(offset) < _TOLERANCE
        return near[:, 0] & near[:, 1]


class PointSparse(Point):
    """Find a hidden goal on a half circle; only points near it are rewarded."""

    name = "point-sparse-v1"
    horizon = 20
    distribution = HalfCircleGoals(1.0)
    reward_text = f"1 - d if d <= {_GOAL_RADIUS:g} m, else 0, d = |xy_after - g|_2 after the move"
    termination_text = "never; the horizon truncates"
    differences_text = (
        "PEARL meta-trains on the dense -d and rewards so only where it adapts, spaces its 100 "
        "goals evenly and scales rewards by 100. VariBAD: horizon 100, reward as here. Their "
        "action scale is the same: [-1, 1] is mapped to +-0.1 m"
    )
    source_text = (
        "PEARL (Rakelly et al., ICML 2019), sparse-point-robot; also VariBAD (SparsePointEnv-v0)"
    )

    def reward(self, offset: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        distance = np.hypot(offset[:, 0], offset[:, 1])
        # A point that a NaN action sent nowhere gets the reward NaN, not an ordinary 0.
        return np.where(distance > _GOAL_RADIUS, 0.0, 1.0 - distance)

    def drawing(self, task: Task) -> mujoco.MjSpec:
        """The half circle from above, with the disc that is rewarded."""
        spec = super().drawing(task)
        spec.site("goal").size[0] = _GOAL_RADIUS
        spec.camera("track").pos = (0.0, 0.5, 3.0)
        spec.geom("floor").size = (2.0, 2.0, 0.1)
        spec.body("point").first_geom().size[0] *= 2
        return spec


class PointBatch(RenderableBatch):
    """N points; see :class:`warprl.types.BatchEnv`."""

    def __init__(self, family: Point, num_envs: int) -> None:
        """Raises ValueError if ``num_envs`` is not positive."""
        super().__init__(num_envs, family.horizon)
        self.family = family
        self._scale = family.action_scale
        self._position: Floats = np.zeros((num_envs, 2))
        self._goal = np.zeros((num_envs, 2))

    def _restart(self, ids: Ids, tasks: Sequence[Task], generators: Generators) -> Floats:
        """Put the points ``ids`` back at the origin; without noise, nothing is drawn."""
        self._goal[ids] = task_rows(tasks, len(ids))
        self._position[ids] = 0.0
        return self._position[ids]

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Move by clipped actions ``[N, 2]``; see :class:`warprl.types.BatchEnv`."""
        displacement = action.astype(np.float64) / self._scale
        self._position += np.clip(displacement, -_MAX_STEP, _MAX_STEP)
        offset = self._position - self._goal
        return self._position.copy(), self.family.reward(offset), self.family.terminated(offset)

    def faults(self) -> Bools:
        """``[N]``: points that a NaN action sent nowhere."""
        finite = np.isfinite(self._position)
        return ~(finite[:, 0] & finite[:, 1])

    def render_state(self, index: int) -> Floats:
        """A copy of one point's position."""
        position: Floats = self._position[index].copy()
        return position
