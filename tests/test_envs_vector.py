"""The families as Gymnasium environments."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from warprl.envs import UnknownFamily, family_names, make_family, make_vector
from warprl.envs.physics import Physics
from warprl.envs.tasks import Direction, Goal, Velocity
from warprl.envs.vector import FamilyEnv, FamilyVectorEnv, gymnasium_id
from warprl.launch.machine import find_backend

FAMILIES = family_names()


@pytest.mark.parametrize("name", FAMILIES)
def test_gymnasiums_checker_accepts_the_environment(name: str) -> None:
    env = gymnasium.make(gymnasium_id(name))
    with warnings.catch_warnings():
        # What Gymnasium's own robots are told, too: unbounded observations; scaled actions.
        warnings.filterwarnings("ignore", message=".*A Box observation space m.* is .?infinity")
        warnings.filterwarnings("ignore", message=".*For Box action spaces, we recommend")
        check_env(env.unwrapped, skip_render_check=True)
    env.close()  # type: ignore[no-untyped-call]


def test_the_ids_are_camel_case() -> None:
    assert gymnasium_id("half-cheetah-dir-v1") == "warprl/HalfCheetahDir-v1"
    assert gymnasium_id("point-navigation-v1") == "warprl/PointNavigation-v1"
    assert gymnasium_id("ant-dir-2d-v1") == "warprl/AntDir2d-v1"
    assert gymnasium_id("maze-v1") == "warprl/Maze-v1"
    assert gymnasium_id("maze-11-v1") == "warprl/Maze11-v1"
    assert gymnasium_id("half-cheetah-dir-maml2017-v1") == "warprl/HalfCheetahDirMaml2017-v1"


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("half-cheetah-vel-v1", 130),
        ("half-cheetah-vel-maml2017-v1", 230),
        ("ant-dir-v1", 260),
        ("point-navigation-v1", 250),
        ("point-sparse-v1", 70),
        ("walker2d-rand-params-v1", 130),
        ("humanoid-dir-2d-v1", 130),
        ("maze-v1", 250),
    ],
)
def test_the_vector_environment_does_what_single_ones_do(name: str, steps: int) -> None:
    ours = gymnasium.make_vec(
        gymnasium_id(name), num_envs=3, vectorization_mode="vector_entry_point"
    )
    theirs: Any = SyncVectorEnv([lambda: FamilyEnv(name)] * 3)
    ours.action_space.seed(0)
    observation, info = ours.reset(seed=5)
    expected, expected_info = theirs.reset(seed=5)
    assert np.array_equal(observation, expected)
    ends = np.zeros(3)
    for step in range(steps):
        assert_equal_where_given(info, expected_info)
        action = ours.action_space.sample()
        if step == 30:  # one of them begins again in mid-episode
            options = {"reset_mask": np.array([False, True, False])}
            observation, info = ours.reset(seed=77, options=dict(options))
            expected, expected_info = theirs.reset(seed=77, options=options)
            assert np.array_equal(observation, expected)
        observation, reward, terminated, truncated, info = ours.step(action)
        *rest, expected_info = theirs.step(action)
        for mine, other in zip((observation, reward, terminated, truncated), rest, strict=True):
            assert np.array_equal(mine, other)
        ends += terminated | truncated
    assert (ends >= 1).all()
    assert ours.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def assert_equal_where_given(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Gymnasium marks the simulations that gave ``key`` by a mask under ``_key``."""
    for key in [key for key in theirs if not key.startswith("_")]:
        mask = theirs[f"_{key}"]
        assert np.array_equal(ours[f"_{key}"], mask)
        if isinstance(theirs[key], dict):
            assert_equal_where_given(ours[key], theirs[key])
        else:
            assert np.array_equal(ours[key][mask], theirs[key][mask])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_horizon_truncates_and_does_not_terminate(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = make_family(name)
    if name.startswith(("walker2d", "hopper", "humanoid")):
        monkeypatch.setattr(family, "horizon", 10)  # without a command they soon fall
    env = gymnasium.make(gymnasium_id(name), task=asdict(family.held_out_tasks()[0]))
    env.reset(seed=0)
    still = np.zeros_like(env.action_space.sample())
    for _ in range(family.horizon - 1):
        _, _, terminated, truncated, _ = env.step(still)
        assert (terminated, truncated) == (False, False)
    _, _, terminated, truncated, _ = env.step(still)
    assert (terminated, truncated) == (False, True)
    env.close()  # type: ignore[no-untyped-call]


def test_a_termination_is_not_a_truncation() -> None:
    env = FamilyEnv("point-navigation-v1", task={"x": 0.1, "y": 0.0})
    env.reset()
    _, reward, terminated, truncated, _ = env.step(np.array([1.0, 0.0], np.float32))
    assert (terminated, truncated) == (True, False)
    assert reward == pytest.approx(0.0, abs=1e-7)


def test_a_physics_fault_truncates_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    step = Physics.step

    def blow_up(physics: Physics, running: NDArray[np.bool_]) -> None:
        physics.qvel[0] = np.nan
        step(physics, running)

    vector = FamilyVectorEnv("half-cheetah-dir-v1", num_envs=2)
    vector.reset(seed=0)
    action = np.zeros((2, 6), np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(Physics, "step", blow_up)
        _, _, terminated, truncated, info = vector.step(action)
    assert info["fault"].tolist() == truncated.tolist() == [True, False]
    assert not terminated.any()
    _, reward, terminated, truncated, info = vector.step(action)
    assert reward[0] == 0.0 and info["_task"].tolist() == [True, False]
    assert not (terminated | truncated | info["fault"]).any()


def test_a_task_stays_until_another_is_given() -> None:
    env = FamilyEnv("half-cheetah-vel-v1")
    drawn = [env.reset(seed=0)[1]["task"], env.reset()[1]["task"]]
    assert drawn[0] != drawn[1]
    assert env.reset(options={"task": {"velocity": 2.0}})[1]["task"] == {"velocity": 2.0}
    assert env.reset()[1]["task"] == {"velocity": 2.0}
    assert FamilyEnv("half-cheetah-vel-v1", task={"velocity": 1}).reset()[1]["task"] == {
        "velocity": 1.0
    }


def test_the_task_option_of_a_vector_is_for_the_simulations_that_are_reset() -> None:
    env = make_vector("ant-goal-v1", [Goal(1.0, 0.0)], episodes=2, seed=0)
    env.reset()
    options = {"task": {"x": 0.0, "y": 2.0}, "reset_mask": np.array([False, True])}
    env.reset(options=options)
    _, info = env.reset()
    assert info["task"]["x"].tolist() == [1.0, 0.0]
    assert info["task"]["y"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"velocity": 9.0}, "half-cheetah-vel-v1: task field 'velocity' must be between 0 and 3"),
        ({"speed": 1.0}, r"a mapping with the fields \['velocity'\], got \['speed'\]"),
        ("fast", r"a mapping with the fields \['velocity'\], got 'fast'"),
    ],
)
def test_a_bad_task_option_is_refused_clearly(task: Any, message: str) -> None:
    env = gymnasium.make("warprl/HalfCheetahVel-v1")
    with pytest.raises(ValueError, match=message):
        env.reset(options={"task": task})
    vector = FamilyVectorEnv("half-cheetah-vel-v1", num_envs=2)
    with pytest.raises(ValueError, match=message):
        vector.reset(options={"task": task})


