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

from warprl.envs import UnknownFamily, family_names, make_family
from warprl.envs.ant import AntDir
from warprl.envs.family import ModelFamily, RenderableBatch
from warprl.envs.held_out import NUM_HELD_OUT, load_manifest
from warprl.envs.physics import load_model
from warprl.envs.tasks import Direction, Goal, Velocity
from warprl.seeding import generator
from warprl.types import Task

FAMILIES = family_names()
CONTINUOUS = [name for name in FAMILIES if not name.endswith("dir-v1")]
DISCRETE = [name for name in FAMILIES if name.endswith("dir-v1")]


def drawn(name: str) -> ModelFamily:
    family = make_family(name)
    assert isinstance(family, ModelFamily)
    return family


def started(name: str, task: Task, num_envs: int = 1) -> RenderableBatch:
    batch = make_family(name).make_batch(num_envs)
    batch.reset([task], [np.random.default_rng(7)])
    return batch


# Actions and the commands u = clip(a / 10, -1, 1) that come of them.
CHEETAH_ACTION = [-20, -10, -5, 0, 5, 30]  # u = -1, -1, -.5, 0, .5, 1; sum u^2 = 3.5
ANT_ACTION = [-20, -10, -5, 0, 0, 5, 10, 30]  # u = -1, -1, -.5, 0, 0, .5, 1, 1; sum u^2 = 4.5


@pytest.mark.parametrize(
    ("name", "task", "action", "moved", "reward"),
    [
        # The root moves from x = 0.0250190933 to 0.0042220934 in 0.05 s: v_x = -0.4159399979.
        # d = -1: 0.4159399979 - 0.05 * 3.5 = 0.2409399979
        (
            "half-cheetah-dir-v1",
            Direction(-1.0),
            CHEETAH_ACTION,
            [0.0250190933, 0.0042220934],
            0.2409399979,
        ),
        # v* = 1.5: -|-0.4159399979 - 1.5| - 0.05 * 3.5 = -1.9159399979 - 0.175 = -2.0909399979
        (
            "half-cheetah-vel-v1",
            Velocity(1.5),
            CHEETAH_ACTION,
            [0.0250190933, 0.0042220934],
            -2.0909399979,
        ),
        # The torso moves from x = 0.0250190933 to 0.0332846338: v_x = 0.1653108098.
        # d = -1: -0.1653108098 + 1 - 0.5 * 4.5 = -1.4153108098
        (
            "ant-dir-v1",
            Direction(-1.0),
            ANT_ACTION,
            [0.0250190933, 0.0332846338],
            -1.4153108098,
        ),
        # It ends at (0.0332846338, 0.0893809646); g = (1, -2):
        # -(0.9667153662 + 2.0893809646) - 0.1 * 4.5 = -3.0560963308 - 0.45 = -3.5060963308
        (
            "ant-goal-v1",
            Goal(1.0, -2.0),
            ANT_ACTION,
            [0.0250190933, 0.0332846338],
            -3.5060963308,
        ),
        # From (0, 0) by (3, -0.5) / 10, clipped: to (0.1, -0.05). g = (0.4, 0.35):
        # the offset is (-0.3, -0.4), so the distance after the move is 0.5.
        ("point-navigation-v1", Goal(0.4, 0.35), [3.0, -0.5], [0.0, 0.1], -0.5),
    ],
)
def test_a_reward_is_the_one_worked_by_hand(
    name: str, task: Task, action: list[float], moved: list[float], reward: float
) -> None:
    batch = started(name, task)
    before = tracked_x(batch)
    _, rewards, terminated = batch.step(np.array([action], np.float32))
    assert [before, tracked_x(batch)] == pytest.approx(moved, abs=1e-9)
    assert rewards[0] == pytest.approx(reward, abs=1e-7)  # the cost is in float32
    assert not terminated[0]


def tracked_x(batch: RenderableBatch) -> float:
    physics = getattr(batch, "physics", None)
    if physics is None or physics.qpos.shape[1] == 9:
        return float(batch.render_state(0)[0])
    return float(physics.xpos[0, 1, 0])


@pytest.mark.parametrize(
    ("height", "ended"), [(-0.01, True), (0.01, False), (0.99, False), (1.05, True)]
)
def test_an_ant_terminates_outside_its_heights(height: float, ended: bool) -> None:
    batch = AntDir().make_batch(2)
    batch.reset([Direction(1.0)], [np.random.default_rng(0)])
    batch.physics.qpos[0, 2] = height
    assert batch.family.terminated(batch.physics).tolist() == [ended, False]


