"""The native batch is exactly MuJoCo, one simulation at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from warprl.envs.ant import AntDir
from warprl.envs.dynamics import Dynamics
from warprl.envs.half_cheetah import HalfCheetahDir
from warprl.envs.hopper import HopperRandParams
from warprl.envs.humanoid import HumanoidDir, HumanoidDir2d
from warprl.envs.locomotion import LocomotionBatch, LocomotionFamily, Motion, control_cost
from warprl.envs.physics import Physics, load_model, model_path, quiet_compiler
from warprl.envs.tasks import Direction, Heading
from warprl.envs.walker2d import Walker2dDir, Walker2dRandParams, Walker2dVel
from warprl.types import Task

FORWARD = Direction(1.0)
FRAME_SKIP = 5


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo writes its warnings to MUJOCO_LOG.TXT in the current folder."""
    monkeypatch.chdir(tmp_path)


class GymnasiumHalfCheetah(HalfCheetahDir):
    """Gymnasium's own reward."""

    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        return motion.velocity[:, 0] - control_cost(motion.control, 0.1)


class GymnasiumAnt(AntDir):
    """Gymnasium's own reward and healthy range."""

    healthy_z = (0.2, 1.0)

    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        return motion.velocity[:, 0] + ~motion.terminated - control_cost(motion.control, 0.5)


class GymnasiumWalker(Walker2dDir):
    """This family's reward, but as in Gymnasium the step that falls is not paid for."""

    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        fallen = motion.velocity[:, 0] - control_cost(motion.control, 1e-3)
        return np.where(motion.terminated, fallen, super().reward(motion, target))


class GymnasiumNominalWalker(Walker2dRandParams):
    """The same, with Gymnasium's frame skip."""

    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        fallen = motion.velocity[:, 0] - control_cost(motion.control, 1e-3)
        return np.where(motion.terminated, fallen, super().reward(motion, target))


class GymnasiumNominalHopper(HopperRandParams):
    """The same for the hopper."""

    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        fallen = motion.velocity[:, 0] - control_cost(motion.control, 1e-3)
        return np.where(motion.terminated, fallen, super().reward(motion, target))


class GymnasiumHumanoid(HumanoidDir):
    """The same for the humanoid, whose command Gymnasium squares in float64."""

    def reward(self, motion: Motion, target: NDArray[np.float64]) -> NDArray[np.float64]:
        cost = 0.1 * np.square(motion.control.astype(np.float64)).sum(-1)
        fallen = 1.25 * motion.velocity[:, 0] - cost
        return np.where(motion.terminated, fallen, super().reward(motion, target))


def unchanged(bodies: int, geoms: int, dofs: int) -> Dynamics:
    """The task whose model is the nominal one."""
    return Dynamics((1.0,) * bodies, (1.0,) * (3 * bodies), (1.0,) * (3 * geoms), (1.0,) * dofs)


CONTACT_FREE = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}


@pytest.mark.parametrize(
    ("family", "task", "name", "options"),
    [
        (GymnasiumHalfCheetah, FORWARD, "HalfCheetah-v5", {}),
        (GymnasiumAnt, FORWARD, "Ant-v5", CONTACT_FREE),
        (GymnasiumWalker, FORWARD, "Walker2d-v5", {"frame_skip": 8}),
        (GymnasiumNominalWalker, unchanged(8, 8, 9), "Walker2d-v5", {}),
        (GymnasiumNominalHopper, unchanged(5, 5, 6), "Hopper-v5", {}),
        (GymnasiumHumanoid, FORWARD, "Humanoid-v5", CONTACT_FREE),
    ],
)
def test_a_batch_equals_gymnasium_for_a_thousand_steps(
    family: type[LocomotionFamily], task: Task, name: str, options: dict[str, Any]
) -> None:
    episodes, num_envs = [1000, 50], 3
    with quiet_compiler():
        peers: list[Any] = [gymnasium.make(name, **options).unwrapped for _ in range(num_envs)]
    batch = family().make_batch(num_envs)
    actions = np.random.default_rng(0)
    ended = lived = 0
    for episode, length in enumerate(episodes):
        observation = batch.reset([task], [np.random.default_rng(episode)])
        for i, peer in enumerate(peers):
            peer.reset()
            peer.set_state(batch.physics.qpos[i], batch.physics.qvel[i])
            assert np.array_equal(observation[i], peer._get_obs())
        for _ in range(length):
            # Gymnasium leaves clipping to MuJoCo but charges for the command it was given.
            action = actions.uniform(-11.0, 11.0, (num_envs, *batch.action_space.shape))
            observation, reward, terminated = batch.step(action.astype(np.float32))
            scale, high = np.float32(batch.family.action_scale), peers[0].action_space.high
            command = np.clip(action.astype(np.float32) / scale, -high, high)
            for i, peer in enumerate(peers):
                expected = peer.step(command[i])
                assert np.abs(observation[i] - expected[0]).max() == 0.0
                assert reward[i] - expected[1] == 0.0
                assert terminated[i] == expected[2]
            ended += int(terminated.sum())
            lived += int((~terminated).sum())
    assert (ended > 0) == (name != "HalfCheetah-v5"), "the termination was put to the test"
    assert lived > 50, "and so was the rest"
    for peer in peers:
        peer.close()


