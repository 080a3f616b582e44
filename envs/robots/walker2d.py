"""Walker2d families on Gymnasium's Walker2d-v5 model: a direction, a velocity, or another body."""

from __future__ import annotations

import numpy as np

from warprl.envs.physics import Physics
from warprl.envs.robots.dynamics import RandomDynamics, RandParams
from warprl.envs.robots.locomotion import LocomotionFamily, Motion, control_cost
from warprl.envs.tasks import Directions, UniformVelocity
from warprl.types import Bools, Floats

_CONTROL_COST = 1e-3
_FEET = (
    "the walker of the peers' Gym has a friction of 0.9 under its right foot, where v5 has 1.9 "
    "under both"
)
_FRAME_SKIP = "frame skip as ProMP (Gymnasium v5: 4, dt 0.008)"


class Walker2d(LocomotionFamily):
    """What the families share; the rewarded point is the root joint's x."""

    model_file = "walker2d_v5.xml"
    horizon = 200
    skipped_positions = 1
    velocity_limit = 10.0
    observation_text = "qpos[1:], clip(qvel, -10, 10) (17), as Gymnasium Walker2d-v5"
    termination_text = (
        "height of the torso outside (0.8, 2) m or its angle outside (-1, 1) rad, as Gymnasium v5 "
        "and all peers; the horizon truncates"
    )
    reset_noise = 5e-3
    gaussian_velocities = False

    def terminated(self, physics: Physics) -> Bools:
        """``[N]``: torso too low, too high or too far from upright."""
        z, angle = physics.qpos[:, 1], physics.qpos[:, 2]
        return ~((z > 0.8) & (z < 2.0) & (np.abs(angle) < 1.0))


class Walker2dDir(Walker2d):
    """Walk forward or backward as fast as you can without falling."""

    name = "walker2d-dir-v1"
    frame_skip = 8
    distribution = Directions()
    reward_text = (
        "d * v_x + 1 - 0.001 * sum(u^2), v_x = (x_after - x_before) / dt of the root joint; the 1 "
        "is paid in the step that falls, too (Gymnasium v5: not)"
    )
    differences_text = f"{_FRAME_SKIP}; ProMP draws each direction by a coin; {_FEET}"
    source_text = "ProMP (Rothfuss et al., ICLR 2019), Walker2DRandDirec"

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        forward = target[:, 0] * motion.velocity[:, 0]
        return forward + 1.0 - control_cost(motion.control, _CONTROL_COST)


class Walker2dVel(Walker2d):
    """Walk forward at a given velocity."""

    name = "walker2d-vel-v1"
    frame_skip = 8
    distribution = UniformVelocity(0.0, 10.0)
    post_interval = 0.2  # it may be fast
    reward_text = (
        "15 - |v_x - v*| - 0.001 * sum(u^2), v_x = (x_after - x_before) / dt of the root joint; "
        "the 15 keep it worth while not to fall, and are paid in the step that falls, too"
    )
    differences_text = f"{_FRAME_SKIP}; {_FEET}"
    source_text = "ProMP (Rothfuss et al., ICLR 2019), Walker2DRandVel"

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        miss = np.abs(motion.velocity[:, 0] - target[:, 0])
        return 15.0 - miss - control_cost(motion.control, _CONTROL_COST)


class Walker2dRandParams(RandParams, Walker2d):
    """Walk forward with another body: masses, inertias, frictions and damping are the task."""

    name = "walker2d-rand-params-v1"
    frame_skip = 4
    distribution = RandomDynamics(bodies=8, geoms=8, dofs=9)
    differences_text = (
        "as in the peers, whose base class fixes frame skip 4 (so has v5), each entry of an "
        "inertia is drawn apart from the mass. The multipliers are of the nominal model, and "
        "mj_setConst follows; the peers leave derived constants as they were. The action scale and "
        "the horizon are ProMP's; PEARL and VariBAD have that horizon and action scale 1. Also "
        f"{_FEET}"
    )
    source_text = (
        "rand_param_envs (dennisl88), Walker2DRandParams with log_scale_limit 3, as ProMP "
        "(Rothfuss et al., ICLR 2019), PEARL and VariBAD"
    )
