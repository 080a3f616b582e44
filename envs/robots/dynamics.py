"""Tasks that change the robot itself: its masses, inertias, frictions and damping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from warprl.envs.physics import Physics, load_model
from warprl.envs.robots.locomotion import LocomotionFamily, Motion, control_cost
from warprl.envs.robots.markers import add_bars, mark
from warprl.envs.tasks import TaskDistribution, is_finite_number
from warprl.types import Floats, Ids, Task

_BASES = {"body_mass": 1.5, "body_inertia": 1.5, "geom_friction": 1.5, "dof_damping": 1.3}
_LIMIT = 3.0
_CONTROL_COST = 1e-3


@dataclass(frozen=True)
class Dynamics(Task):
    """Multipliers of the model's fields of the same names, entry by entry and row by row.

    The world and the root's joints have entries too; where the model has 0, it stays 0.
    """

    body_mass: tuple[float, ...]  # [nbody]
    body_inertia: tuple[float, ...]  # [nbody * 3]
    geom_friction: tuple[float, ...]  # [ngeom * 3]
    dof_damping: tuple[float, ...]  # [nv]


@dataclass(frozen=True)
class RandomDynamics(TaskDistribution[Dynamics]):
    """Every multiplier is ``base ** u`` with its own ``u``, uniform on [-3, 3].

    The base is 1.3 for the damping and 1.5 for the rest, as in rand_param_envs (dennisl88), which
    ProMP, PEARL and VariBAD use. The counts are those of the robot's model, world included.
    """

    bodies: int
    geoms: int
    dofs: int
    task_type = Dynamics

    @property
    def lengths(self) -> dict[str, int]:
        """How many multipliers each field has."""
        sizes = (self.bodies, 3 * self.bodies, 3 * self.geoms, self.dofs)
        return dict(zip(_BASES, sizes, strict=True))

    @property
    def size(self) -> int:
        """How many numbers a task has."""
        return sum(self.lengths.values())

    @property
    def text(self) -> str:
        """What the definition card says about the tasks."""
        return (
            "each entry of body_mass, body_inertia and geom_friction * 1.5^u, of dof_damping * "
            f"1.3^u, u ~ U[-{_LIMIT:g}, {_LIMIT:g}] ({self.size} multipliers)"
        )

    def sample(self, rng: np.random.Generator, n: int) -> list[Dynamics]:
        """Draw sets of multipliers; see the base class."""
        tasks: list[Dynamics] = []
        for _ in range(n):
            # Python's power, not NumPy's: that may depend on where in an array a number stands.
            drawn = {
                name: tuple(_BASES[name] ** u for u in rng.uniform(-_LIMIT, _LIMIT, count).tolist())
                for name, count in self.lengths.items()
            }
            tasks.append(Dynamics(**drawn))
        return tasks

    def parse_field(self, name: str, value: Any) -> tuple[float, ...]:
        """Read the multipliers of one field from a list of them; see the base class."""
        count = self.lengths[name]
        if not isinstance(value, list | tuple):
            wrong = repr(value)
        elif len(value) != count:
            wrong = f"{len(value)} entries"
        else:
            wrong = next((f"one that is {x!r}" for x in value if not is_finite_number(x)), "")
        if wrong:
            raise ValueError(
                f"task field {name!r} must be a list of {count} finite numbers, got {wrong}"
            )
        return tuple(float(number) for number in value)

    def check(self, task: Dynamics) -> None:
        """Raise ValueError if a multiplier is outside its range."""
        for name, base in _BASES.items():
            low, high = base**-_LIMIT, base**_LIMIT
            for number in getattr(task, name):
                if not low * (1 - 1e-12) <= number <= high * (1 + 1e-12):  # a limit, rounded
                    raise ValueError(
                        f"task field {name!r} must hold multipliers between {low:.3g} and"
                        f" {high:.4g}, got {number:g}"
                    )


def multiply_model(
    physics: Physics, nominal: mujoco.MjModel, multipliers: Floats, ids: Ids
) -> None:
    """Multiply the fields of a model, in some simulations.

    The products are of the nominal model, whatever a simulation had before, and the constants that
    MuJoCo derives from the fields follow.

    Args:
        physics: the simulations.
        nominal: the model that they share.
        multipliers: ``[n, D]``, where D runs over the fields of :class:`Dynamics`.
        ids: ``[n]``, the simulations that are changed.
    """
    start = 0
    for name in _BASES:
        field = getattr(nominal, name)
        factors = multipliers[:, start : start + field.size]
        physics.model_field(name)[ids] = field * factors.reshape(-1, *field.shape)
        start += field.size
    physics.apply_model_fields(ids)


class RandParams(LocomotionFamily):
    """Move forward with another body: what the families of such tasks share.

    The reward is the same in every task.
    """

    reward_text = (
        "v_x + 1 - 0.001 * sum(u^2), v_x = (x_after - x_before) / dt of the root joint; the 1 is "
        "paid in the step that falls, too (Gymnasium v5: not)"
    )

    def change_model(self, physics: Physics, target: Floats, ids: Ids) -> None:
        """Multiply the fields of the model by the tasks' numbers; see the base class."""
        multiply_model(physics, load_model(self.model_file), target, ids)

    def reward(self, motion: Motion, target: Floats) -> Floats:
        """Rewards ``[N]``, as ``reward_text`` says; see the base class."""
        return motion.velocity[:, 0] + 1.0 - control_cost(motion.control, _CONTROL_COST)


@mark.register
def _mark_dynamics(task: Dynamics, spec: mujoco.MjSpec, times: Sequence[float]) -> None:
    """A bar for each body, as high as its mass is multiplied."""
    add_bars(spec, task.body_mass[1:])
