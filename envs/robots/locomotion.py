"""What the MuJoCo robots share: a batch of simulations whose episodes differ in task only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from warprl.envs.family import Definition, ModelFamily, RenderableBatch, check_reset, task_rows
from warprl.envs.physics import Physics, load_model, model_path, quiet_compiler
from warprl.types import Task


class Motion(NamedTuple):
    """What one environment step did, for the reward."""

    position: NDArray[np.float64]  # [N, D], of the tracked point after the step, m
    velocity: NDArray[np.float64]  # [N, D], its displacement over the step / dt, or at the end, m/s
    control: NDArray[np.float32]  # [N, A], the actuator command u after scaling and clipping
    terminated: NDArray[np.bool_]  # [N], whether the step ended the episode


def control_cost(control: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """``weight * sum(u^2)``, ``[N]``, in float32 because Gymnasium computes it so."""
    cost: NDArray[np.float32] = weight * np.square(control).sum(-1)
    return cost


def speed_along(angle: NDArray[np.float64], velocity: NDArray[np.float64]) -> NDArray[np.float64]:
    """``<g, v>`` ``[N]`` of velocities ``[N, 2]`` and unit vectors g at these angles ``[N]``."""
    speed: NDArray[np.float64] = np.cos(angle) * velocity[:, 0] + np.sin(angle) * velocity[:, 1]
    return speed


class LocomotionFamily(ModelFamily):
    """Tasks for one of Gymnasium's v5 robots, with its initial noise.

    The policy's output is divided by ``action_scale`` and clipped to the actuators' range, as ProMP
    and its successors do without saying so: it sets exploration (an initial standard deviation of
    1 is a tenth of the range) and the effective inner learning rate.
    """

    model_file: str
    frame_skip: int
    action_space: Box
    skipped_positions: int  # leading entries of qpos that the observation leaves out
    observation_text: str
    termination_text: str
    derived_fields: tuple[str, ...] = ()  # of MjData, that the family reads besides xpos
    velocity_limit = np.inf  # the observation clips qvel to it
    reset_noise = 0.1
    gaussian_velocities = True  # at the start; uniform like the positions where False
    action_scale = 10.0

    def __init__(self) -> None:
        """Load the model, for the spaces."""
        model = self.model()
        size = model.nq - self.skipped_positions + model.nv
        low, high = self.action_scale * model.actuator_ctrlrange.T.astype(np.float32)
        self.dt = model.opt.timestep * self.frame_skip
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = Box(low, high, dtype=np.float32)

    def model(self) -> mujoco.MjModel:
        """The model of the physics, compiled once a process; treat it as read-only."""
        return load_model(self.model_file)

    def draw_noise(
        self, rng: np.random.Generator, positions: tuple[int, int], velocities: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Offsets from the initial qpos and qvel, in arrays of these shapes."""
        scale = self.reset_noise
        offset = rng.uniform(-scale, scale, positions)
        if self.gaussian_velocities:
            return offset, scale * rng.standard_normal(velocities)
        return offset, rng.uniform(-scale, scale, velocities)

    def make_batch(self, num_envs: int) -> LocomotionBatch:
        """``num_envs`` simulations stepped together on one thread."""
        return LocomotionBatch(self, num_envs)

    @abstractmethod
    def track(self, physics: Physics) -> NDArray[np.float64]:
        """Position ``[N, D]`` of the point whose motion is rewarded; a view is enough."""

    def velocity(
        self, physics: Physics, before: NDArray[np.float64], after: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Velocity ``[N, D]`` of that point, which a step took from ``before`` to ``after``."""
        return (after - before) / self.dt

    @abstractmethod
    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rewards ``[N]`` under the task numbers ``target`` ``[N, D]``."""

    def terminated(self, physics: Physics) -> NDArray[np.bool_]:
        """``[N]``: simulations whose episode ends here; none by default."""
        return np.zeros(len(physics.qpos), dtype=np.bool_)

    def observe(self, physics: Physics) -> NDArray[np.float64]:
        """Observations ``[N, O]``, in an array of its own that callers may keep."""
        velocities = np.clip(physics.qvel, -self.velocity_limit, self.velocity_limit)
        return np.concatenate((physics.qpos[:, self.skipped_positions :], velocities), axis=1)

    def change_model(
        self, physics: Physics, target: NDArray[np.float64], ids: NDArray[np.intp] | None
    ) -> None:
        """Give simulations ``ids`` (all if None) the model of their tasks ``target`` ``[n, D]``.

        Called before each reset. By default tasks differ in their reward only.
        """

    @abstractmethod
    def draw_task(self, spec: mujoco.MjSpec, task: Task) -> None:
        """Add the task's marker to a model for drawing."""

    def card(self, *, reward: str, differences: str, source: str) -> Definition:
        """The definition card; what the robot fixes is filled in here."""
        model = self.model()
        low, high = model.actuator_ctrlrange[0]
        noise = f"{self.reset_noise:g}"
        velocity = f"qvel {noise} * N(0, 1)" if self.gaussian_velocities else "qvel likewise"
        return Definition(
            name=self.name,
            reward=reward,
            tasks=self.distribution.text,
            held_out=self.held_out_text,
            horizon=self.horizon,
            frame_skip=self.frame_skip,
            dt=self.dt,
            observation=self.observation_text,
            action=f"u = clip(a / {self.action_scale:g}, {low:g}, {high:g}), the {model.nu} "
            "actuator commands; a is the policy's output",
            action_scale=self.action_scale,
            initial_state=f"as Gymnasium v5: qpos0 + U[-{noise}, {noise}], {velocity}",
            termination=self.termination_text,
            physics=f"MuJoCo {mujoco.__version__}, Gymnasium {gymnasium.__version__} "
            f"{self.model_file}; trajectories of other MuJoCo versions differ",
            differences=differences,
            source=source,
        )

    def render_model(self, task: Task) -> mujoco.MjModel:
        """Gymnasium's model plus a marker that nothing can touch; ``qpos`` as in the physics."""
        with quiet_compiler():
            spec = mujoco.MjSpec.from_file(str(model_path(self.model_file)))
            self.draw_task(spec, task)
            return spec.compile()


class LocomotionBatch(RenderableBatch):
    """N simulations of a :class:`LocomotionFamily`; see :class:`warprl.types.BatchEnv`."""

    action_space: Box

    def __init__(self, family: LocomotionFamily, num_envs: int) -> None:
        """Raises ValueError if ``num_envs`` is not positive."""
        model = family.model()
        self.family = family
        self.num_envs = num_envs
        self.horizon = family.horizon
        self.observation_space = family.observation_space
        self.action_space = family.action_space
        self.physics = Physics(model, num_envs, family.frame_skip, family.derived_fields)
        self._scale = np.float32(family.action_scale)
        self._low, self._high = model.actuator_ctrlrange.T.astype(np.float32)
        self._init_qpos = model.qpos0.copy()
        self._target = np.full((num_envs, family.distribution.size), np.nan)
        self._running = np.ones(num_envs, dtype=np.bool_)

    def reset(
        self, tasks: Sequence[Task], generators: Sequence[np.random.Generator]
    ) -> NDArray[np.float64]:
        """Start an episode in every simulation, with the initial noise of Gymnasium's v5 robots.

        Raises ValueError if T does not divide N or there is not one generator a task.
        """
        check_reset(tasks, generators, self.num_envs)
        self._target[:] = task_rows(tasks, self.num_envs)
        self.family.change_model(self.physics, self._target, None)
        self.physics.reset(*self._initial_states(generators, self.num_envs))
        self._running[:] = True
        return self.family.observe(self.physics)

    def restart(
        self,
        ids: NDArray[np.intp],
        tasks: Sequence[Task],
        generators: Sequence[np.random.Generator],
    ) -> NDArray[np.float64]:
        """Start a new episode in simulations ``ids``; see the base class."""
        check_reset(tasks, generators, len(ids))
        self._target[ids] = task_rows(tasks, len(ids))
        self.family.change_model(self.physics, self._target[ids], ids)
        self.physics.reset(*self._initial_states(generators, len(ids)), ids)
        self._running[ids] = True
        return self.family.observe(self.physics)[ids]

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Advance by one environment step under actions ``[N, A]``; see the protocol."""
        control = np.clip(action / self._scale, self._low, self._high)
        before = self.family.track(self.physics).copy()
        self.physics.ctrl[:] = control
        self.physics.step(self._running)
        position = self.family.track(self.physics).copy()
        terminated = self.family.terminated(self.physics)
        velocity = self.family.velocity(self.physics, before, position)
        motion = Motion(position, velocity, control, terminated)
        reward = self.family.reward(motion, self._target)
        return self.family.observe(self.physics), reward, terminated

    def skip(self, ended: NDArray[np.bool_]) -> None:
        """Spend no physics on ``ended`` until their reset: robots that fell are the slowest."""
        self._running &= ~ended

    def faults(self) -> NDArray[np.bool_]:
        """``[N]``: simulations that MuJoCo warned about since their reset."""
        return self.physics.faults()

    def render_state(self, index: int) -> NDArray[np.float64]:
        """A copy of one simulation's ``qpos``."""
        qpos: NDArray[np.float64] = self.physics.qpos[index].copy()
        return qpos

    def _initial_states(
        self, generators: Sequence[np.random.Generator], n: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """qpos ``[n, nq]`` and qvel ``[n, nv]``; each generator draws its positions first."""
        episodes = n // len(generators)
        nq, nv = self.physics.qpos.shape[1], self.physics.qvel.shape[1]
        draws = [self.family.draw_noise(g, (episodes, nq), (episodes, nv)) for g in generators]
        qpos, qvel = (np.concatenate(parts) for parts in zip(*draws, strict=True))
        return self._init_qpos + qpos, qvel
