"""The Hopper family on Gymnasium's Hopper-v5 model: hop forward with another body."""

from __future__ import annotations

import numpy as np

from warprl.envs.physics import Physics
from warprl.envs.robots.dynamics import RandomDynamics, RandParams
from warprl.types import Bools


class HopperRandParams(RandParams):
    """Masses, inertias, frictions and damping are the task; the rewarded point is the root's x."""

    name = "hopper-rand-params-v1"
    model_file = "hopper.xml"
    frame_skip = 4
    horizon = 200
    distribution = RandomDynamics(bodies=5, geoms=5, dofs=6)
    skipped_positions = 1
    velocity_limit = 10.0
    observation_text = "qpos[1:], clip(qvel, -10, 10) (11), as Gymnasium Hopper-v5"
    termination_text = (
        "height of the torso not above 0.7 m, its angle outside (-0.2, 0.2) rad, or an entry of "
        "(qpos[2:], qvel) outside (-100, 100), as Gymnasium v5 and all peers; the horizon truncates"
    )
    reset_noise = 5e-3
    gaussian_velocities = False
    differences_text = (
        "as in the peers, each entry of an inertia is drawn apart from the mass. The multipliers "
        "are of the nominal model, and mj_setConst follows; the peers leave derived constants as "
        "they were. Frame skip 4 everywhere. The action scale and the horizon are ProMP's; PEARL "
        "and VariBAD have that horizon and action scale 1"
    )
    source_text = (
        "rand_param_envs (dennisl88), HopperRandParams with log_scale_limit 3, as ProMP (Rothfuss "
        "et al., ICLR 2019), PEARL and VariBAD"
    )

    def terminated(self, physics: Physics) -> Bools:
        """``[N]``: torso too low or too far from upright, or the state out of bounds."""
        z, angle = physics.qpos[:, 1], physics.qpos[:, 2]
        state = np.concatenate((physics.qpos[:, 2:], physics.qvel), axis=1)
        bounded = (np.abs(state) < 100.0).all(axis=1)
        return ~(bounded & (z > 0.7) & (np.abs(angle) < 0.2))
