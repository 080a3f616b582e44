"""HalfCheetah as MAML met it in 2017, in rllab, so that its published returns can be compared.

rllab's robot is Gymnasium's, number for number; frame skip, horizon, noise, observation, rewarded
velocity and action scale are not.
"""

from __future__ import annotations

import functools

import mujoco
import numpy as np
from gymnasium.spaces import Box

from warprl.envs.physics import Physics, model_path, quiet_compiler
from warprl.envs.robots.half_cheetah import HalfCheetah, HalfCheetahDir, HalfCheetahVel
from warprl.envs.tasks import UniformVelocity
from warprl.types import Floats

_POSITION_NOISE, _VELOCITY_NOISE = 0.01, 0.1
_REWARDED = (
    "v_x of the centre of mass of the whole robot in the state after the step (an instantaneous "
    "velocity, not a displacement)"
)
_DIFFERENCES = (
    "MAML 2017 ran the same robot in MuJoCo 1.31, whose trajectories differ. ProMP, "
    "pytorch-maml-rl, garage, PEARL and VariBAD: frame skip 5, dt 0.05, velocity of the root or "
    "torso, initial qpos0 + U[-0.1, 0.1]; the first three: action scale 10, horizon 100; the last "
    "two: action scale 1, horizon 200"
)


@functools.cache
def _model(file: str) -> mujoco.MjModel:
    """Gymnasium's model with two sensors: position and velocity of the centre of mass."""
    with quiet_compiler():
        spec = mujoco.MjSpec.from_file(str(model_path(file)))
        for kind in (mujoco.mjtSensor.mjSENS_SUBTREECOM, mujoco.mjtSensor.mjSENS_SUBTREELINVEL):
            spec.add_sensor(type=kind, objtype=mujoco.mjtObj.mjOBJ_BODY, objname="torso")
        return spec.compile()


class HalfCheetahMaml2017(HalfCheetah):
    """What both families share; the rewarded point is the centre of mass."""

    frame_skip = 1
    horizon = 200
    action_scale = 1.0
    observation_text = "qpos[1:], qvel, xyz of the centre of mass (20)"

    def __init__(self) -> None:
        """Load the model, for the spaces."""
        super().__init__()
        (size,) = self.observation_space.shape
        self.observation_space = Box(-np.inf, np.inf, (size + 3,), np.float64)

    def model(self) -> mujoco.MjModel:
        """Gymnasium's model with sensors of the centre of mass; treat it as read-only."""
        return _model(self.model_file)

    def draw_noise(
        self, rng: np.random.Generator, positions: tuple[int, int], velocities: tuple[int, int]
    ) -> tuple[Floats, Floats]:
        """Draw rllab's normal noise; see the base class."""
        offset = _POSITION_NOISE * rng.standard_normal(positions)
        return offset, _VELOCITY_NOISE * rng.standard_normal(velocities)

    @property
    def initial_state_text(self) -> str:
        """What the definition card says about the initial state."""
        noise = f"qpos0 + {_POSITION_NOISE:g} * N(0, 1), qvel {_VELOCITY_NOISE:g} * N(0, 1)"
        return f"as rllab: {noise}"

    def track(self, physics: Physics) -> Floats:
        """x of the centre of mass, ``[N, 1]``."""
        return physics.sensordata[:, :1]

    def velocity(self, physics: Physics, before: Floats, after: Floats) -> Floats:
        """x velocity ``[N, 1]`` of the centre of mass after the step; see the base class."""
        return physics.sensordata[:, 3:4]

    def observe(self, physics: Physics) -> Floats:
        """Observations ``[N, 20]``, in an array of its own that callers may keep."""
        return np.concatenate((super().observe(physics), physics.sensordata[:, :3]), axis=1)


class HalfCheetahDirMaml2017(HalfCheetahMaml2017, HalfCheetahDir):
    """Run forward or backward as fast as you can, in two seconds."""

    name = "half-cheetah-dir-maml2017-v1"
    reward_text = f"d * v_x - 0.05 * sum(u^2), {_REWARDED}"
    differences_text = (
        f"MAML 2017 draws each direction by a coin. {_DIFFERENCES}. RLlib and learn2learn have "
        "these physics, too, and no action scale"
    )
    source_text = "MAML (Finn et al., ICML 2017), cbfinn/maml_rl, HalfCheetahEnvRandDirec"


class HalfCheetahVelMaml2017(HalfCheetahMaml2017, HalfCheetahVel):
    """Run forward at a given velocity, for two seconds."""

    name = "half-cheetah-vel-maml2017-v1"
    distribution = UniformVelocity(0.0, 2.0)
    reward_text = f"-|v_x - v*| - 0.05 * sum(u^2), {_REWARDED}"
    differences_text = (
        "MAML 2017's published returns are for 40 goals drawn from the same U[0, 2], not for "
        f"these. {_DIFFERENCES}. ProMP, PEARL and VariBAD draw v* from U[0, 3]"
    )
    source_text = "MAML (Finn et al., ICML 2017), cbfinn/maml_rl, HalfCheetahEnvRand"
