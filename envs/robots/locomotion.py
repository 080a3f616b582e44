"""What the MuJoCo robots share: a family, and a batch of simulations that differ in their tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from warprl.envs.family import Definition, ModelFamily, RenderableBatch, task_rows
from warprl.envs.physics import Physics, load_model, model_path, quiet_compiler
from warprl.envs.robots.markers import mark
from warprl.types import Bools, EnvStep, Floats, Generators, Ids, Task


class Motion(NamedTuple):
    """What one environment step did, for the reward."""

    position: Floats  # [N, P], of the rewarded point after the step, m
    velocity: Floats  # [N, P], its displacement over the step / dt, or at the end, m/s
    control: NDArray[np.float32]  # [N, A], the actuator command u after scaling and clipping
    terminated: Bools  # [N], whether the step ended the episode


def control_cost(control: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Compute ``weight * sum(u^2)``, in float32 because Gymnasium does so.

    Args:
        control: ``[N, A]``, the actuator commands u.
        weight: what a unit of squared command costs.

    Returns:
        The costs ``[N]``.
    """
    return np.asarray(weight * np.square(control).sum(-1))


def speed_along(angle: Floats, velocity: Floats) -> Floats:
    """Compute ``<g, v>``, the speed in a direction of the plane.

    Args:
        angle: ``[N]``, the angles of the unit vectors g from the x axis, in radians.
        velocity: ``[N, 2]``, the velocities v, in m/s.

    Returns:
        The speeds ``[N]``, in m/s.
    """
    speed: Floats = np.cos(angle) * velocity[:, 0] + np.sin(angle) * velocity[:, 1]
    return speed


class LocomotionFamily(ModelFamily):
    """Tasks for one of Gymnasium's v5 robots, with its initial noise.

    The policy's output is divided by ``action_scale`` and clipped to the actuators' range, as ProMP
    and its successors do without saying so: it sets exploration (an initial standard deviation of
    1 is a tenth of the range) and the effective inner learning rate.

    A family sets the attributes below and writes ``reward``; the attributes that end in ``_text``
    are lines of its definition card.
    """

    model_file: str
    frame_skip: int
    action_space: Box
    skipped_positions: int  # leading entries of qpos that the observation leaves out
    observation_text: str
    reward_text: str  # the formula, with d, v*, g of the tasks and the actuator commands u
    termination_text: str
    differences_text: str
    source_text: str
    derived_fields: tuple[str, ...] = ()  # of MjData, that the family reads besides xpos
    velocity_limit = np.inf  # the observation clips qvel to it
    reset_noise = 0.1
    gaussian_velocities = True  # at the start; if False, they are uniform like the positions
    action_scale = 10.0
    post_interval = 1.0  # s between the posts that show a target velocity in pictures

    def __init__(self) -> None:
        """Load the model, for the spaces."""
        model = self.model()
        size = model.nq - self.skipped_positions + model.nv
        low, high = self.action_scale * model.actuator_ctrlrange.T.astype(np.float32)
        self.dt = model.opt.timestep * self.frame_skip
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = Box(low, high, dtype=np.float32)

    def model(self) -> mujoco.MjModel:
        """The model of the physics, compiled once in a process; treat it as read-only."""
        return load_model(self.model_file)

    def draw_noise(
        self, rng: np.random.Generator, positions: tuple[int, int], velocities: tuple[int, int]
    ) -> tuple[Floats, Floats]:
        """Draw the initial noise of some episodes.

        Args:
            rng: what draws it, the positions first.
            positions: ``(n, nq)``, the shape of the first array.
            velocities: ``(n, nv)``, the shape of the second.

        Returns:
            Offsets from the initial qpos ``[n, nq]`` and qvel ``[n, nv]``.
        """
        scale = self.reset_noise
        offset = rng.uniform(-scale, scale, positions)
        if self.gaussian_velocities:
            return offset, scale * rng.standard_normal(velocities)
        return offset, rng.uniform(-scale, scale, velocities)

    @property
    def initial_state_text(self) -> str:
        """What the definition card says about the initial state."""
        noise = f"{self.reset_noise:g}"
        velocity = f"qvel {noise} * N(0, 1)" if self.gaussian_velocities else "qvel likewise"
        return f"as Gymnasium v5: qpos0 + U[-{noise}, {noise}], {velocity}"

    def make_batch(self, num_envs: int) -> LocomotionBatch:
        """``num_envs`` simulations that are stepped together on one thread."""
        return LocomotionBatch(self, num_envs)

    def track(self, physics: Physics) -> Floats:
        """Where the rewarded point is: by default, x of the root joint.

        Args:
            physics: the simulations.

        Returns:
            Positions ``[N, P]``, in m; a view is enough.
        """
        return physics.qpos[:, :1]

    def velocity(self, physics: Physics, before: Floats, after: Floats) -> Floats:
        """Compute the velocity that is rewarded: by default ``(after - before) / dt``.

        Args:
            physics: the simulations after the step.
            before: ``[N, P]``, the position of the rewarded point before the step.
            after: ``[N, P]``, its position after the step.

        Returns:
            Velocities ``[N, P]``, in m/s.
        """
        return (after - before) / self.dt

    @abstractmethod
    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Compute the rewards that ``reward_text`` states in words.

        Args:
            motion: what the step did in each simulation.
            target: ``[N, D]``, the numbers of each simulation's task, field by field.

        Returns:
            Rewards ``[N]``.
        """

    def terminated(self, physics: Physics) -> Bools:
        """``[N]``: simulations whose episode ends here; none by default."""
        return np.zeros(len(physics.qpos), dtype=np.bool_)

    def observe(self, physics: Physics) -> Floats:
        """Observations ``[N, O]``, in an array of its own that callers may keep."""
        velocities = np.clip(physics.qvel, -self.velocity_limit, self.velocity_limit)
        return np.concatenate((physics.qpos[:, self.skipped_positions :], velocities), axis=1)

    def change_model(self, physics: Physics, target: Floats, ids: Ids) -> None:
        """Give some simulations the model of their tasks, before each reset.

        By default, tasks differ in their reward only, and nothing is changed.

        Args:
            physics: the simulations.
            target: ``[n, D]``, the numbers of the tasks.
            ids: ``[n]``, the simulations that start an episode.
        """

    def definition(self) -> Definition:
        """The definition card: what the family says, and what its robot fixes."""
        model = self.model()
        low, high = model.actuator_ctrlrange[0]
        return self.card(
            self.frame_skip,
            reward=self.reward_text,
            observation=self.observation_text,
            action=f"u = clip(a / {self.action_scale:g}, {low:g}, {high:g}), the {model.nu} "
            "actuator commands; a is the policy's output",
            initial_state=self.initial_state_text,
            termination=self.termination_text,
            physics=f"MuJoCo {mujoco.__version__}, Gymnasium {gymnasium.__version__} "
            f"{self.model_file}; trajectories of other MuJoCo versions differ",
            differences=self.differences_text,
            source=self.source_text,
        )

    def render_model(self, task: Task) -> mujoco.MjModel:
        """Gymnasium's model plus a marker that nothing can touch; ``qpos`` as in the physics."""
        posts = round(self.horizon * self.dt / self.post_interval)
        times = [self.post_interval * number for number in range(1, posts + 1)]
        with quiet_compiler():
            spec = mujoco.MjSpec.from_file(str(model_path(self.model_file)))
            mark(task, spec, times)
            return spec.compile()


