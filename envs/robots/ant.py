"""Ant families on Gymnasium's Ant-v5 model: run in a direction, at a velocity, to a goal."""

from __future__ import annotations

import numpy as np

from warprl.envs.physics import Physics
from warprl.envs.robots.locomotion import LocomotionFamily, Motion, control_cost, speed_along
from warprl.envs.tasks import Directions, DiscGoals, Headings, UniformVelocity
from warprl.types import Bools, Floats

_TORSO = 1  # its body id; 0 is the world
_CONTACT_FREE = (
    "contact-free: ProMP's observation and cost also hold the clipped contact forces (84 entries, "
    "5e-4 * sum of squares), which the Gym of its time left at zero on MuJoCo 2"
)


class Ant(LocomotionFamily):
    """What the families share; the rewarded point is the torso's frame, as in Gymnasium."""

    model_file = "ant.xml"
    frame_skip = 5
    horizon = 200

    def track(self, physics: Physics) -> Floats:
        """x and y of the torso, ``[N, 2]``; like MuJoCo's own, one substep behind ``qpos``."""
        return physics.xpos[:, _TORSO, :2]


class RunningAnt(Ant):
    """An ant that should run, wherever it is, without falling over or leaving the ground."""

    skipped_positions = 2
    observation_text = "qpos[2:], qvel (27), as Gymnasium Ant-v5 without contact forces"
    termination_text = (
        "height of the torso outside [0, 1] m, as ProMP (Gymnasium v5 and MAML 2017: [0.2, 1]); "
        "the horizon truncates"
    )
    healthy_z = (0.0, 1.0)
    control_weight, survival = 0.5, 1.0

    def terminated(self, physics: Physics) -> Bools:
        """``[N]``: torso too low or too high."""
        low, high = self.healthy_z
        z = physics.qpos[:, 2]
        return (z < low) | (z > high)


class AntDir(RunningAnt):
    """Run forward or backward as fast as you can."""

    name = "ant-dir-v1"
    distribution = Directions()
    reward_text = (
        "d * v_x + 1 - 0.5 * sum(u^2), v_x = (x_after - x_before) / dt of the torso frame (xpos)"
    )
    differences_text = (
        f"{_CONTACT_FREE}; ProMP draws each direction by a coin. learn2learn is as ProMP, without "
        "an action scale. pytorch-maml-rl, in Gym's physics: survival 0.05, control cost 0.005 * "
        "sum((a / scale)^2), height [0.2, 1], horizon 100, rotation and position of the torso in "
        "the observation. MAML 2017 has that reward in rllab: contact forces at work, frame skip "
        "1, dt 0.02, velocity of the centre of mass, no action scale, so its returns are not "
        "comparable. PEARL's AntDir draws angles (see ant-dir-2d-v1). VariBAD uses +-1 as an angle "
        "in radians, a different task"
    )
    source_text = (
        "ProMP (Rothfuss et al., ICLR 2019), AntRandDirec (forward/backward); task first in MAML "
        "(Finn et al., ICML 2017)"
    )

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        forward = target[:, 0] * motion.velocity[:, 0]
        return forward + self.survival - control_cost(motion.control, self.control_weight)


class AntDir2D(RunningAnt):
    """Run in one direction of the plane as fast as you can."""

    name = "ant-dir-2d-v1"
    distribution = Headings()
    reward_text = (
        "g . v + 1 - 0.5 * sum(u^2), v = (xy_after - xy_before) / dt of the torso frame (xpos)"
    )
    differences_text = (
        f"{_CONTACT_FREE}; ProMP draws g as a normalised N(0, I), which is the same distribution. "
        "learn2learn is as ProMP, without an action scale. PEARL (AntDir, angle U[0, 2 pi)): no "
        "contact forces in the observation, as here, height [0.2, 1] and action scale 1; its "
        "stored configuration trains on two tasks. VariBAD's AntDir2D takes cosine and sine of a "
        "vector, a different task"
    )
    source_text = "ProMP (Rothfuss et al., ICLR 2019), AntRandDirec2D"

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        forward = speed_along(target[:, 0], motion.velocity)
        return forward + self.survival - control_cost(motion.control, self.control_weight)


class AntVel(RunningAnt):
    """Run forward at a given velocity."""

    name = "ant-vel-v1"
    distribution = UniformVelocity(0.0, 3.0)
    termination_text = (
        "height of the torso outside [0.2, 1] m, as MAML 2017 and pytorch-maml-rl; the horizon "
        "truncates"
    )
    healthy_z = (0.2, 1.0)
    control_weight, survival = 0.005, 0.05
    reward_text = (
        "1 - |v_x - v*| + 0.05 - 0.005 * sum(u^2), v_x = (x_after - x_before) / dt of the torso "
        "frame (xpos)"
    )
    differences_text = (
        "contact-free: pytorch-maml-rl's observation also holds the clipped contact forces (84), "
        "the torso's rotation matrix (9) and position (3), and its cost 5e-4 * sum of squared "
        "clipped forces, which the Gym of its time left at zero on MuJoCo 2; its horizon is 100. "
        "MAML 2017 (rllab): contact forces at work, frame skip 1, dt 0.02, velocity of the centre "
        "of mass, actuators +-150 with the cost on u / 150, no action scale, initial qpos noise "
        "0.01 * N(0, 1): its returns are not comparable. ProMP has no such family"
    )
    source_text = (
        "pytorch-maml-rl (AntVel), in Gym's physics; task first in MAML (Finn et al., ICML 2017), "
        "AntEnvRand"
    )

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        hit = 1.0 - np.abs(motion.velocity[:, 0] - target[:, 0])
        return hit + self.survival - control_cost(motion.control, self.control_weight)


class AntGoal(Ant):
    """Reach a hidden goal."""

    name = "ant-goal-v1"
    distribution = DiscGoals(3.0)
    skipped_positions = 0
    observation_text = "qpos, qvel (29), with the position, without contact forces"
    termination_text = "never; the horizon truncates"
    control_weight = 0.1
    reward_text = "-|xy - g|_1 - 0.1 * sum(u^2), xy of the torso frame (xpos) after the step"
    differences_text = (
        f"{_CONTACT_FREE}. MAML 2017 (rllab) and pytorch-maml-rl: goals U[-3, 3]^2, reward 4 - |xy "
        "- g|_1 + 0.05 - 0.005 * sum((a / scale)^2) - contact cost, and termination; MAML 2017: "
        "frame skip 1, dt 0.02, no action scale; pytorch-maml-rl: horizon 100. PEARL and VariBAD "
        "are as ProMP at action scale 1. RLlib neither scales nor clips actions"
    )
    source_text = "ProMP (Rothfuss et al., ICLR 2019), AntRandGoal; also PEARL, VariBAD, RLlib"

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        miss = np.abs(motion.position - target)
        return -(miss[:, 0] + miss[:, 1]) - control_cost(motion.control, self.control_weight)
