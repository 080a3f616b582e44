"""Pictures of simulations, drawn off the screen."""

from __future__ import annotations

from abc import ABC, abstractmethod

import mujoco
import numpy as np
from numpy.typing import NDArray

from warprl.types import Floats

Picture = NDArray[np.uint8]  # [height, width, 3]


class Screen(ABC):
    """Draws simulations of one task from what their batch's ``render_state`` returned."""

    @abstractmethod
    def draw(self, state: Floats, panel: int = 0) -> Picture:
        """Draw one state.

        Args:
            state: the numbers that ``render_state`` returned.
            panel: which of several episodes that are drawn in turn, side by side, this one is.

        Returns:
            A square picture ``[size, size, 3]``.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the graphics."""


class ModelScreen(Screen):
    """Draws a MuJoCo model whose state is its ``qpos``.

    It leaves out shadows, reflections and smoothing, on which software OpenGL spends most of its
    time: 181 pictures a second without them, 12 with them.
    """

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        """Draw pictures of ``size`` x ``size`` pixels, seen by the camera "track"."""
        model.vis.quality.offsamples = 0
        self._data = mujoco.MjData(model)
        self._model = model
        self._renderer = mujoco.Renderer(model, size, size)

    def draw(self, state: Floats, panel: int = 0) -> Picture:
        """The model at the positions ``state`` ``[nq]``; see the base class."""
        self._data.qpos[:] = state
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera="track")
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        picture: Picture = self._renderer.render()
        return picture

    def close(self) -> None:
        """Free the graphics."""
        self._renderer.close()