@pytest.mark.parametrize(
    "family",
    [
        HalfCheetahDir,
        AntDir,
        Walker2dDir,
        Walker2dVel,
        Walker2dRandParams,
        HopperRandParams,
        HumanoidDir2d,
    ],
)
def test_neighbours_in_a_batch_do_not_influence_each_other(
    family: type[LocomotionFamily],
) -> None:
    first, second = family().sample_tasks(np.random.default_rng(0), 2)
    crowd, alone = family().make_batch(4), family().make_batch(2)
    crowd.reset([first, second], [np.random.default_rng(1), np.random.default_rng(2)])
    alone.reset([second], [np.random.default_rng(2)])
    actions = np.random.default_rng(3)
    for step in range(60):
        if step == 20:
            crowd.physics.qvel[0] = np.nan
        if step == 40:
            crowd.restart(np.array([1]), [second], [np.random.default_rng(4)])
        action = actions.uniform(-10, 10, (4, *crowd.action_space.shape)).astype(np.float32)
        together = crowd.step(action)
        apart = alone.step(action[2:])
        for mine, theirs in zip(together, apart, strict=True):
            assert np.array_equal(mine[2:], theirs)
    assert crowd.faults().tolist() == [True, False, False, False]


def test_episodes_of_a_task_differ_and_repeat() -> None:
    batch = HalfCheetahDir().make_batch(4)
    first = batch.reset([FORWARD, FORWARD], [np.random.default_rng(1), np.random.default_rng(2)])
    again = batch.reset([FORWARD, FORWARD], [np.random.default_rng(1), np.random.default_rng(2)])
    assert np.array_equal(first, again)
    assert len(np.unique(first, axis=0)) == 4


def test_initial_noise_is_gymnasiums() -> None:
    batch = HalfCheetahDir().make_batch(4000)
    batch.reset([FORWARD], [np.random.default_rng(0)])
    offset = batch.physics.qpos - load_model("half_cheetah.xml").qpos0
    assert np.abs(offset).max() <= 0.1
    # The variance of U[-w, w] is w^2 / 3 = 0.00333; that of 0.1 N(0, 1) is 0.01.
    assert offset.var() == pytest.approx(0.1**2 / 3, rel=0.05)
    assert batch.physics.qvel.var() == pytest.approx(0.01, rel=0.05)
    assert abs(batch.physics.qvel.mean()) < 0.003


@pytest.mark.parametrize(
    ("family", "task", "scale"),
    [(Walker2dDir, FORWARD, 0.005), (HumanoidDir2d, Heading(0.0), 0.01)],
)
def test_initial_noise_of_the_walking_robots_is_uniform_as_gymnasiums(
    family: type[LocomotionFamily], task: Task, scale: float
) -> None:
    batch = family().make_batch(2000)
    batch.reset([task], [np.random.default_rng(0)])
    for offset in (batch.physics.qpos - load_model(family.model_file).qpos0, batch.physics.qvel):
        assert np.abs(offset).max() <= scale
        assert offset.var() == pytest.approx(scale**2 / 3, rel=0.05)


def test_an_array_a_caller_keeps_is_never_written_to() -> None:
    batch = HalfCheetahDir().make_batch(2)
    kept = batch.reset([FORWARD], [np.random.default_rng(0)])
    before = kept.copy()
    observation, reward, _ = batch.step(np.ones((2, 6), np.float32))
    held = observation.copy(), reward.copy()
    batch.step(np.ones((2, 6), np.float32))
    assert np.array_equal(kept, before)
    assert np.array_equal(observation, held[0]) and np.array_equal(reward, held[1])