def test_make_vector_shares_out_the_tasks_in_order_and_repeats() -> None:
    tasks = [Velocity(0.5), Velocity(1.0), Velocity(2.5)]
    env = make_vector("half-cheetah-vel-v1", tasks, episodes=2, seed=3)
    observation, info = env.reset()
    assert info["task"]["velocity"].tolist() == [0.5, 0.5, 1.0, 1.0, 2.5, 2.5]
    again, _ = make_vector("half-cheetah-vel-v1", tasks, episodes=2, seed=3).reset()
    other, _ = make_vector("half-cheetah-vel-v1", tasks, episodes=2, seed=30).reset()
    assert np.array_equal(observation, again)
    assert not np.array_equal(observation, other)
    assert len(np.unique(observation, axis=0)) == 6


@pytest.mark.parametrize("action", [-1, 4, 1.5])
def test_a_choice_that_there_is_not_is_refused(action: float) -> None:
    env = FamilyEnv("maze-v1")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action is a whole number from 0 to 3, got"):
        env.step(np.asarray(action))
    vector = FamilyVectorEnv("maze-v1", num_envs=2)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match="an action is a whole number from 0 to 3, got"):
        vector.step(np.array([0, action]))


def test_bad_arguments_are_refused_in_one_line() -> None:
    with pytest.raises(UnknownFamily, match="unknown task family 'ant-goal-v2'; known: "):
        make_vector("ant-goal-v2", [Goal(0.0, 0.0)], episodes=1, seed=0)
    with pytest.raises(ValueError, match=r"fields \['x', 'y'\], got \['direction'\]"):
        make_vector("ant-goal-v1", [Direction(1.0)], episodes=1, seed=0)
    with pytest.raises(ValueError, match="got 1 tasks and 0 episodes"):
        make_vector("ant-goal-v1", [Goal(0.0, 0.0)], episodes=0, seed=0)
    with pytest.raises(ValueError, match="5 simulations cannot be shared evenly among 2 tasks"):
        FamilyVectorEnv("ant-goal-v1", 5, [Goal(0.0, 0.0), Goal(1.0, 0.0)])
    with pytest.raises(ValueError, match="every simulation needs a seed: got 1 for 2"):
        FamilyVectorEnv("point-navigation-v1", 2).reset(seed=[1])
    with pytest.raises(ValueError, match="render_mode must be 'rgb_array' or None, got 'human'"):
        FamilyEnv("point-navigation-v1", render_mode="human")


PICTURES = """
import sys, gymnasium, numpy as np, warprl.envs
for name in sys.argv[1:]:
    env = gymnasium.make(name, render_mode="rgb_array")
    tasks = [vars(task) for task in env.unwrapped.family.held_out_tasks()]
    env.reset(seed=0, options={"task": tasks[0]})
    first = env.render()
    assert first.shape == (480, 480, 3) and first.dtype == np.uint8 and first.std() > 5
    for _ in range(5):
        env.step(getattr(env.action_space, "high", 3))  # in a maze, to the right
    assert (first != env.render()).any(), "it moved"
    env.reset(seed=0, options={"task": tasks[1]})
    assert (first != env.render()).any(), "the task is visible"
    env.close()
"""


def test_a_single_environment_draws_itself_and_its_task(tmp_path: Path) -> None:
    backend = find_backend()
    if backend is None:
        pytest.skip("nothing can be drawn here: no EGL and no OSMesa")
    # In a process of its own: MuJoCo chooses the backend when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", PICTURES, *map(gymnasium_id, FAMILIES)],
        env={**os.environ, "MUJOCO_GL": backend},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
