"""Humanoid families on Gymnasium's Humanoid-v5 model: run along the x axis, or in any direction."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

from warprl.envs.physics import Physics, load_model
from warprl.envs.robots.locomotion import LocomotionFamily, Motion, speed_along
from warprl.envs.tasks import Directions, Headings
from warprl.types import Bools, Floats

_CONTROL_COST = 0.1
_OBSERVATION = 22 + 23 + 130 + 78 + 17
_DIFFERENCES = (
    "contact-free: ProMP's observation and cost also hold the contact forces (84 entries, "
    "min(5e-7 * sum of squares, 10)), which the Gym of its time left at zero on MuJoCo 2; its "
    "376 entries also hold 22 constants of the world's body and the root, which v5 leaves out. "
    "Frame skip, healthy height, initial noise and weights are those of v5 (ProMP's "
    "0.25 / timestep is 1.25 / dt). The action scale makes +-10 the actuators' whole range (0.4), "
    "as ProMP's normalisation does"
)


class Humanoid(LocomotionFamily):
    """What both families share; the rewarded point is the centre of mass, as in Gymnasium.

    The actuators' range is 0.4, so the action scale of 25 makes the policy's +-10 the whole of it,
    as the peers' normalisation does.
    """

    model_file = "humanoid.xml"
    frame_skip = 5
    horizon = 200
    skipped_positions = 2
    observation_text = (
        "qpos[2:], qvel, cinert[1:], cvel[1:], qfrc_actuator[6:] (270), as Gymnasium Humanoid-v5 "
        "without contact forces"
    )
    termination_text = (
        "height of the torso outside (1, 2) m, as Gymnasium v5 and all peers; the horizon truncates"
    )
    derived_fields = ("xipos", "cinert", "cvel", "qfrc_actuator")
    reset_noise = 1e-2
    gaussian_velocities = False
    action_scale = 25.0

    def __init__(self) -> None:
        """Load the model, for the spaces and the masses."""
        super().__init__()
        self.observation_space = Box(-np.inf, np.inf, (_OBSERVATION,), np.float64)
        self._mass = load_model(self.model_file).body_mass

    def track(self, physics: Physics) -> Floats:
        """x and y of the centre of mass, ``[N, 2]``; like MuJoCo's own, one substep behind."""
        moment = np.einsum("b,nbj->nj", self._mass, physics.derived["xipos"])
        centre: Floats = (moment / self._mass.sum())[:, :2]
        return centre

    def terminated(self, physics: Physics) -> Bools:
        """``[N]``: torso too low or too high."""
        z = physics.qpos[:, 2]
        return ~((z > 1.0) & (z < 2.0))

    def observe(self, physics: Physics) -> Floats:
        """Observations ``[N, 270]``: the state, and what MuJoCo derives from it and the command."""
        rows, derived = len(physics.qpos), physics.derived
        parts = (
            super().observe(physics),
            derived["cinert"][:, 1:].reshape(rows, -1),
            derived["cvel"][:, 1:].reshape(rows, -1),
            derived["qfrc_actuator"][:, 6:],
        )
        return np.concatenate(parts, axis=1)

    def score(self, motion: Motion, along: Floats) -> Floats:
        """Compute the rewards, in float64 because Gymnasium squares MuJoCo's own command.

        Args:
            motion: what the step did in each simulation.
            along: ``[N]``, the velocities in the direction of the task, in m/s.

        Returns:
            Rewards ``[N]``.
        """
        cost = _CONTROL_COST * np.square(motion.control, dtype=np.float64).sum(-1)
        return np.asarray(1.25 * along + 5.0 - cost)


class HumanoidDir(Humanoid):
    """Run forward or backward as fast as you can without falling."""

    name = "humanoid-dir-v1"
    distribution = Directions()
    reward_text = (
        "1.25 * d * v_x + 5 - 0.1 * sum(u^2), v = (c_after - c_before) / dt of the centre of mass "
        "(of xipos); the 5 are paid in the step that falls, too (Gymnasium v5: not)"
    )
    differences_text = (
        f"{_DIFFERENCES}. ProMP draws each direction by a coin, and so does learn2learn, whose "
        "environment is ProMP's without an action scale"
    )
    source_text = "ProMP (Rothfuss et al., ICLR 2019), HumanoidRandDirec; also learn2learn"

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        return self.score(motion, target[:, 0] * motion.velocity[:, 0])


class HumanoidDir2D(Humanoid):
    """Run in a given direction of the plane as fast as you can without falling."""

    name = "humanoid-dir-2d-v1"
    distribution = Headings()
    reward_text = (
        "1.25 * <g, v> + 5 - 0.1 * sum(u^2), v = (c_after - c_before) / dt of the centre of mass "
        "(of xipos); the 5 are paid in the step that falls, too (Gymnasium v5: not)"
    )
    differences_text = (
        f"{_DIFFERENCES}. ProMP draws g as a normalised normal vector, the same distribution. "
        "PEARL and VariBAD have the same reward, draw an angle, and map [-1, 1] to the actuators' "
        "range (action scale 1). learn2learn is as ProMP, without an action scale"
    )
    source_text = "ProMP (Rothfuss et al., ICLR 2019), HumanoidRandDirec2D; PEARL, HumanoidDir"

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        return self.score(motion, speed_along(target[:, 0], motion.velocity))
