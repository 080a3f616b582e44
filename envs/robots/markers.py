"""How each kind of task is drawn: by sites, which have no mass and which nothing can touch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import mujoco
import numpy as np

from warprl.envs.tasks import Direction, Goal, Heading, Velocity
from warprl.types import Task

Vector = tuple[float, float, float]  # m

_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
_RED = (0.9, 0.2, 0.1, 1.0)
_CLEAR_RED = (0.9, 0.2, 0.1, 0.6)


@singledispatch
def mark(task: Task, spec: mujoco.MjSpec, times: Sequence[float]) -> None:
    """Add the marker of a task to a robot's model for drawing.

    All robots show a kind of task alike. A new kind registers its marker with ``mark.register``.

    Args:
        task: the task to show.
        spec: the model, which is changed.
        times: when a marker that shows where the robot should be does so, in s after the start.

    Raises:
        TypeError: no marker is registered for this kind of task.
    """
    raise TypeError(f"no marker is registered for tasks of the type {type(task).__name__}")


@mark.register
def _mark_direction(task: Direction, spec: mujoco.MjSpec, times: Sequence[float]) -> None:
    """Arrow heads along the x axis, which point where the robot should run."""
    _add_arrows(spec, 0.0 if task.direction > 0 else np.pi)


@mark.register
def _mark_heading(task: Heading, spec: mujoco.MjSpec, times: Sequence[float]) -> None:
    """Arrow heads on the floor, seen from above."""
    _add_arrows(spec, task.angle)
    _look_down(spec)


@mark.register
def _mark_velocity(task: Velocity, spec: mujoco.MjSpec, times: Sequence[float]) -> None:
    """Red posts behind the track, where a perfect runner is at these times."""
    for time in times:
        _add(spec, _CYLINDER, (task.velocity * time, 0.6, 0.4), (0.04, 0.4, 0.0))


@mark.register
def _mark_goal(task: Goal, spec: mujoco.MjSpec, times: Sequence[float]) -> None:
    """A red column at the goal, seen from above so that it is always in the picture."""
    _add(spec, _CYLINDER, (task.x, task.y, 0.5), (0.2, 0.5, 0.0), rgba=_CLEAR_RED)
    _look_down(spec)


def add_bars(spec: mujoco.MjSpec, factors: Sequence[float]) -> None:
    """Add red bars behind the start, one for each factor, in order from the left.

    Args:
        spec: the model, which is changed.
        factors: how high the bars are, in units of 0.3 m.
    """
    for number, factor in enumerate(factors):
        x, half = 0.3 * (number - (len(factors) - 1) / 2), 0.15 * factor
        _add(spec, _BOX, (x, 0.6, half), (0.06, 0.06, half))


def _add_arrows(spec: mujoco.MjSpec, angle: float) -> None:
    """Red arrow heads, 1 m apart on a line through the start, ``angle`` from the x axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    for along in range(-30, 31):
        for side in (-1.0, 1.0):
            bar, left = angle + side * np.pi / 4, -0.14 * side
            place = along * cos - left * sin, along * sin + left * cos, 0.01
            turned = np.cos(bar / 2), 0.0, 0.0, np.sin(bar / 2)
            _add(spec, _BOX, place, (0.22, 0.05, 0.01), quat=turned)


def _add(spec: mujoco.MjSpec, shape: Any, place: Vector, size: Vector, **more: Any) -> None:
    """Add a site, which is red unless ``more`` says otherwise; half sizes, as MuJoCo has them."""
    spec.worldbody.add_site(type=shape, pos=place, size=size, **{"rgba": _RED, **more})


def _look_down(spec: mujoco.MjSpec) -> None:
    """Turn the camera that follows the robot down, so that the picture shows the floor round it."""
    camera = spec.camera("track")
    camera.pos = (0.0, -5.0, 5.0)
    camera.alt.xyaxes = (1.0, 0.0, 0.0, 0.0, 1.0, 1.0)
