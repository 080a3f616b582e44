"""HalfCheetah families on Gymnasium's HalfCheetah-v5 model: run in a direction or at a velocity."""

from __future__ import annotations

import numpy as np

from warprl.envs.robots.locomotion import LocomotionFamily, Motion, control_cost
from warprl.envs.tasks import Directions, UniformVelocity
from warprl.types import Floats

_CONTROL_COST = 0.05


class HalfCheetah(LocomotionFamily):
    """What both families share; the rewarded point is the root joint's x."""

    model_file = "half_cheetah.xml"
    frame_skip = 5
    horizon = 100
    skipped_positions = 1
    observation_text = "qpos[1:], qvel (17), as Gymnasium HalfCheetah-v5"
    termination_text = "never; the horizon truncates"


class HalfCheetahDir(HalfCheetah):
    """Run forward or backward as fast as you can."""

    name = "half-cheetah-dir-v1"
    distribution = Directions()
    reward_text = "d * v_x - 0.05 * sum(u^2), v_x = (x_after - x_before) / dt of the root joint"
    differences_text = (
        "ProMP draws each direction by a coin. MAML 2017 (rllab): frame skip 1, dt 0.01, horizon "
        "200, velocity of the centre of mass, 20-dimensional observation, no action scale: its "
        "returns are not comparable. pytorch-maml-rl, garage, learn2learn, PEARL and VariBAD add "
        "the torso position to the observation (20); the last two have horizon 200 and action "
        "scale 1. Neither RLlib nor learn2learn scales actions, and RLlib does not clip them"
    )
    source_text = (
        "ProMP (Rothfuss et al., ICLR 2019), HalfCheetahRandDirec; task first in MAML (Finn et "
        "al., ICML 2017)"
    )

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        forward = target[:, 0] * motion.velocity[:, 0]
        return forward - control_cost(motion.control, _CONTROL_COST)


class HalfCheetahVel(HalfCheetah):
    """Run forward at a given velocity."""

    name = "half-cheetah-vel-v1"
    distribution = UniformVelocity(0.0, 3.0)
    reward_text = "-|v_x - v*| - 0.05 * sum(u^2), v_x = (x_after - x_before) / dt of the root joint"
    differences_text = (
        "MAML 2017 (rllab), pytorch-maml-rl and garage draw v* from U[0, 2]; MAML 2017 has frame "
        "skip 1, dt 0.01, horizon 200, velocity of the centre of mass, 20-dimensional observation "
        "and no action scale: its returns are not comparable. pytorch-maml-rl, garage, PEARL and "
        "VariBAD add the torso position to the observation (20); the last two have horizon 200 and "
        "action scale 1. PEARL trains on 100 velocities and tests on 30 others, drawn once. AMAGO: "
        "HalfCheetah-v4 and horizon 1000"
    )
    source_text = (
        "ProMP (Rothfuss et al., ICLR 2019), HalfCheetahRandVel; task first in MAML (Finn et al., "
        "ICML 2017)"
    )

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        miss = np.abs(motion.velocity[:, 0] - target[:, 0])
        return -miss - control_cost(motion.control, _CONTROL_COST)
