"""Rewards, terminations, tasks and definition cards of the families."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from dataclasses import asdict, fields
from importlib.resources import files

import mujoco
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from warprl.envs import UnknownFamily, family_names, make_family
from warprl.envs.family import ModelFamily, RenderableBatch, TaskFamily
from warprl.envs.held_out import NUM_HELD_OUT, load_manifest
from warprl.envs.physics import load_model
from warprl.envs.robots.ant import AntDir, AntDir2D, AntVel, RunningAnt
from warprl.envs.robots.dynamics import Dynamics
from warprl.envs.robots.locomotion import LocomotionBatch
from warprl.envs.tasks import Direction, Goal, Heading, Velocity
from warprl.seeding import generator
from warprl.types import Task

FAMILIES = family_names()
BOX = [name for name in FAMILIES if isinstance(make_family(name).action_space, Box)]
TWO_WAY = [name for name in FAMILIES if make_family(name).task_type is Direction]
CONTINUOUS = [name for name in FAMILIES if make_family(name).distribution.all_tasks() is None]
DRAWN = [name for name in FAMILIES if isinstance(make_family(name), ModelFamily)]


def drawn(name: str) -> ModelFamily:
    family = make_family(name)
    assert isinstance(family, ModelFamily)
    return family


def started(name: str, task: Task, num_envs: int = 1) -> RenderableBatch:
    batch = make_family(name).make_batch(num_envs)
    batch.reset([task], [np.random.default_rng(7)])
    return batch


def width(family: TaskFamily) -> int:
    """How many numbers an action has."""
    space = family.action_space
    return int(space.n) if isinstance(space, Discrete) else space.shape[0]


# Actions and the commands u = clip(a / 10, -1, 1) that come of them.
CHEETAH_ACTION = [-20, -10, -5, 0, 5, 30]  # u = -1, -1, -.5, 0, .5, 1; sum u^2 = 3.5
ANT_ACTION = [-20, -10, -5, 0, 0, 5, 10, 30]  # u = -1, -1, -.5, 0, 0, .5, 1, 1; sum u^2 = 4.5
ANT_MOVED = [[0.0250190933, 0.0794427602], [0.0332846338, 0.0893809646]]
HOPPER_ACTION = [-20, 5, 30]  # u = -1, .5, 1; sum u^2 = 2.25
# u = clip(a / 25, -.4, .4) = -.4, -.4, -.2, 0, .2, .4, .4, 0, ...; sum u^2 = 0.72
HUMANOID_ACTION = [-20, -10, -5, 0, 5, 10, 20] + [0] * 10
HUMANOID_MOVED = [[0.0084297142, 0.0036304087], [0.0083121294, 0.0036653523]]
HEAVY_WALKER = Dynamics((2.0,) * 8, (0.5,) * 24, (1.5,) * 24, (1.25,) * 9)
HEAVY_HOPPER = Dynamics((2.0,) * 5, (0.5,) * 15, (1.5,) * 15, (1.25,) * 6)


@pytest.mark.parametrize(
    ("name", "task", "action", "moved", "reward"),
    [
        # The root moves from x = 0.0250190933 to 0.0042220934 in 0.05 s: v_x = -0.4159399979.
        # d = -1: 0.4159399979 - 0.05 * 3.5 = 0.2409399979
        (
            "half-cheetah-dir-v1",
            Direction(-1.0),
            CHEETAH_ACTION,
            [[0.0250190933], [0.0042220934]],
            0.2409399979,
        ),
        # v* = 1.5: -|-0.4159399979 - 1.5| - 0.05 * 3.5 = -1.9159399979 - 0.175 = -2.0909399979
        (
            "half-cheetah-vel-v1",
            Velocity(1.5),
            CHEETAH_ACTION,
            [[0.0250190933], [0.0042220934]],
            -2.0909399979,
        ),
        # The torso moves from x = 0.0250190933 to 0.0332846338: v_x = 0.1653108098.
        # d = -1: -0.1653108098 + 1 - 0.5 * 4.5 = -1.4153108098
        (
            "ant-dir-v1",
            Direction(-1.0),
            ANT_ACTION,
            ANT_MOVED,
            -1.4153108098,
        ),
        # v = (0.1653108098, 0.1987640880). The angle 2 is cos -0.4161468365, sin 0.9092974268:
        # -0.0687935681 + 0.1807356740 + 1 - 0.5 * 4.5 = -1.1380578941
        ("ant-dir-2d-v1", Heading(2.0), ANT_ACTION, ANT_MOVED, -1.1380578941),
        # v* = 1.5: 1 - |0.1653108098 - 1.5| + 0.05 - 0.005 * 4.5 = -0.3346891902 + 0.0275
        ("ant-vel-v1", Velocity(1.5), ANT_ACTION, ANT_MOVED, -0.3071891902),
        # It ends at (0.0332846338, 0.0893809646); g = (1, -2):
        # -(0.9667153662 + 2.0893809646) - 0.1 * 4.5 = -3.0560963308 - 0.45 = -3.5060963308
        (
            "ant-goal-v1",
            Goal(1.0, -2.0),
            ANT_ACTION,
            ANT_MOVED,
            -3.5060963308,
        ),
        # The root moves from x = 0.0012509547 to -0.0061694356 in 0.016 s: v_x = -0.4637743944.
        # d = -1: 0.4637743944 + 1 - 0.001 * 3.5 = 1.4602743944
        (
            "walker2d-dir-v1",
            Direction(-1.0),
            CHEETAH_ACTION,
            [[0.0012509547], [-0.0061694356]],
            1.4602743944,
        ),
        # v* = 2.5: 15 - |-0.4637743944 - 2.5| - 0.001 * 3.5 = 15 - 2.9637743944 - 0.0035
        (
            "walker2d-vel-v1",
            Velocity(2.5),
            CHEETAH_ACTION,
            [[0.0012509547], [-0.0061694356]],
            12.0327256056,
        ),
        # To x = -0.0002440716 in 0.008 s: v_x = -0.1868782875. v_x + 1 - 0.0035 = 0.8096217125
        (
            "walker2d-rand-params-v1",
            HEAVY_WALKER,
            CHEETAH_ACTION,
            [[0.0012509547], [-0.0002440716]],
            0.8096217125,
        ),
        # To x = 0.0011601174 in 0.008 s: v_x = -0.0113546625. v_x + 1 - 0.00225 = 0.9863953375
        (
            "hopper-rand-params-v1",
            HEAVY_HOPPER,
            HOPPER_ACTION,
            [[0.0012509547], [0.0011601174]],
            0.9863953375,
        ),
        # The centre of mass moves from x = 0.0084297142 to 0.0083121294 in 0.015 s:
        # v_x = -0.0078389867. d = -1: 1.25 * 0.0078389867 + 5 - 0.1 * 0.72 = 4.9377987334
        (
            "humanoid-dir-v1",
            Direction(-1.0),
            HUMANOID_ACTION,
            HUMANOID_MOVED,
            4.9377987334,
        ),
        # And from y = 0.0036304087 to 0.0036653523: v_y = 0.0023295733. g = (cos 2, sin 2) =
        # (-0.4161468365, 0.9092974268): <g, v> = 0.0032621696 + 0.0021182751 = 0.0053804447,
        # 1.25 * 0.0053804447 + 5 - 0.072 = 4.9347255559
        (
            "humanoid-dir-2d-v1",
            Heading(2.0),
            HUMANOID_ACTION,
            HUMANOID_MOVED,
            4.9347255559,
        ),
        # From (0, 0) by (3, -0.5) / 10, clipped: to (0.1, -0.05). g = (0.4, 0.35):
        # the offset is (-0.3, -0.4), so the distance after the move is 0.5.
        (
            "point-navigation-v1",
            Goal(0.4, 0.35),
            [3.0, -0.5],
            [[0.0, 0.0], [0.1, -0.05]],
            -0.5,
        ),
        # From (0, 0) to (0, 0.1), which is 0.9 away from g = (0, 1), beyond its radius.
        ("point-sparse-v1", Goal(0.0, 1.0), [0.0, 3.0], [[0.0, 0.0], [0.0, 0.1]], 0.0),
    ],
)
def test_a_reward_is_the_one_worked_by_hand(
    name: str, task: Task, action: list[float], moved: list[list[float]], reward: float
) -> None:
    batch = started(name, task)
    before = tracked(batch)
    _, rewards, terminated = batch.step(np.array([action], np.float32))
    assert before == pytest.approx(moved[0], abs=1e-9)
    assert tracked(batch) == pytest.approx(moved[1], abs=1e-9)
    assert rewards[0] == pytest.approx(reward, abs=1e-7)  # the cost is in float32
    assert not terminated[0]


def tracked(batch: RenderableBatch) -> list[float]:
    """Where the rewarded point is."""
    if isinstance(batch, LocomotionBatch):
        return list(batch.family.track(batch.physics)[0])
    return list(batch.render_state(0))


@pytest.mark.parametrize(
    ("name", "task", "reward"),
    [
        # The centre of mass goes at v_x = -0.0635896051 m/s when the step ends, which is not its
        # displacement / dt, (0.0381834152 - 0.0388380951) / 0.01 = -0.0654679900.
        # d = -1: 0.0635896051 - 0.05 * 3.5 = -0.1114103949
        ("half-cheetah-dir-maml2017-v1", Direction(-1.0), -0.1114103949),
        # v* = 1.5: -|-0.0635896051 - 1.5| - 0.05 * 3.5 = -1.5635896051 - 0.175
        ("half-cheetah-vel-maml2017-v1", Velocity(1.5), -1.7385896051),
    ],
)
def test_a_maml2017_reward_is_for_the_velocity_of_the_centre_of_mass(
    name: str, task: Task, reward: float
) -> None:
    batch = started(name, task)
    assert isinstance(batch, LocomotionBatch)
    action = np.array([CHEETAH_ACTION], np.float32) / np.float32(10)  # there is no action scale
    observation, rewards, _ = batch.step(action)
    assert observation[0, 17:] == pytest.approx([0.0381834152, 0.0, 0.5533661636], abs=1e-9)
    assert batch.physics.sensordata[0, 3] == pytest.approx(-0.0635896051, abs=1e-9)
    assert rewards[0] == pytest.approx(reward, abs=1e-7)


def path_to(batch: RenderableBatch, moves: list[list[float]]) -> float:
    """The last reward on a way of these moves, of a sixteenth or a tenth of a metre at most."""
    for move in moves:
        _, reward, terminated = batch.step(np.array([move], np.float32))
        assert not terminated[0]
    return float(reward[0])


# 0.625 / 10 is exactly a sixteenth, and 0.1 + 0.1 exactly 0.2: two moves that also go right, and
# fourteen that do not, end exactly 0.2 to the right of (0, 1).
TO_THE_RADIUS = [[1.0, 0.625]] * 2 + [[0.0, 0.625]] * 14


def test_a_sparse_reward_is_given_on_the_radius_itself_and_not_beyond() -> None:
    batch = started("point-sparse-v1", Goal(0.0, 1.0))
    assert path_to(batch, TO_THE_RADIUS) == 1.0 - 0.2
    assert batch.render_state(0).tolist() == [0.2, 1.0]
    assert path_to(batch, [[1e-6, 0.0]]) == 0.0
    assert path_to(batch, [[-2e-6, 0.0]]) == pytest.approx(0.8 + 1e-7, abs=1e-12)


def test_a_sparse_reward_rises_to_1_at_the_goal() -> None:
    batch = started("point-sparse-v1", Goal(0.0, 1.0))
    assert path_to(batch, [[0.0, 0.625]] * 12) == 0.0  # 0.25 away
    assert path_to(batch, [[0.0, 0.625]] * 2) == 1.0 - 0.125
    assert path_to(batch, [[0.0, 0.625]] * 2) == 1.0
    assert path_to(batch, [[0.0, 0.625]] * 2) == 1.0 - 0.125, "and it goes on"


def test_a_sparse_point_that_a_nan_sent_nowhere_is_a_fault_and_has_no_ordinary_reward() -> None:
    batch = started("point-sparse-v1", Goal(0.0, 1.0), num_envs=2)
    _, reward, _ = batch.step(np.array([[np.nan, 0.0], [0.0, 1.0]], np.float32))
    assert batch.faults().tolist() == [True, False]
    assert math.isnan(reward[0]) and reward[1] == 0.0


@pytest.mark.parametrize(
    ("family", "height", "ended"),
    [
        (family, height, ended)
        for family, low in ((AntDir, 0.0), (AntDir2D, 0.0), (AntVel, 0.2))
        for height, ended in (
            (low - 0.01, True),
            (low, False),
            (low + 0.01, False),
            (0.99, False),
            (1.0, False),
            (1.05, True),
        )
    ],
)
def test_an_ant_terminates_outside_its_heights(
    family: type[RunningAnt], height: float, ended: bool
) -> None:
    batch = family().make_batch(2)
    batch.reset([batch.family.held_out_tasks()[0]], [np.random.default_rng(0)])
    batch.physics.qpos[0, 2] = height
    assert batch.family.terminated(batch.physics).tolist() == [ended, False]


@pytest.mark.parametrize(
    ("name", "entry", "inside", "outside"),
    [
        ("walker2d-dir-v1", 1, (0.81, 1.99), (0.8, 2.0)),
        ("walker2d-vel-v1", 2, (-0.99, 0.99), (-1.0, 1.0)),
        ("walker2d-rand-params-v1", 2, (-0.99, 0.99), (-1.0, 1.0)),
        ("hopper-rand-params-v1", 1, (0.71, 99.0), (0.7, 0.0)),
        ("hopper-rand-params-v1", 2, (-0.19, 0.19), (-0.2, 0.2)),
        ("hopper-rand-params-v1", 3, (-99.0, 99.0), (-100.0, 100.0)),
        ("humanoid-dir-v1", 2, (1.01, 1.99), (1.0, 2.0)),
        ("humanoid-dir-2d-v1", 2, (1.01, 1.99), (1.0, 2.0)),
    ],
)
def test_a_walking_robot_terminates_where_gymnasiums_does(
    name: str, entry: int, inside: tuple[float, float], outside: tuple[float, float]
) -> None:
    batch = started(name, make_family(name).held_out_tasks()[0], num_envs=6)
    assert isinstance(batch, LocomotionBatch)
    batch.physics.qpos[:5, entry] = (*inside, *outside, np.nan)
    ended = batch.family.terminated(batch.physics)
    assert ended.tolist() == [False, False, True, True, True, False]


def test_a_hopper_terminates_at_a_velocity_out_of_bounds() -> None:
    batch = started("hopper-rand-params-v1", HEAVY_HOPPER, num_envs=2)
    assert isinstance(batch, LocomotionBatch)
    batch.physics.qvel[0, 4] = -100.0
    assert batch.family.terminated(batch.physics).tolist() == [True, False]


@pytest.mark.parametrize("name", ["walker2d-dir-v1", "hopper-rand-params-v1"])
def test_the_walkers_observe_their_velocities_up_to_ten(name: str) -> None:
    batch = started(name, make_family(name).held_out_tasks()[0])
    assert isinstance(batch, LocomotionBatch)
    batch.physics.qvel[0, :3] = (-30.0, 9.5, 30.0)
    velocities = batch.family.observe(batch.physics)[0, batch.physics.qpos.shape[1] - 1 :]
    assert velocities[:3].tolist() == [-10.0, 9.5, 10.0]


def test_a_point_terminates_only_where_both_offsets_are_small() -> None:
    batch = started("point-navigation-v1", Goal(0.1, 0.0), num_envs=3)
    _, _, terminated = batch.step(np.array([[0.95, 0.05], [0.95, 0.2], [1.0, 0.0]], np.float32))
    assert terminated.tolist() == [True, False, True]


def test_the_rest_never_terminates() -> None:
    for name in (
        "half-cheetah-dir-v1",
        "half-cheetah-vel-v1",
        "half-cheetah-dir-maml2017-v1",
        "half-cheetah-vel-maml2017-v1",
        "ant-goal-v1",
        "point-sparse-v1",
    ):
        family = make_family(name)
        batch = started(name, family.held_out_tasks()[0], num_envs=4)
        actions = np.random.default_rng(0)
        for _ in range(100):
            shape = (4, width(family))
            assert not batch.step(actions.uniform(-30, 30, shape).astype(np.float32))[2].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_simulation_is_rewarded_for_its_own_task(name: str) -> None:
    family = make_family(name)
    tasks = family.sample_tasks(generator(0, "tasks"), 3)
    tasks[0] = family.held_out_tasks()[0]
    batch = family.make_batch(6)
    batch.reset(tasks, [np.random.default_rng(i) for i in range(3)])
    action = np.full((6, width(family)), 0.3, np.float32)
    together = batch.step(action)[1]
    for t, task in enumerate(tasks):
        alone = family.make_batch(2)
        alone.reset([task], [np.random.default_rng(t)])
        assert np.array_equal(alone.step(action[:2])[1], together[2 * t : 2 * t + 2])


@pytest.mark.parametrize("name", BOX)
def test_spaces_hold_what_a_batch_gives_and_takes(name: str) -> None:
    family = make_family(name)
    batch = started(name, family.held_out_tasks()[0], num_envs=2)
    limit = family.action_scale * {"point": 0.1, "humanoid": 0.4}.get(name.split("-")[0], 1.0)
    space = family.action_space
    assert isinstance(space, Box)
    assert np.array_equal(space.high, np.full_like(space.high, limit))
    assert np.array_equal(space.low, -space.high)
    observation, _, _ = batch.step(np.stack([space.high, space.low]))
    assert observation.shape == (2, *family.observation_space.shape)
    assert all(family.observation_space.contains(row) for row in observation)


@pytest.mark.parametrize("name", TWO_WAY)
def test_directions_are_balanced_and_in_random_order(name: str) -> None:
    family = make_family(name)
    draws = [
        [asdict(task)["direction"] for task in family.sample_tasks(generator(s, "tasks"), 40)]
        for s in range(5)
    ]
    assert all(sorted(draw) == [-1.0] * 20 + [1.0] * 20 for draw in draws)
    assert len({tuple(draw) for draw in draws}) == 5
    odd = {asdict(family.sample_tasks(generator(s, "tasks"), 1)[0])["direction"] for s in range(20)}
    assert odd == {-1.0, 1.0}
    assert family.held_out_tasks() == [Direction(1.0), Direction(-1.0)]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_training_tasks_are_in_range_and_disjoint_from_the_manifest(name: str) -> None:
    family = make_family(name)
    drawn = family.sample_tasks(generator(0, "tasks"), 2000)
    assert len(set(drawn)) == 2000
    assert not set(drawn) & set(family.held_out_tasks())
    assert [family.parse_task(asdict(task)) for task in drawn] == drawn


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_draw_that_is_held_out_is_drawn_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = make_family(name)
    held_out = family.held_out_tasks()
    sample = type(family.distribution).sample

    def unlucky(self: object, rng: np.random.Generator, n: int) -> list[Task]:
        drawn = sample(family.distribution, rng, n)
        return [held_out[0], *drawn[1:]] if n == 5 else drawn

    monkeypatch.setattr(type(family.distribution), "sample", unlucky)
    tasks = family.sample_tasks(generator(0, "tasks"), 5)
    assert len(tasks) == 5 and held_out[0] not in tasks


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_manifest_is_what_its_command_writes(name: str) -> None:
    manifest = importlib.import_module("warprl.envs.manifest")
    family = make_family(name)
    path = files("warprl.envs") / "manifests" / f"{name}.json"
    assert path.read_text(encoding="utf-8") == manifest.manifest_text(name, family.distribution)
    tasks = family.held_out_tasks()
    assert len(set(tasks)) == NUM_HELD_OUT
    family.held_out_tasks().clear()
    assert family.held_out_tasks() == tasks, "a caller cannot change them"


def test_a_manifest_with_a_task_outside_the_distribution_is_refused() -> None:
    family = make_family("half-cheetah-vel-v1")
    with pytest.raises(ValueError, match="point-navigation-v1.json: half-cheetah-vel-v1: "):
        load_manifest("point-navigation-v1", family.parse_task)


def test_task_distributions_have_their_stated_shape() -> None:
    def values(name: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        drawn = make_family(name).sample_tasks(generator(1, "tasks"), 4000)
        return np.array([list(asdict(task).values()) for task in drawn])

    # Means 1.5 and 0; variances (3 - 0)^2 / 12 and (0.5 + 0.5)^2 / 12.
    assert values("half-cheetah-vel-v1").mean() == pytest.approx(1.5, abs=0.05)
    assert values("half-cheetah-vel-v1").var() == pytest.approx(0.75, rel=0.05)
    assert values("walker2d-vel-v1").mean() == pytest.approx(5.0, abs=0.15)
    assert values("walker2d-vel-v1").var() == pytest.approx(100 / 12, rel=0.05)
    assert values("point-navigation-v1").var(axis=0) == pytest.approx([1 / 12, 1 / 12], rel=0.05)
    assert values("half-cheetah-vel-maml2017-v1").max() <= 2.0
    assert values("half-cheetah-vel-maml2017-v1").mean() == pytest.approx(1.0, abs=0.05)
    assert values("ant-vel-v1").mean() == pytest.approx(1.5, abs=0.05)
    assert values("ant-vel-v1").var() == pytest.approx(0.75, rel=0.05)
    # Uniform on the circle: a quarter in each quadrant.
    for name in ("ant-dir-2d-v1", "humanoid-dir-2d-v1"):
        quadrants = np.bincount((values(name)[:, 0] // (math.pi / 2)).astype(int))
        assert quadrants / 4000 == pytest.approx([0.25] * 4, abs=0.03)
    # Uniform on the half circle: the angle has mean pi / 2 and variance pi^2 / 12.
    x, y = values("point-sparse-v1").T
    assert np.hypot(x, y) == pytest.approx(1.0, abs=1e-15)
    assert (y >= 0).all()
    assert np.arctan2(y, x).mean() == pytest.approx(math.pi / 2, abs=0.05)
    assert np.arctan2(y, x).var() == pytest.approx(math.pi**2 / 12, rel=0.05)
    # Uniform in area on radius 3: a quarter within half the radius; E[r^2] = 9 / 2.
    radius = np.hypot(*values("ant-goal-v1").T)
    assert radius.max() <= 3.0
    assert (radius < 1.5).mean() == pytest.approx(0.25, abs=0.03)
    assert np.square(radius).mean() == pytest.approx(4.5, rel=0.03)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("half-cheetah-dir-v1", {"direction": 2}, "task field 'direction' must be -1 or 1, got 2"),
        ("half-cheetah-dir-v1", {"direction": "left"}, "'direction' must be a finite number"),
        ("half-cheetah-dir-v1", {"direction": True}, "'direction' must be a finite number"),
        ("half-cheetah-dir-v1", {"velocity": 1.0}, r"fields \['direction'\], got \['velocity'\]"),
        ("half-cheetah-vel-v1", {"velocity": 3.5}, "'velocity' must be between 0 and 3, got 3.5"),
        ("half-cheetah-vel-v1", {"velocity": math.nan}, "'velocity' must be a finite number"),
        ("point-navigation-v1", {"x": 0.1, "y": -0.6}, "'y' must be between -0.5 and 0.5"),
        ("point-navigation-v1", {"x": 0.1}, r"fields \['x', 'y'\], got \['x'\]"),
        ("ant-goal-v1", {"x": 3.0, "y": 3.0}, "'x' and 'y' must lie within 3 of the origin"),
        ("maze-v1", {"row": 2, "col": 2}, r"one of the 96 free cells but the start, got \(2, 2\)"),
        ("maze-v1", {"row": 6, "col": 6}, r"one of the 96 free cells but the start, got \(6, 6\)"),
        ("maze-v1", {"row": 1, "col": 12}, r"of the 96 free cells but the start, got \(1, 12\)"),
        ("maze-11-v1", {"row": -1, "col": 3}, r"of the 64 free cells but the start, got \(-1, 3\)"),
        ("maze-v1", {"row": 1.5, "col": 1}, "'row' must be a whole number, got 1.5"),
        ("maze-v1", {"row": 1, "col": math.inf}, "'col' must be a finite number"),
        ("maze-v1", {"x": 1, "y": 1}, r"fields \['row', 'col'\], got \['x', 'y'\]"),
        ("ant-dir-2d-v1", {"angle": -0.1}, "'angle' must be at least 0 and less than 2 pi"),
        ("ant-dir-2d-v1", {"angle": 2 * math.pi}, "'angle' must be at least 0 and less than 2 pi"),
        ("ant-dir-2d-v1", {"direction": 1}, r"fields \['angle'\], got \['direction'\]"),
        ("ant-vel-v1", {"velocity": -0.1}, "'velocity' must be between 0 and 3, got -0.1"),
        (
            "half-cheetah-vel-maml2017-v1",
            {"velocity": 2.5},
            "'velocity' must be between 0 and 2, got 2.5",
        ),
        (
            "point-sparse-v1",
            {"x": 0.6, "y": -0.8},
            r"must lie 1 from the origin with y >= 0, got \(0.6, -0.8\) at 1",
        ),
        ("point-sparse-v1", {"x": 0.6, "y": 0.7}, "must lie 1 from the origin with y >= 0"),
        ("ant-goal-v1", [1.0, 2.0], r"a mapping with the fields \['x', 'y'\]"),
        ("walker2d-vel-v1", {"velocity": -1}, "'velocity' must be between 0 and 10, got -1"),
        (
            "walker2d-vel-v1",
            {"velocity": [1.0]},
            r"'velocity' must be a finite number, got \[1.0\]",
        ),
        ("humanoid-dir-2d-v1", {"angle": 6.3}, "'angle' must be at least 0 and less than 2 pi"),
        ("humanoid-dir-2d-v1", {"angle": -0.1}, "'angle' must be at least 0 and less than 2 pi"),
        (
            "hopper-rand-params-v1",
            asdict(HEAVY_WALKER),
            "'body_mass' must be a list of 5 finite numbers, got 8 entries",
        ),
        (
            "hopper-rand-params-v1",
            {**asdict(HEAVY_HOPPER), "dof_damping": 1.0},
            "'dof_damping' must be a list of 6 finite numbers, got 1.0",
        ),
        (
            "hopper-rand-params-v1",
            {**asdict(HEAVY_HOPPER), "dof_damping": [1.0, 1.0, 1.0, 1.0, math.nan, 1.0]},
            "'dof_damping' must be a list of 6 finite numbers, got one that is nan",
        ),
        (
            "hopper-rand-params-v1",
            {**asdict(HEAVY_HOPPER), "body_mass": [1.0, 1.0, 1.0, 1.0, 3.5]},
            "'body_mass' must hold multipliers between 0.296 and 3.375, got 3.5",
        ),
        (
            "walker2d-rand-params-v1",
            {**asdict(HEAVY_WALKER), "dof_damping": [0.4] * 9},
            "'dof_damping' must hold multipliers between 0.455 and 2.197, got 0.4",
        ),
    ],
)
def test_a_bad_task_is_refused_in_one_line_that_names_the_field(
    name: str, values: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_family(name).parse_task(values)
    assert str(error.value).startswith(f"{name}: ")
    assert "\n" not in str(error.value)


def test_a_good_task_is_understood() -> None:
    assert make_family("ant-dir-v1").parse_task({"direction": -1}) == Direction(-1.0)
    assert make_family("ant-goal-v1").parse_task({"x": np.float32(1), "y": 2}) == Goal(1.0, 2.0)
    assert make_family("ant-dir-2d-v1").parse_task({"angle": 0}) == Heading(0.0)
    for x, y in ((0.6, 0.8), (-1.0, 0.0), (0.70710678, 0.70710678)):  # all that a hand can type
        assert make_family("point-sparse-v1").parse_task({"x": x, "y": y}) == Goal(x, y)


def test_an_unknown_family_names_those_that_there_are() -> None:
    message = "unknown task family 'zzz'; known: point-navigation-v1, point-sparse-v1"
    with pytest.raises(UnknownFamily, match=message) as refused:
        make_family("zzz")
    assert refused.value.known == family_names()


@pytest.mark.parametrize("count", [0, -3])
def test_no_tasks_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="the number of tasks must be at least 1"):
        make_family("ant-dir-v1").sample_tasks(generator(0, "tasks"), count)


@pytest.mark.parametrize("name", ["point-navigation-v1", "half-cheetah-dir-v1"])
def test_a_reset_that_does_not_add_up_is_refused(name: str) -> None:
    family = make_family(name)
    tasks = family.sample_tasks(generator(0, "tasks"), 2)
    rngs = [np.random.default_rng(i) for i in range(2)]
    with pytest.raises(ValueError, match="3 simulations cannot be shared evenly among 2 tasks"):
        family.make_batch(3).reset(tasks, rngs)
    with pytest.raises(ValueError, match="every task needs one generator: got 1 for 2 tasks"):
        family.make_batch(4).reset(tasks, rngs[:1])
    with pytest.raises(ValueError, match="cannot be shared evenly among 0 tasks"):
        family.make_batch(4).reset([], [])


@pytest.mark.parametrize(
    ("name", "horizon", "dt", "action_scale", "observation"),
    [
        ("point-sparse-v1", 20, 1.0, 10.0, 2),
        ("half-cheetah-dir-maml2017-v1", 200, 0.01, 1.0, 20),
        ("half-cheetah-vel-maml2017-v1", 200, 0.01, 1.0, 20),
        ("ant-dir-2d-v1", 200, 0.05, 10.0, 27),
        ("ant-vel-v1", 200, 0.05, 10.0, 27),
    ],
)
def test_a_published_definition_stays_what_it_is(
    name: str, horizon: int, dt: float, action_scale: float, observation: int
) -> None:
    family = make_family(name)
    assert (family.horizon, family.dt, family.action_scale) == (horizon, dt, action_scale)
    assert family.observation_space.shape == (observation,)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_card_states_what_the_family_does(name: str) -> None:
    family = make_family(name)
    card = family.definition()
    text = card.render()
    assert text.splitlines()[0] == name
    assert all(len(line) <= 100 for line in text.splitlines())
    for field in fields(card)[1:]:
        assert field.name.replace("_", " ") in text
    assert (card.horizon, card.action_scale) == (family.horizon, family.action_scale)
    assert card.dt == family.dt
    if not name.startswith(("point", "maze")):
        assert f"MuJoCo {mujoco.__version__}" in card.physics
        assert f"({family.observation_space.shape[0]})" in card.observation


@pytest.mark.parametrize("name", DRAWN)
def test_a_render_model_shows_the_task_and_takes_the_state_of_a_simulation(name: str) -> None:
    family = drawn(name)
    first, second = family.held_out_tasks()[:2]
    batch = started(name, first, num_envs=2)
    model = family.render_model(first)
    data = mujoco.MjData(model)
    data.qpos[:] = batch.render_state(1)
    mujoco.mj_forward(model, data)
    assert model.ncam and mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track") == 0
    others = family.render_model(second)
    assert model.nsite == others.nsite
    assert not (
        np.array_equal(model.site_pos, others.site_pos)
        and np.array_equal(model.site_quat, others.site_quat)
    )


@pytest.mark.parametrize("name", [name for name in DRAWN if not name.startswith("point")])
def test_a_marker_changes_nothing_in_the_physics(name: str) -> None:
    family = drawn(name)
    model = family.render_model(family.held_out_tasks()[0])
    plain = load_model(family.model_file)  # type: ignore[attr-defined]
    for attribute in ("nq", "nv", "nbody", "ngeom", "njnt"):
        assert getattr(model, attribute) == getattr(plain, attribute)
    for attribute in ("jnt_type", "jnt_qposadr", "body_mass", "geom_pos", "qpos0"):
        assert np.array_equal(getattr(model, attribute), getattr(plain, attribute))


@pytest.mark.parametrize(
    ("name", "task", "angle"),
    [
        ("half-cheetah-dir-v1", Direction(1.0), 0.0),
        ("half-cheetah-dir-v1", Direction(-1.0), math.pi),
        ("ant-dir-2d-v1", Heading(2.0), 2.0),
        ("ant-dir-2d-v1", Heading(5.5), 5.5),
    ],
)
def test_arrow_heads_point_where_the_robot_should_run(name: str, task: Task, angle: float) -> None:
    model = drawn(name).render_model(task)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    ahead = np.array([math.cos(angle), math.sin(angle), 0.0])
    left = np.array([-ahead[1], ahead[0], 0.0])
    for bar in range(model.nsite):
        along = data.site_xmat[bar].reshape(3, 3)[:, 0]
        reach = model.site_size[bar, 0] * along * np.sign(along @ ahead)
        head, tail = model.site_pos[bar] + reach, model.site_pos[bar] - reach
        # Both bars of a head meet on the line through the start, at their ends that are ahead.
        assert abs(head @ left) < 0.03 < 0.25 < abs(tail @ left)


@pytest.mark.parametrize("angle", [0.5, 2.5, 4.0])
def test_arrow_heads_on_the_plane_point_along_the_heading(angle: float) -> None:
    model = drawn("humanoid-dir-2d-v1").render_model(Heading(angle))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    forward = np.array([math.cos(angle), math.sin(angle)])
    for first in range(0, model.nsite, 2):
        # The tips of the two bars of a head meet ahead of their middles.
        middles = data.site_xpos[first : first + 2, :2]
        along = data.site_xmat[first : first + 2].reshape(2, 3, 3)[:, :2, 0]
        assert along @ forward == pytest.approx([math.sqrt(0.5)] * 2)
        tips = middles + 0.2 * along
        assert np.linalg.norm(tips[0] - tips[1]) < np.linalg.norm(middles[0] - middles[1])
        across = middles.mean(axis=0) @ np.array([-forward[1], forward[0]])
        assert across == pytest.approx(0.0, abs=1e-9)


def test_bars_are_as_high_as_the_masses_are_multiplied() -> None:
    task = Dynamics((1.0, 2.0, 0.5, 1.0, 3.0), (1.0,) * 15, (1.0,) * 15, (1.0,) * 6)
    model = drawn("hopper-rand-params-v1").render_model(task)
    assert 2 * model.site_size[:, 2] == pytest.approx([0.6, 0.15, 0.3, 0.9])
    assert model.site_pos[:, 2] == pytest.approx(model.site_size[:, 2]), "they stand on the floor"


def test_importing_the_environments_imports_neither_torch_nor_ray_nor_graphics() -> None:
    code = "import sys, warprl.envs; print({'torch', 'ray', 'OpenGL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
