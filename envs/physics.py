"""The native batch: ``mujoco.batch.Batch`` behind one small class.

One call steps every simulation, without a Python loop and without a thread switch: each process has
one thread, because WarpRL runs one process on each core. Results are bit-equal to those of one
``mujoco.MjData`` for each simulation, whatever the neighbours do, since a row of the state holds
all that MuJoCo integrates from, warm start included.
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

from warprl.types import Bools, Floats, Ids

_ASSETS = Path(gymnasium_mujoco.__file__).parent / "assets"
_HARMLESS = "compiler attribute 'settotalmass' is deprecated"
_COMPILING = threading.RLock()


def model_path(file: str) -> Path:
    """The path at which Gymnasium keeps the v5 model ``file``."""
    return _ASSETS / file


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Silence one known warning about Gymnasium's HalfCheetah while models are compiled.

    MuJoCo gives it at every load, on stderr and in a log file. Dropping the deprecated attribute
    and scaling the masses afterwards would change the model's ``stat.meaninertia``, which scales
    the solver's tolerance. Every other message becomes a Python warning.

    Only one thread at a time may compile: the whole process shares MuJoCo's handler, and MuJoCo
    sets it under a lock, holding which it waits for Python's lock. Two threads at once could wait
    for each other for ever.
    """

    def handler(message: str) -> None:
        if not message.startswith(_HARMLESS):
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=3)

    with _COMPILING:
        before = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(handler)
        try:
            with warnings.catch_warnings():
                # MjSpec.compile gives the same warning through Python.
                warnings.filterwarnings("ignore", message=_HARMLESS)
                yield
        finally:
            mujoco.set_mju_user_warning(before)


@functools.cache
def load_model(file: str) -> mujoco.MjModel:
    """Gymnasium's v5 model ``file``, compiled once in a process; treat it as read-only."""
    with quiet_compiler():
        return mujoco.MjModel.from_xml_path(str(model_path(file)))


class NoNativeBatchError(RuntimeError):
    """The installed mujoco is too old for the native batch."""


class Physics:
    """``num_envs`` simulations of one model.

    ``qpos`` ``[N, nq]``, ``qvel`` ``[N, nv]`` and ``ctrl`` ``[N, nu]`` are live views: writing to
    them changes the state. ``xpos`` ``[N, nbody, 3]`` and the further ``derived`` fields, by
    their names in ``mujoco.MjData``, are read-only and, as after ``mujoco.mj_step``, one substep
    behind the state. If the model has position or velocity sensors, their values ``sensordata``
    ``[N, nsensordata]`` and the derived fields are those of the state itself.
    """

    def __init__(
        self, model: mujoco.MjModel, num_envs: int, frame_skip: int, derived: Sequence[str] = ()
    ) -> None:
        """Make the simulations.

        Args:
            model: the model that they share.
            num_envs: N, how many there are.
            frame_skip: how many physics steps an environment step takes.
            derived: names of fields of ``mujoco.MjData`` to read besides ``xpos``.

        Raises:
            NoNativeBatchError: the installed mujoco is too old.
        """
        # Imported here, because families that do not need it also run on older versions of mujoco.
        try:
            from mujoco.batch import Batch
        except ImportError:
            raise NoNativeBatchError(
                "this family steps on MuJoCo's native batch, which mujoco "
                f"{mujoco.__version__} does not have: it takes mujoco 3.17 or newer, in an "
                "environment without Meta-World"
            ) from None

        self._batch = Batch(model, nsim=num_envs, nthread=1)
        self._frame_skip = frame_skip
        self._failed = np.zeros(num_envs, dtype=np.bool_)
        self.qpos: Floats = self._batch.bind("qpos")
        self.qvel: Floats = self._batch.bind("qvel")
        self.ctrl: Floats = self._batch.bind("ctrl")

        # A derived field is only filled by the next call, so bind it before the first one.
        self.xpos: Floats = self._batch.bind("xpos")
        self.sensordata: Floats = self._batch.bind("sensordata")
        self.derived: dict[str, Floats] = {name: self._batch.bind(name) for name in derived}

        # Sensors cost a second pass over the kinematics, which only a model that has them pays.
        stage = mujoco.mjtStage.mjSTAGE_VEL if model.nsensordata else mujoco.mjtStage.mjSTAGE_NONE
        self._stage: int = stage.value

    def reset(self, qpos: Floats, qvel: Floats, ids: Ids) -> None:
        """Put some simulations into a state, and leave every other one untouched.

        Their faults and warm starts are cleared.

        Args:
            qpos: ``[n, nq]``, their positions.
            qvel: ``[n, nv]``, their velocities.
            ids: ``[n]``, the simulations.
        """
        self._batch.reset(ids, stage=mujoco.mjtStage.mjSTAGE_NONE.value)
        self.qpos[ids] = qpos
        self.qvel[ids] = qvel
        self._failed[ids] = False
        with self._failures_recorded():
            self._batch.forward(ids)

    def step(self, running: Bools) -> None:
        """Advance some simulations by ``frame_skip`` physics steps under ``ctrl``.

        A simulation in which MuJoCo raises an error keeps its state; see :meth:`faults`.

        Args:
            running: ``[N]``, which of them to advance.
        """
        ids = None if running.all() else np.flatnonzero(running)
        with self._failures_recorded():
            self._batch.step(ids, nstep=self._frame_skip, stage=self._stage)

    def faults(self) -> Bools:
        """Which simulations MuJoCo warned about, or raised an error in, since their reset.

        On a NaN or a huge value, MuJoCo counts a warning, silently resets the simulation and goes
        on, so the counters are the only trace.

        Returns:
            ``[N]``.
        """
        warned: Bools = self._batch.warning[:, :, 1].any(axis=1)
        return warned | self._failed

    def model_field(self, name: str) -> Floats:
        """Give every simulation its own values of a model field.

        Write them, then call :meth:`apply_model_fields`: until then, the constants that MuJoCo
        derives from them silently stay those of the shared model.

        Args:
            name: the name of the field in ``mujoco.MjModel``, such as ``body_mass``.

        Returns:
            A live view of the values, ``[N, ...]``.
        """
        field: Floats = self._batch.expand(name)
        return field

    def apply_model_fields(self, ids: Ids) -> None:
        """Derive the constants that depend on the model fields of simulations ``ids`` ``[n]``."""
        self._batch.set_const(ids)

    @contextmanager
    def _failures_recorded(self) -> Iterator[None]:
        """Record the simulations in which MuJoCo raised an error; the others have completed."""
        from mujoco.batch import SimulationError

        try:
            yield
        except SimulationError as error:
            self._failed[error.ids] = True
