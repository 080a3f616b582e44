"""How each kind of task is drawn: by sites, which have no mass and which nothing can touch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import mujoco
import numpy as np

from warprl.envs.tasks import Direction, Goal, Heading, Velocity
from warprl.types import Task

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
        spec.worldbody.add_site(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            pos=(task.velocity * time, 0.6, 0.4),
            size=(0.04, 0.4, 0.0),
            rgba=_RED,
        )


@mark.register
def _mark_goal(task: Goal, spec: mujoco.MjSpec, times: Sequence[float]) -> None:
    """A red column at the goal, seen from above so that it is always in the picture."""
    spec.worldbody.add_site(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        pos=(task.x, task.y, 0.5),
        size=(0.2, 0.5, 0.0),
        rgba=_CLEAR_RED,
    )
    _look_down(spec)


def add_bars(spec: mujoco.MjSpec, factors: Sequence[float]) -> None:
    """Add red bars behind the start, one for each factor, in order from the left.

    Args:
        spec: the model, which is changed.
        factors: how high the bars are, in units of 0.3 m.
    """
    for number, factor in enumerate(factors):
        spec.worldbody.add_site(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(0.3 * (number - (len(factors) - 1) / 2), 0.6, 0.15 * factor),
            size=(0.06, 0.06, 0.15 * factor),
            rgba=_RED,
        )


def _add_arrows(spec: mujoco.MjSpec, angle: float) -> None:
    """Red arrow heads, 1 m apart on a line through the start, ``angle`` from the x axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    for along in range(-30, 31):
        for side in (-1.0, 1.0):
            bar, left = angle + side * np.pi / 4, -0.14 * side
            spec.worldbody.add_site(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=(along * cos - left * sin, along * sin + left * cos, 0.01),
                size=(0.22, 0.05, 0.01),
                quat=(np.cos(bar / 2), 0.0, 0.0, np.sin(bar / 2)),
                rgba=_RED,
            )


def _look_down(spec: mujoco.MjSpec) -> None:
    """Turn the camera that follows the robot down, so that the picture shows the floor round it."""
    camera = spec.camera("track")
    camera.pos = (0.0, -5.0, 5.0)
    camera.alt.xyaxes = (1.0, 0.0, 0.0, 0.0, 1.0, 1.0)