class LocomotionBatch(RenderableBatch):
    """N simulations of a :class:`LocomotionFamily`; see :class:`warprl.types.BatchEnv`."""

    def __init__(self, family: LocomotionFamily, num_envs: int) -> None:
        """Raises ValueError if ``num_envs`` is not positive."""
        super().__init__(num_envs, family.horizon)
        model = family.model()
        self.family = family
        self.physics = Physics(model, num_envs, family.frame_skip, family.derived_fields)
        self._scale = np.float32(family.action_scale)
        self._low, self._high = model.actuator_ctrlrange.T.astype(np.float32)
        self._init_qpos = model.qpos0.copy()
        self._target = np.full((num_envs, family.distribution.size), np.nan)
        self._running = np.ones(num_envs, dtype=np.bool_)

    def _restart(self, ids: Ids, tasks: Sequence[Task], generators: Generators) -> Floats:
        """Start a new episode in simulations ``ids``; see the base class."""
        self._target[ids] = task_rows(tasks, len(ids))
        self.family.change_model(self.physics, self._target[ids], ids)
        self.physics.reset(*self._initial_states(generators, len(ids)), ids)
        self._running[ids] = True
        return self.family.observe(self.physics)[ids]

    def step(self, action: NDArray[np.float32]) -> EnvStep:
        """Advance by one step under actions ``[N, A]``; see :class:`warprl.types.BatchEnv`."""
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

    def skip(self, ended: Bools) -> None:
        """Spend no physics on ``ended`` until their reset: robots that fell are the slowest."""
        self._running &= ~ended

    def faults(self) -> Bools:
        """``[N]``: simulations that MuJoCo warned about since their reset."""
        return self.physics.faults()

    def render_state(self, index: int) -> Floats:
        """A copy of one simulation's ``qpos``."""
        qpos: Floats = self.physics.qpos[index].copy()
        return qpos

    def _initial_states(self, generators: Generators, n: int) -> tuple[Floats, Floats]:
        """qpos ``[n, nq]`` and qvel ``[n, nv]``; each generator draws its positions first."""
        episodes = n // len(generators)
        nq, nv = self.physics.qpos.shape[1], self.physics.qvel.shape[1]
        draws = [self.family.draw_noise(g, (episodes, nq), (episodes, nv)) for g in generators]
        qpos, qvel = (np.concatenate(parts) for parts in zip(*draws, strict=True))
        return self._init_qpos + qpos, qvel
