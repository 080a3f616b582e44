"""The native batch: ``mujoco.batch.Batch`` behind one small class.

One call steps every simulation, without a Python loop and without a thread switch: one thread a
process, because WarpRL runs one process a core. Results are bit-equal to one ``mujoco.MjData`` a
simulation, whatever the neighbours do, since a state row holds all that MuJoCo integrates from,
warm start included.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mujoco
import numpy as np
from gymnasium.envs import mujoco as gymnasium_mujoco
from numpy.typing import NDArray

_ASSETS = Path(gymnasium_mujoco.__file__).parent / "assets"
_HARMLESS = "compiler attribute 'settotalmass' is deprecated"
_COMPILING = threading.RLock()


def model_path(file: str) -> Path:
    """Where Gymnasium keeps the v5 model ``file``."""
    return _ASSETS / file


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Keep one known remark about Gymnasium's HalfCheetah off stderr and out of a log file.

    MuJoCo makes it at every load. Dropping the attribute and scaling the masses afterwards would
    leave another ``stat.meaninertia``, which scales the solver's tolerance, in the model. Every
    other message becomes a Python warning.

    One thread at a time: MuJoCo's handler is the process's, and setting it takes a lock under which
    it waits for Python's, so that two threads doing it at once may wait for each other for ever.
    """

    def handler(message: str) -> None:
        if not message.startswith(_HARMLESS):
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=3)

    with _COMPILING:
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(handler)
        try:
            with warnings.catch_warnings():
                # MjSpec.compile makes it in Python.
                warnings.filterwarnings("ignore", message=_HARMLESS)
                yield
        finally:
            mujoco.set_mju_user_warning(before)


@functools.cache
def load_model(file: str) -> mujoco.MjModel:
    """Gymnasium's v5 model ``file``, compiled once a process; treat it as read-only."""
    with quiet_compiler():
        return mujoco.MjModel.from_xml_path(str(model_path(file)))


class NoNativeBatchError(RuntimeError):
    """The installed mujoco is too old for the native batch."""


class Physics:
    """``num_envs`` simulations of one model.

    ``qpos`` ``[N, nq]``, ``qvel`` ``[N, nv]`` and ``ctrl`` ``[N, nu]`` are live views: writing to
    them is writing the state. ``xpos`` ``[N, nbody, 3]`` and the further ``derived`` fields, by
    their names in ``mujoco.MjData``, are read-only and, as after ``mujoco.mj_step``, one substep
    behind the state. If the model has position or velocity sensors, they, ``sensordata`` ``[N,
    nsensordata]``, and the derived fields are of the state itself.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        frame_skip: int,
        derived: Sequence[str] = (),
    ) -> None:
        """Raises ValueError if ``num_envs`` is not positive; NoNativeBatchError."""
        # Imported where it is needed: families that do without it also run on older MuJoCos.
        try:
            from mujoco.batch import Batch
        except ImportError:
            raise NoNativeBatchError(
                "this family steps on MuJoCo's native batch, which mujoco "
                f"{mujoco.__version__} does not have: it takes mujoco 3.17 or newer, in an "
                "environment without Meta-World"
            ) from None

        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        self._batch = Batch(model, nsim=num_envs, nthread=1)
        self._frame_skip = frame_skip
        self._failed = np.zeros(num_envs, dtype=np.bool_)
        self.qpos: NDArray[np.float64] = self._batch.bind("qpos")
        self.qvel: NDArray[np.float64] = self._batch.bind("qvel")
        self.ctrl: NDArray[np.float64] = self._batch.bind("ctrl")
        # A derived field is filled by the next call only, so bind it before the first one.
        self.xpos: NDArray[np.float64] = self._batch.bind("xpos")
        self.sensordata: NDArray[np.float64] = self._batch.bind("sensordata")
        # Sensors cost a second pass over the kinematics, which only a model that has them pays for.
        stage = mujoco.mjtStage.mjSTAGE_VEL if model.nsensordata else mujoco.mjtStage.mjSTAGE_NONE
        self._stage: int = stage.value
        self.derived: dict[str, NDArray[np.float64]] = {
            name: self._batch.bind(name) for name in derived
        }

    def reset(
        self,
        qpos: NDArray[np.float64],
        qvel: NDArray[np.float64],
        ids: NDArray[np.intp] | None = None,
    ) -> None:
        """Put simulations ``ids`` (all by default) at ``qpos`` ``[n, nq]``, ``qvel`` ``[n, nv]``.

        Clears their faults and warm starts and leaves every other simulation untouched.
        """
        where = slice(None) if ids is None else ids
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.qpos[where] = qpos
        self.qvel[where] = qvel
        self._failed[where] = False
        with self._failures_recorded():
            self._batch.forward(ids)

    def step(self, running: NDArray[np.bool_]) -> None:
        """Advance simulations ``running`` ``[N]`` by ``frame_skip`` physics steps under ``ctrl``.

        A simulation in which MuJoCo raises an error keeps its state; see :meth:`faults`.
        """
        ids = None if running.all() else np.flatnonzero(running)
        with self._failures_recorded():
            self._batch.step(ids, nstep=self._frame_skip, stage=self._stage)

    def faults(self) -> NDArray[np.bool_]:
        """``[N]``: simulations MuJoCo warned about or raised in since their last reset.

        On a NaN or a huge value MuJoCo warns, silently resets that simulation and goes on, so the
        counters are the only trace.
        """
        warned: NDArray[np.bool_] = self._batch.warning[:, :, 1].any(axis=1)
        return warned | self._failed

    def model_field(self, name: str) -> NDArray[np.float64]:
        """Live per-simulation values ``[N, ...]`` of a model field such as ``body_mass``.

        Write them, then call :meth:`apply_model_fields`; without it the constants that MuJoCo
        derives from them stay those of the shared model, silently.
        """
        field: NDArray[np.float64] = self._batch.expand(name)
        return field

    def apply_model_fields(self, ids: NDArray[np.intp] | None = None) -> None:
        """Derive the constants that depend on the model fields of simulations ``ids`` (all)."""
        self._batch.set_const(ids)

    @contextmanager
    def _failures_recorded(self) -> Iterator[None]:
        """Record the simulations MuJoCo raised in; the others have run to completion."""
        from mujoco.batch import SimulationError

        try:
            yield
        except SimulationError as error:
            self._failed[error.ids] = True
