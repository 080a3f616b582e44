"""Visible task markers for drawing: sites, which have no mass and which nothing can touch."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

_RED = (0.9, 0.2, 0.1, 1.0)
_CLEAR_RED = (0.9, 0.2, 0.1, 0.6)


def add_goal(spec: mujoco.MjSpec, x: float, y: float, radius: float, height: float) -> None:
    """A red column on the floor at the goal."""
    spec.worldbody.add_site(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        pos=(x, y, height / 2),
        size=(radius, height / 2, 0.0),
        rgba=_CLEAR_RED,
    )


def add_direction(spec: mujoco.MjSpec, sign: float) -> None:
    """Red arrow heads along the x axis, which point where the robot should run."""
    add_heading(spec, 0.0 if sign > 0 else np.pi)


def add_heading(spec: mujoco.MjSpec, angle: float, reach: int = 30, spacing: int = 1) -> None:
    """Red arrow heads on a line through the start, which point ``angle`` from the x axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    for along in range(-reach, reach + 1, spacing):
        for side in (-1.0, 1.0):
            bar, left = angle + side * np.pi / 4, -0.14 * side
            spec.worldbody.add_site(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=(along * cos - left * sin, along * sin + left * cos, 0.01),
                size=(0.22, 0.05, 0.01),
                quat=(np.cos(bar / 2), 0.0, 0.0, np.sin(bar / 2)),
                rgba=_RED,
            )


def add_bars(spec: mujoco.MjSpec, factors: Sequence[float]) -> None:
    """Red bars behind the start, one a factor in order from the left, 0.3 m high for 1."""
    for number, factor in enumerate(factors):
        spec.worldbody.add_site(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(0.3 * (number - (len(factors) - 1) / 2), 0.6, 0.15 * factor),
            size=(0.06, 0.06, 0.15 * factor),
            rgba=_RED,
        )


def look_down(spec: mujoco.MjSpec) -> None:
    """Turn the camera that follows the robot down, so that the floor round it is in the picture."""
    camera = spec.camera("track")
    camera.pos = (0.0, -5.0, 5.0)
    camera.alt.xyaxes = (1.0, 0.0, 0.0, 0.0, 1.0, 1.0)


def add_milestones(
    spec: mujoco.MjSpec, velocity: float, seconds: float, interval: float = 1.0
) -> None:
    """Red posts behind the track, where a perfect runner is after each interval, in s."""
    for number in range(1, round(seconds / interval) + 1):
        spec.worldbody.add_site(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            pos=(velocity * interval * number, 0.6, 0.4),
            size=(0.04, 0.4, 0.0),
            rgba=_RED,
        )