def test_a_point_terminates_only_where_both_offsets_are_small() -> None:
    batch = started("point-navigation-v1", Goal(0.1, 0.0), num_envs=3)
    _, _, terminated = batch.step(np.array([[0.95, 0.05], [0.95, 0.2], [1.0, 0.0]], np.float32))
    assert terminated.tolist() == [True, False, True]


def test_the_rest_never_terminates() -> None:
    for name in ("half-cheetah-dir-v1", "half-cheetah-vel-v1", "ant-goal-v1"):
        family = make_family(name)
        batch = started(name, family.held_out_tasks()[0], num_envs=4)
        actions = np.random.default_rng(0)
        for _ in range(100):
            shape = (4, *family.action_space.shape)
            assert not batch.step(actions.uniform(-30, 30, shape).astype(np.float32))[2].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_simulation_is_rewarded_for_its_own_task(name: str) -> None:
    family = make_family(name)
    tasks = family.sample_tasks(generator(0, "tasks"), 3)
    tasks[0] = family.held_out_tasks()[0]
    batch = family.make_batch(6)
    batch.reset(tasks, [np.random.default_rng(i) for i in range(3)])
    action = np.full((6, *family.action_space.shape), 0.3, np.float32)
    together = batch.step(action)[1]
    for t, task in enumerate(tasks):
        alone = family.make_batch(2)
        alone.reset([task], [np.random.default_rng(t)])
        assert np.array_equal(alone.step(action[:2])[1], together[2 * t : 2 * t + 2])


@pytest.mark.parametrize("name", FAMILIES)
def test_spaces_hold_what_a_batch_gives_and_takes(name: str) -> None:
    family = make_family(name)
    batch = started(name, family.held_out_tasks()[0], num_envs=2)
    limit = family.action_scale * (0.1 if name.startswith("point") else 1.0)
    assert np.array_equal(family.action_space.high, np.full_like(family.action_space.high, limit))
    assert np.array_equal(family.action_space.low, -family.action_space.high)
    observation, _, _ = batch.step(np.stack([family.action_space.high, family.action_space.low]))
    assert observation.shape == (2, *family.observation_space.shape)
    assert all(family.observation_space.contains(row) for row in observation)


@pytest.mark.parametrize("name", DISCRETE)
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
    assert values("point-navigation-v1").var(axis=0) == pytest.approx([1 / 12, 1 / 12], rel=0.05)
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
        ("ant-goal-v1", [1.0, 2.0], r"a mapping with the fields \['x', 'y'\]"),
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


def test_an_unknown_family_names_its_nearest() -> None:
    with pytest.raises(UnknownFamily, match="did you mean .*half-cheetah-dir-v1"):
        make_family("half-cheeta-dir-v1")
    with pytest.raises(UnknownFamily, match="known: point-navigation-v1, half-cheetah-dir-v1"):
        make_family("zzz")


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
    with pytest.raises(ValueError, match="one generator a task: 1 for 2 tasks"):
        family.make_batch(4).reset(tasks, rngs[:1])
    with pytest.raises(ValueError, match="cannot be shared evenly among 0 tasks"):
        family.make_batch(4).reset([], [])


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
    if not name.startswith("point"):
        assert f"MuJoCo {mujoco.__version__}" in card.physics
        assert f"({family.observation_space.shape[0]})" in card.observation


@pytest.mark.parametrize("name", FAMILIES)
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


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("point")])
def test_a_marker_changes_nothing_in_the_physics(name: str) -> None:
    family = drawn(name)
    model = family.render_model(family.held_out_tasks()[0])
    plain = load_model(family.model_file)  # type: ignore[attr-defined]
    for attribute in ("nq", "nv", "nbody", "ngeom", "njnt"):
        assert getattr(model, attribute) == getattr(plain, attribute)
    for attribute in ("jnt_type", "jnt_qposadr", "body_mass", "geom_pos", "qpos0"):
        assert np.array_equal(getattr(model, attribute), getattr(plain, attribute))


def test_arrow_heads_point_where_the_robot_should_run() -> None:
    for direction in (1.0, -1.0):
        family = drawn("half-cheetah-dir-v1")
        model = family.render_model(Direction(direction))
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        # Of the two bars of a head, the one on the left (y > 0) slopes down towards its tip.
        bar = next(i for i in range(model.nsite) if model.site_pos[i, 1] > 0)
        along = data.site_xmat[bar].reshape(3, 3)[:, 0]
        tip = along if along[1] < 0 else -along
        assert np.sign(tip[0]) == direction


def test_importing_the_environments_imports_neither_torch_nor_ray_nor_graphics() -> None:
    code = "import sys, warprl.envs; print({'torch', 'ray', 'OpenGL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
