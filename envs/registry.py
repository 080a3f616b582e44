"""Names of task families: those of this package, of Meta-World, and of a user's own modules."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Sequence

from warprl.envs.family import TaskFamily
from warprl.envs.maze import Maze11, Maze13
from warprl.envs.point import PointNavigation, PointSparse
from warprl.envs.robots.ant import AntDir, AntDir2D, AntGoal, AntVel
from warprl.envs.robots.half_cheetah import HalfCheetahDir, HalfCheetahVel
from warprl.envs.robots.half_cheetah_maml2017 import HalfCheetahDirMaml2017, HalfCheetahVelMaml2017
from warprl.envs.robots.hopper import HopperRandParams
from warprl.envs.robots.humanoid import HumanoidDir, HumanoidDir2D
from warprl.envs.robots.walker2d import Walker2dDir, Walker2dRandParams, Walker2dVel

FAMILIES: dict[str, type[TaskFamily]] = {
    family.name: family
    for family in (
        PointNavigation,
        PointSparse,
        Maze13,
        Maze11,
        HalfCheetahDir,
        HalfCheetahVel,
        HalfCheetahDirMaml2017,
        HalfCheetahVelMaml2017,
        AntDir,
        AntDir2D,
        AntVel,
        AntGoal,
        Walker2dDir,
        Walker2dVel,
        Walker2dRandParams,
        HopperRandParams,
        HumanoidDir,
        HumanoidDir2D,
    )
}
"""The families of this package by their names."""

_META_WORLD = re.compile(r"ml10|ml45|ml1-.+")


class UnknownFamily(ValueError):
    """No task family has this name; the message is one line.

    It ends with the ``known`` names, if they can be listed. A program that would rather suggest the
    nearest of them puts that behind ``reason``, which is the message without the list.
    """

    def __init__(self, reason: str, known: Sequence[str] = ()) -> None:
        """Say why, and which names there are."""
        super().__init__(f"{reason}; known: {', '.join(known)}" if known else reason)
        self.reason, self.known = reason, known


def family_names() -> list[str]:
    """The names of the families of this package."""
    return list(FAMILIES)


def is_meta_world(name: str) -> bool:
    """Whether this is the name of a Meta-World family, which needs the package metaworld."""
    return _META_WORLD.fullmatch(name) is not None


@functools.cache
def make_family(name: str) -> TaskFamily:
    """Look up a task family; families are stateless, so a process has one object of each.

    Args:
        name: a name of this package or of Meta-World; or ``package.module:FAMILY``, for an object
            in a module of the user's own.

    Returns:
        The family.

    Raises:
        UnknownFamily: in one line that says what would be right.
    """
    if ":" in name:
        return _import_family(name)
    if is_meta_world(name):
        return _meta_world(name)
    if name not in FAMILIES:
        raise UnknownFamily(f"unknown task family {name!r}", family_names())
    return FAMILIES[name]()


def _meta_world(name: str) -> TaskFamily:
    try:
        from warprl.envs.meta_world import MetaWorld, meta_world_names
    except ModuleNotFoundError as error:
        if error.name != "metaworld":
            raise
        raise UnknownFamily(
            f"{name} needs Meta-World, which is not installed here; in an environment of its own: "
            "pip install --constraint constraints-metaworld.txt '.[metaworld]' "
            "(see docs/metaworld.md)"
        ) from error
    if name not in meta_world_names():
        task = name.removeprefix("ml1-")
        raise UnknownFamily(f"Meta-World has no task {task!r}", meta_world_names())
    return MetaWorld(name)


def _import_family(name: str) -> TaskFamily:
    # Read the name.
    module_name, _, attribute = name.partition(":")
    problem = f"no task family {name!r}"
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise UnknownFamily(f"{problem}: the form is package.module:FAMILY")

    # Import the module, and tell apart whose fault it is if that fails.
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UnknownFamily(
                f"{problem}: {module_name} imports {error.name!r}, and there is no such module"
            ) from error
        raise UnknownFamily(
            f"{problem}: no module {error.name!r} in the working directory or on PYTHONPATH"
        ) from error
    except Exception as error:  # the user's module can raise anything; its message says more
        raise UnknownFamily(
            f"{problem}: importing {module_name!r} failed with {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error

    # Find the family in it.
    family = getattr(module, attribute, None)
    if isinstance(family, TaskFamily):
        return family
    found = f"is a {type(family).__name__}" if hasattr(module, attribute) else "does not exist"
    others = [key for key, value in vars(module).items() if isinstance(value, TaskFamily)]
    there = f"its families: {', '.join(others)}" if others else "it has no families"
    raise UnknownFamily(f"{problem}: {attribute!r} of {module_name!r} {found}; {there}")
