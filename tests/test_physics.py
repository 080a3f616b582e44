"""The native batch is exactly MuJoCo, one simulation at a time."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from warprl.envs.physics import Physics, load_model, model_path, quiet_compiler
from warprl.envs.registry import FAMILIES
from warprl.envs.robots.ant import AntDir, AntDir2D, AntGoal, AntVel
from warprl.envs.robots.dynamics import Dynamics
from warprl.envs.robots.half_cheetah import HalfCheetahDir, HalfCheetahVel
from warprl.envs.robots.half_cheetah_maml2017 import HalfCheetahDirMaml2017, HalfCheetahVelMaml2017
from warprl.envs.robots.hopper import HopperRandParams
from warprl.envs.robots.humanoid import HumanoidDir, HumanoidDir2D
from warprl.envs.robots.locomotion import LocomotionBatch, LocomotionFamily, Motion, control_cost
from warprl.envs.robots.walker2d import Walker2dDir, Walker2dRandParams, Walker2dVel
from warprl.envs.tasks import Direction, Goal, Heading, Velocity
from warprl.types import Task

ROBOTS = [family for family in FAMILIES.values() if issubclass(family, LocomotionFamily)]
FORWARD, BACKWARD = Direction(1.0), Direction(-1.0)
FRAME_SKIP = 5
TORSO = 1  # its body id in every model; 0 is the world


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
            action = actions.uniform(-11.0, 11.0, (num_envs, *batch.family.action_space.shape))
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


def test_a_skipped_robot_lies_still_and_its_neighbour_goes_on() -> None:
    batch, undisturbed = (Walker2dDir().make_batch(2) for _ in range(2))
    for each in (batch, undisturbed):
        each.reset([FORWARD], [np.random.default_rng(0)])
    still = np.zeros((2, 6), np.float32)
    batch.step(still), undisturbed.step(still)
    batch.skip(np.array([False, True]))
    lying = batch.physics.qpos[1].copy()
    for _ in range(10):
        found, expected = batch.step(still), undisturbed.step(still)
        assert all(np.isfinite(part).all() for part in found)
        assert np.array_equal(found[0][0], expected[0][0])
    assert np.array_equal(batch.physics.qpos[1], lying)
    for whole in (False, True):
        rng = np.random.default_rng(1)
        if whole:
            batch.reset([FORWARD], [rng])
        else:
            batch.restart(np.array([1]), [FORWARD], [rng])
        begun = batch.physics.qpos.copy()
        batch.step(still)
        assert (batch.physics.qpos != begun).any(1).all()
        batch.skip(np.array([True, True]))
        batch.step(still)


Peer = tuple[str, dict[str, Any]]
CHEETAH: Peer = ("HalfCheetah-v5", {})
ANT: Peer = ("Ant-v5", CONTACT_FREE)
WHOLE_ANT: Peer = (
    "Ant-v5",
    {**CONTACT_FREE, "exclude_current_positions_from_observation": False},
)
WALKER: Peer = ("Walker2d-v5", {"frame_skip": 8})
NOMINAL_WALKER: Peer = ("Walker2d-v5", {})
HOPPER: Peer = ("Hopper-v5", {})
HUMANOID: Peer = ("Humanoid-v5", CONTACT_FREE)


def speed(info: dict[str, np.float64]) -> np.float64:
    """Forward."""
    return info["x_velocity"]


def speed_towards_4(info: dict[str, np.float64]) -> np.float64:
    """At an angle of 4 radians."""
    total: np.float64 = np.cos(4.0) * info["x_velocity"] + np.sin(4.0) * info["y_velocity"]
    return total


@pytest.mark.parametrize(
    ("family", "task", "peer", "terms", "weight", "falls"),
    [
        (HalfCheetahDir, BACKWARD, CHEETAH, lambda i: -speed(i), 0.05, False),
        (HalfCheetahVel, Velocity(1.2), CHEETAH, lambda i: -abs(speed(i) - 1.2), 0.05, False),
        (AntDir, BACKWARD, ANT, lambda i: -speed(i) + 1.0, 0.5, True),
        (AntVel, Velocity(1.2), ANT, lambda i: 1.0 - abs(speed(i) - 1.2) + 0.05, 0.005, True),
        (AntDir2D, Heading(4.0), ANT, lambda i: speed_towards_4(i) + 1.0, 0.5, True),
        (
            AntGoal,
            Goal(1.0, -2.0),
            WHOLE_ANT,
            lambda i: -(abs(i["torso_x"] - 1.0) + abs(i["torso_y"] + 2.0)),
            0.1,
            False,
        ),
        (Walker2dDir, BACKWARD, WALKER, lambda i: -speed(i) + 1.0, 1e-3, True),
        (Walker2dVel, Velocity(2.5), WALKER, lambda i: 15.0 - abs(speed(i) - 2.5), 1e-3, True),
        (
            Walker2dRandParams,
            unchanged(8, 8, 9),
            NOMINAL_WALKER,
            lambda i: speed(i) + 1.0,
            1e-3,
            True,
        ),
        (HopperRandParams, unchanged(5, 5, 6), HOPPER, lambda i: speed(i) + 1.0, 1e-3, True),
        (HumanoidDir, BACKWARD, HUMANOID, lambda i: -1.25 * speed(i) + 5.0, 0.1, True),
        (
            HumanoidDir2D,
            Heading(4.0),
            HUMANOID,
            lambda i: 1.25 * speed_towards_4(i) + 5.0,
            0.1,
            True,
        ),
    ],
)
def test_a_reward_is_of_gymnasiums_velocities_in_the_step_that_falls_too(
    family: type[LocomotionFamily],
    task: Task,
    peer: Peer,
    terms: Callable[[dict[str, np.float64]], np.float64],
    weight: float,
    falls: bool,
) -> None:
    with quiet_compiler():
        name, options = peer
        robot: Any = gymnasium.make(name, **options).unwrapped
    batch = family().make_batch(1)
    batch.reset([task], [np.random.default_rng(0)])
    robot.reset()
    robot.set_state(batch.physics.qpos[0], batch.physics.qvel[0])
    actions = np.random.default_rng(1)
    fallen = 0
    for _ in range(300):
        action = actions.uniform(-11.0, 11.0, (1, *batch.family.action_space.shape)).astype(
            np.float32
        )
        observation, reward, terminated = batch.step(action)
        high = robot.action_space.high
        command = np.clip(action[0] / np.float32(batch.family.action_scale), -high, high)
        expected, *_, info = robot.step(command)
        assert np.array_equal(observation[0], expected)
        info["torso_x"], info["torso_y"] = robot.data.xpos[TORSO, :2]
        # The humanoid is charged in float64, the others in float32: as Gymnasium does.
        charged = robot.data.ctrl if name == "Humanoid-v5" else command
        assert reward[0] == terms(info) - weight * np.square(charged).sum()
        fallen += int(terminated[0])
    assert (fallen > 0) == falls
    robot.close()


@pytest.mark.parametrize(
    ("family", "task", "term"),
    [
        (HalfCheetahDirMaml2017, BACKWARD, lambda x: -x),
        (HalfCheetahVelMaml2017, Velocity(1.2), lambda x: -abs(x - 1.2)),
    ],
)
def test_a_maml2017_batch_equals_gymnasium_and_mujoco_for_a_thousand_single_steps(
    family: type[LocomotionFamily], task: Task, term: Callable[[float], float]
) -> None:
    with quiet_compiler():
        peer: Any = gymnasium.make("HalfCheetah-v5", frame_skip=1).unwrapped
    model = copy.copy(load_model("half_cheetah.xml"))
    data, now = mujoco.MjData(model), mujoco.MjData(model)
    batch = family().make_batch(2)
    assert batch.family.dt == peer.dt == model.opt.timestep == 0.01
    observation = batch.reset([task], [np.random.default_rng(0)])
    peer.reset()
    peer.set_state(batch.physics.qpos[1], batch.physics.qvel[1])
    data.qpos[:], data.qvel[:] = batch.physics.qpos[1], batch.physics.qvel[1]
    mujoco.mj_forward(model, data)
    assert np.array_equal(observation[1], [*peer._get_obs(), *data.subtree_com[TORSO]])
    actions = np.random.default_rng(1)
    for _ in range(1000):
        action = actions.uniform(-1.1, 1.1, (2, 6)).astype(np.float32)
        command = np.clip(action[1], -1.0, 1.0)
        observation, reward, _ = batch.step(action)
        expected, *_ = peer.step(command)
        data.ctrl[:] = command
        mujoco.mj_step(model, data)
        # As in rllab: what is derived from the state after the step, not from the one before it.
        mujoco.mj_copyData(now, model, data)
        mujoco.mj_forward(model, now)
        mujoco.mj_subtreeVel(model, now)
        assert np.abs(observation[1, :17] - expected).max() == 0.0
        assert np.abs(batch.physics.qpos[1] - data.qpos).max() == 0.0
        assert np.abs(batch.physics.qvel[1] - data.qvel).max() == 0.0
        assert np.abs(observation[1, 17:] - now.subtree_com[TORSO]).max() == 0.0
        velocity = now.subtree_linvel[TORSO, 0]
        assert reward[1] - (term(velocity) - np.float32(0.05) * np.square(command).sum()) == 0.0
    peer.close()


def test_a_batch_keeps_derived_fields_a_substep_behind_only_without_sensors() -> None:
    for family, current in ((HalfCheetahDir, False), (HalfCheetahDirMaml2017, True)):
        batch = family().make_batch(1)
        batch.reset([FORWARD], [np.random.default_rng(0)])
        batch.step(np.ones((1, 6), np.float32))
        physics = batch.physics
        assert (physics.xpos[0, TORSO, 0] == physics.qpos[0, 0]) == current


@pytest.mark.parametrize("family", ROBOTS)
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
        action = actions.uniform(-10, 10, (4, *crowd.family.action_space.shape)).astype(np.float32)
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


def test_initial_noise_of_maml2017_is_rllabs() -> None:
    batch = HalfCheetahDirMaml2017().make_batch(4000)
    batch.reset([FORWARD], [np.random.default_rng(0)])
    offset = batch.physics.qpos - load_model("half_cheetah.xml").qpos0
    for drawn, scale in ((offset, 0.01), (batch.physics.qvel, 0.1)):
        assert drawn.std() == pytest.approx(scale, rel=0.02)
        assert np.abs(drawn).max() > 3.5 * scale, "normal, not uniform"


@pytest.mark.parametrize(
    ("family", "task", "scale"),
    [(Walker2dDir, FORWARD, 0.005), (HumanoidDir2D, Heading(0.0), 0.01)],
)
def test_initial_noise_of_the_walking_robots_is_uniform_as_gymnasiums(
    family: type[LocomotionFamily], task: Task, scale: float
) -> None:
    batch = family().make_batch(2000)
    batch.reset([task], [np.random.default_rng(0)])
    for offset in (batch.physics.qpos - load_model(family.model_file).qpos0, batch.physics.qvel):
        assert np.abs(offset).max() <= scale
        assert offset.var() == pytest.approx(scale**2 / 3, rel=0.05)


@pytest.mark.parametrize("family", [HalfCheetahDir, HalfCheetahDirMaml2017])
def test_an_array_a_caller_keeps_is_never_written_to(family: type[LocomotionFamily]) -> None:
    batch = family().make_batch(2)
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
    every = np.arange(len(models))
    physics.apply_model_fields(every)
    rng = np.random.default_rng(0)
    qpos = shared.qpos0 + rng.uniform(-0.1, 0.1, (len(models), shared.nq))
    control = rng.uniform(-1.0, 1.0, (100, len(models), shared.nu))
    physics.reset(qpos, np.zeros((len(models), shared.nv)), every)
    for u in control:
        physics.ctrl[:] = u
        physics.step(np.ones(len(models), dtype=np.bool_))
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


def test_one_thread_at_a_time_sets_the_compiler_s_handler() -> None:
    # Two at once may wait for each other for ever: MuJoCo's lock against Python's.
    entered = threading.Event()

    def other() -> None:
        with quiet_compiler():
            entered.set()

    thread = threading.Thread(target=other)
    with quiet_compiler():
        thread.start()
        assert not entered.wait(0.2)
    thread.join(10.0)
    assert entered.is_set()


@pytest.mark.parametrize("num_envs", [0, -1])
def test_an_empty_batch_is_refused(num_envs: int) -> None:
    with pytest.raises(ValueError, match=f"num_envs must be at least 1, got {num_envs}"):
        HalfCheetahDir().make_batch(num_envs)
