"""Names of task families."""

from __future__ import annotations

import difflib
import functools

from warprl.envs.ant import AntDir, AntDir2D, AntGoal, AntVel
from warprl.envs.family import TaskFamily
from warprl.envs.half_cheetah import HalfCheetahDir, HalfCheetahVel
from warprl.envs.half_cheetah_maml2017 import HalfCheetahDirMaml2017, HalfCheetahVelMaml2017
from warprl.envs.hopper import HopperRandParams
from warprl.envs.humanoid import HumanoidDir, HumanoidDir2D
from warprl.envs.point import PointNavigation, PointSparse
from warprl.envs.walker2d import Walker2dDir, Walker2dRandParams, Walker2dVel

_FAMILIES: dict[str, type[TaskFamily]] = {
    family.name: family
    for family in (
        PointNavigation,
        PointSparse,
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


class UnknownFamily(ValueError):
    """No task family has this name."""


def family_names() -> list[str]:
    """Every name that :func:`make_family` knows."""
    return list(_FAMILIES)


@functools.cache
def make_family(name: str) -> TaskFamily:
    """The task family ``name``; families are stateless, so there is one object a process.

    Raises UnknownFamily, with the nearest names if there are any.
    """
    if name not in _FAMILIES:
        near = difflib.get_close_matches(name, _FAMILIES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_FAMILIES)}"
        raise UnknownFamily(f"unknown task family {name!r}; {hint}")
    return _FAMILIES[name]()