def simulate(
    model: mujoco.MjModel, qpos: NDArray[np.float64], control: NDArray[np.float64]
) -> NDArray[np.float64]:
    """qpos after the controls ``[steps, nu]``, by a plain loop over one MjData."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    for u in control:
        data.ctrl[:] = u
        mujoco.mj_step(model, data, nstep=FRAME_SKIP)
    result: NDArray[np.float64] = data.qpos.copy()
    return result


@pytest.mark.parametrize("file", ["half_cheetah.xml", "ant.xml"])
def test_per_simulation_masses_equal_separately_compiled_models(file: str) -> None:
    models = []
    for factor in (0.5, 1.0, 2.0):
        with quiet_compiler():
            spec = mujoco.MjSpec.from_file(str(model_path(file)))
            spec.compiler.settotalmass *= factor  # HalfCheetah; -1 (off) for Ant
            for geom in spec.geoms:
                geom.density *= factor
            models.append(spec.compile())
    assert len({model.body_mass.sum() for model in models}) == 3
    shared = load_model(file)
    physics = Physics(shared, len(models), FRAME_SKIP)
    masses, inertias = physics.model_field("body_mass"), physics.model_field("body_inertia")
    for i, model in enumerate(models):
        masses[i], inertias[i] = model.body_mass, model.body_inertia
    physics.apply_model_fields()
    rng = np.random.default_rng(0)
    qpos = shared.qpos0 + rng.uniform(-0.1, 0.1, (len(models), shared.nq))
    control = rng.uniform(-1.0, 1.0, (100, len(models), shared.nu))
    physics.reset(qpos, np.zeros((len(models), shared.nv)))
    for u in control:
        physics.ctrl[:] = u
        physics.step()
    for i, model in enumerate(models):
        assert np.array_equal(physics.qpos[i], simulate(model, qpos[i], control[:, i]))
    assert not np.array_equal(physics.qpos[0], simulate(models[1], qpos[0], control[:, 0]))


def started(num_envs: int) -> LocomotionBatch:
    batch = HalfCheetahDir().make_batch(num_envs)
    batch.reset([FORWARD], [np.random.default_rng(0)])
    return batch


def test_a_simulation_that_mujoco_silently_reset_is_a_fault() -> None:
    batch = started(3)
    batch.physics.qvel[1] = np.nan
    observation, reward, _ = batch.step(np.zeros((3, 6), np.float32))
    assert batch.faults().tolist() == [False, True, False]
    assert np.isfinite(observation).all() and np.isfinite(reward).all()
    batch.step(np.zeros((3, 6), np.float32))
    assert batch.faults().tolist() == [False, True, False], "until its reset"
    batch.restart(np.array([1]), [FORWARD], [np.random.default_rng(1)])
    assert not batch.faults().any()


def test_a_nan_action_is_a_fault_of_its_simulation_alone() -> None:
    batch = started(3)
    action = np.zeros((3, 6), np.float32)
    action[2, 4] = np.nan
    observation, _, _ = batch.step(action)
    assert batch.faults().tolist() == [False, False, True]
    assert np.isfinite(observation).all()


def test_an_error_in_one_simulation_is_a_fault_and_the_others_go_on() -> None:
    batch, peer = started(3), started(3)
    integrators = batch.physics.model_field("opt.integrator")
    integrators[1] = 99  # MuJoCo raises "invalid integrator"
    for _ in range(2):
        observation, _, _ = batch.step(np.ones((3, 6), np.float32))
        expected, _, _ = peer.step(np.ones((3, 6), np.float32))
    assert batch.faults().tolist() == [False, True, False]
    assert np.array_equal(observation[[0, 2]], expected[[0, 2]])
    integrators[1] = integrators[0]
    batch.reset([FORWARD], [np.random.default_rng(0)])
    assert not batch.faults().any()


def test_one_model_is_loaded_once_and_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    load_model.cache_clear()
    model = load_model("half_cheetah.xml")
    HalfCheetahDir().render_model(FORWARD)
    assert load_model("half_cheetah.xml") is model
    out, err = capfd.readouterr()
    assert out + err == ""
    assert not Path("MUJOCO_LOG.TXT").exists()


def test_other_remarks_of_the_compiler_are_passed_on() -> None:
    with quiet_compiler(), pytest.warns(RuntimeWarning, match="MuJoCo: unstable"):
        mujoco.get_mju_user_warning()("unstable")
    assert mujoco.get_mju_user_warning() is None


@pytest.mark.parametrize("num_envs", [0, -1])
def test_an_empty_batch_is_refused(num_envs: int) -> None:
    with pytest.raises(ValueError, match=f"num_envs must be at least 1, got {num_envs}"):
        HalfCheetahDir().make_batch(num_envs)
