"""Every registered family has tests, and the registry imports the robots, not the other way."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import test_maze
from test_envs_families import (
    test_a_maml2017_reward_is_for_the_velocity_of_the_centre_of_mass as maml2017_by_hand,
)
from test_envs_families import test_a_reward_is_the_one_worked_by_hand as by_hand
from test_packaging import imported_names, is_inside
from test_physics import test_a_batch_equals_gymnasium_for_a_thousand_steps as step_by_step
from test_physics import (
    test_a_maml2017_batch_equals_gymnasium_and_mujoco_for_a_thousand_single_steps as maml2017,
)
from test_physics import (
    test_a_reward_is_of_gymnasiums_velocities_in_the_step_that_falls_too as reward_by_reward,
)

from warprl.envs.family import TaskFamily
from warprl.envs.point import PointSparse
from warprl.envs.registry import FAMILIES
from warprl.envs.robots.half_cheetah import HalfCheetahVel
from warprl.envs.robots.locomotion import LocomotionFamily

ENVS = Path(__file__).resolve().parent.parent / "envs"

# Families without a robot of Gymnasium's, and where else what they do is worked out by hand.
NO_ROBOT = {
    "point-navigation-v1": "a sum in NumPy: test_envs_families.py works moves and ends by hand",
    "point-sparse-v1": "a sum in NumPy: test_envs_families.py works moves and rewards by hand",
    "maze-v1": "a grid in NumPy: test_maze.py works walks by hand",
    "maze-11-v1": "a grid in NumPy: test_maze.py works walks by hand",
}
# Families whose rewards are worked by hand along a walk, and not in the table for single steps.
WORKED_ALONG_A_WALK: dict[str, Callable[[], None]] = {
    "maze-v1": test_maze.test_observations_by_hand,
    "maze-11-v1": test_maze.test_the_goal_pays_whenever_it_is_reached_and_stays_where_it_is,
}


def cases(test: Callable[..., None], argument: str) -> list[Any]:
    """The values of one argument in the parametrisation of a test."""
    (mark,) = (mark for mark in test.pytestmark if argument in mark.args[0])  # type: ignore[attr-defined]
    names, rows = mark.args
    return [row[names.index(argument)] for row in rows]


def complaints(families: Mapping[str, type[TaskFamily]]) -> list[str]:
    """What the tests leave out of these families."""
    worked = [*cases(by_hand, "name"), *cases(maml2017_by_hand, "name"), *WORKED_ALONG_A_WALK]
    rewards = [*cases(reward_by_reward, "family"), *cases(maml2017, "family")]
    robots = {
        (family.model_file, family.frame_skip)
        for family in [*cases(step_by_step, "family"), *cases(maml2017, "family")]
    }
    found = []
    for name, family in families.items():
        if name not in worked:
            found.append(f"{name}: no reward is worked by hand")
        if issubclass(family, LocomotionFamily):
            if family not in rewards:
                found.append(f"{name}: its rewards are not compared with Gymnasium's")
            if (family.model_file, family.frame_skip) not in robots:
                found.append(f"{name}: its robot is not compared with Gymnasium's")
        elif name not in NO_ROBOT:
            found.append(f"{name}: neither a robot of Gymnasium's nor listed with a reason")
    return found


def test_every_registered_family_is_put_to_the_test() -> None:
    assert complaints(FAMILIES) == []


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        (
            HalfCheetahVel,
            {},
            ["no reward is worked by hand", "its rewards are not compared with Gymnasium's"],
        ),
        (
            HalfCheetahVel,
            {"frame_skip": 3},
            [
                "no reward is worked by hand",
                "its rewards are not compared with Gymnasium's",
                "its robot is not compared with Gymnasium's",
            ],
        ),
        (
            PointSparse,
            {},
            [
                "no reward is worked by hand",
                "neither a robot of Gymnasium's nor listed with a reason",
            ],
        ),
    ],
)
def test_a_family_that_is_registered_and_not_put_to_the_test_is_found(
    base: type[TaskFamily],
    changes: dict[str, Any],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, "planted-v1", type("Planted", (base,), changes))
    assert complaints(FAMILIES) == [f"planted-v1: {text}" for text in expected]


def test_no_exception_outlives_its_reason() -> None:
    assert set(NO_ROBOT) | set(WORKED_ALONG_A_WALK) <= set(FAMILIES)
    assert not any(issubclass(FAMILIES[name], LocomotionFamily) for name in NO_ROBOT)
    for name, test in WORKED_ALONG_A_WALK.items():
        assert f'"{name}"' in inspect.getsource(test)


def sources() -> dict[str, str]:
    """The text of every module of ``warprl.envs`` by its name."""
    return {
        ".".join(("warprl.envs", *path.relative_to(ENVS).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path.read_text(encoding="utf-8")
        for path in ENVS.rglob("*.py")
    }


def imports(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Which of these modules each of them imports."""
    return {
        module: {
            max((other for other in modules if is_inside(name, other)), key=len)
            for name in imported_names(text)
            if is_inside(name, *modules)
        }
        for module, text in modules.items()
    }


def test_no_import_of_the_environments_runs_in_a_circle() -> None:
    modules = sources()
    TopologicalSorter(imports(modules)).prepare()
    modules["warprl.envs.tasks"] += "from warprl.envs.registry import make_family"
    with pytest.raises(CycleError):
        TopologicalSorter(imports(modules)).prepare()


def test_only_the_registry_imports_the_robots() -> None:
    users = {
        module
        for module, names in imports(sources()).items()
        if not is_inside(module, "warprl.envs.robots")
        and any(is_inside(name, "warprl.envs.robots") for name in names)
    }
    assert users == {"warprl.envs.registry"}
