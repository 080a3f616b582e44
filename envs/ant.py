"""Ant families on Gymnasium's Ant-v5 model: run in a direction, or reach a goal."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from warprl.envs.family import Definition
from warprl.envs.locomotion import LocomotionFamily, Motion, control_cost
from warprl.envs.markers import add_direction, add_goal, look_down
from warprl.envs.physics import Physics
from warprl.envs.tasks import Direction, Directions, DiscGoals, Goal
from warprl.types import Task

_TORSO = 1  # its body id; 0 is the world
_CONTACT_FREE = (
    "contact-free: ProMP's observation and cost also hold the clipped contact forces (84 entries, "
    "5e-4 * sum of squares), which the Gym of its time left at nought on MuJoCo 2"
)


class Ant(LocomotionFamily):
    """What both families share; the rewarded point is the torso's frame, as in Gymnasium."""

    model_file = "ant.xml"
    frame_skip = 5
    horizon = 200

    def track(self, physics: Physics) -> NDArray[np.float64]:
        """x and y of the torso, ``[N, 2]``; like MuJoCo's own, one substep behind ``qpos``."""
        return physics.xpos[:, _TORSO, :2]


class AntDir(Ant):
    """Run forward or backward as fast as you can without leaving the ground."""

    name = "ant-dir-v1"
    distribution = Directions()
    skipped_positions = 2
    observation_text = "qpos[2:], qvel (27), as Gymnasium Ant-v5 without contact forces"
    termination_text = (
        "height of the torso outside [0, 1] m, as ProMP (Gymnasium v5 and MAML 2017: [0.2, 1]); "
        "the horizon truncates"
    )
    healthy_z = (0.0, 1.0)
    control_weight, survival = 0.5, 1.0

    def terminated(self, physics: Physics) -> NDArray[np.bool_]:
        """``[N]``: torso too low or too high."""
        low, high = self.healthy_z
        z = physics.qpos[:, 2]
        return (z < low) | (z > high)

    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        """``d * v_x + 1 - 0.5 * sum(u^2)``."""
        forward = target[:, 0] * motion.velocity[:, 0]
        return forward + self.survival - control_cost(motion.control, self.control_weight)

    def draw_task(self, spec: mujoco.MjSpec, task: Task) -> None:
        """Arrow heads on the floor."""
        assert isinstance(task, Direction)
        add_direction(spec, task.direction)

    def definition(self) -> Definition:
        """The definition card."""
        return self.card(
            reward="d * v_x + 1 - 0.5 * sum(u^2), v_x = (x_after - x_before) / dt of the torso "
            "frame (xpos)",
            differences=f"{_CONTACT_FREE}; it draws each direction by a coin. MAML 2017 (rllab): "
            "frame skip 1, dt 0.02, survival 0.05, control cost 0.005 * sum((a / scale)^2), so its "
            "returns are not comparable. VariBAD uses +-1 as an angle in radians, a different task",
            source="ProMP (Rothfuss et al., ICLR 2019), AntRandDirec (forward/backward); task "
            "first in MAML (Finn et al., ICML 2017)",
        )


class AntGoal(Ant):
    """Reach a hidden goal."""

    name = "ant-goal-v1"
    distribution = DiscGoals(3.0)
    skipped_positions = 0
    observation_text = "qpos, qvel (29), with the position, without contact forces"
    termination_text = "never; the horizon truncates"
    control_weight = 0.1

    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        """``-|xy - g|_1 - 0.1 * sum(u^2)``, at the position after the step."""
        miss = np.abs(motion.position - target)
        return -(miss[:, 0] + miss[:, 1]) - control_cost(motion.control, self.control_weight)

    def draw_task(self, spec: mujoco.MjSpec, task: Task) -> None:
        """A column at the goal, seen from above so that it is always in the picture."""
        assert isinstance(task, Goal)
        add_goal(spec, task.x, task.y, radius=0.2, height=1.0)
        look_down(spec)

    def definition(self) -> Definition:
        """The definition card."""
        return self.card(
            reward="-|xy - g|_1 - 0.1 * sum(u^2), xy of the torso frame (xpos) after the step",
            differences=f"{_CONTACT_FREE}. MAML 2017 (rllab) and pytorch-maml-rl: goals "
            "U[-3, 3]^2, reward 4 - |xy - g|_1 + 0.05 - 0.005 * sum((a / scale)^2) - contact cost, "
            "and termination",
            source="ProMP (Rothfuss et al., ICLR 2019), AntRandGoal; also PEARL, VariBAD, RLlib",
        )
