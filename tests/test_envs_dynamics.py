"""A task that changes the model is exactly another model, whatever came before it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from warprl.envs import make_family
from warprl.envs.physics import load_model
from warprl.envs.robots.dynamics import Dynamics
from warprl.envs.robots.locomotion import LocomotionBatch
from warprl.seeding import generator
from warprl.types import Task

NAMES = ["walker2d-rand-params-v1", "hopper-rand-params-v1"]
FIELDS = ["body_mass", "body_inertia", "geom_friction", "dof_damping"]
DERIVED = ["body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"]


def make_batch(name: str, num_envs: int) -> LocomotionBatch:
    batch = make_family(name).make_batch(num_envs)
    assert isinstance(batch, LocomotionBatch)
    return batch


def held_out(name: str) -> list[Dynamics]:
    tasks = make_family(name).held_out_tasks()
    return [task for task in tasks if isinstance(task, Dynamics)]


def edited(file: str, task: Dynamics) -> mujoco.MjModel:
    """The model of a task, by MuJoCo's own means."""
    model = copy.deepcopy(load_model(file))
    model.body_mass[:] *= task.body_mass
    model.body_inertia[:] *= np.reshape(task.body_inertia, (-1, 3))
    model.geom_friction[:] *= np.reshape(task.geom_friction, (-1, 3))
    model.dof_damping[:] *= task.dof_damping
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def simulate(
    model: mujoco.MjModel, state: Any, control: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """qpos and qvel after environment steps of four, by a plain loop over one MjData."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = state
    mujoco.mj_forward(model, data)
    for u in control:
        data.ctrl[:] = u
        mujoco.mj_step(model, data, nstep=4)
    return data.qpos.copy(), data.qvel.copy()


def run(batch: LocomotionBatch, control: NDArray[np.float64]) -> NDArray[np.float64]:
    """All states ``[steps, N, nq + nv]`` under commands ``[steps, nu]`` for every simulation."""
    states = []
    for u in control:
        action = np.tile(u * batch.family.action_scale, (batch.num_envs, 1))
        batch.step(action.astype(np.float32))
        states.append(np.concatenate((batch.physics.qpos, batch.physics.qvel), axis=1))
    return np.array(states)


def commands(batch: LocomotionBatch, steps: int) -> NDArray[np.float64]:
    """Random ones of few bits, which survive the scaling of actions."""
    drawn = np.random.default_rng(5).integers(-8, 9, (steps, *batch.family.action_space.shape))
    return drawn / 8.0


@pytest.mark.parametrize("name", NAMES)
def test_a_simulation_equals_the_separately_edited_model_of_its_task(name: str) -> None:
    tasks = held_out(name)[:4]
    batch = make_batch(name, 8)
    batch.reset(tasks, [np.random.default_rng(i) for i in range(4)])
    starts = [(batch.physics.qpos[i].copy(), batch.physics.qvel[i].copy()) for i in range(8)]
    control = commands(batch, 150)
    run(batch, control)
    ends = []
    for i, start in enumerate(starts):
        qpos, qvel = simulate(edited(batch.family.model_file, tasks[i // 2]), start, control)
        assert np.array_equal(batch.physics.qpos[i], qpos)
        assert np.array_equal(batch.physics.qvel[i], qvel)
        ends.append(qpos)
    other, _ = simulate(edited(batch.family.model_file, tasks[1]), starts[0], control)
    assert not np.array_equal(ends[0], other), "the task matters"


@pytest.mark.parametrize("name", NAMES)
def test_derived_constants_are_those_of_the_edited_model(name: str) -> None:
    tasks = held_out(name)[:3]
    batch = make_batch(name, 3)
    batch.reset(tasks, [np.random.default_rng(i) for i in range(3)])
    for i, task in enumerate(tasks):
        model = edited(batch.family.model_file, task)
        for field in (*FIELDS, *DERIVED):
            found = batch.physics.model_field(field)[i]
            assert np.array_equal(found, getattr(model, field)), field


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_task_reaches_the_motion(name: str, field: str) -> None:
    task = held_out(name)[0]
    ones = {key: (1.0,) * len(getattr(task, key)) for key in FIELDS}
    nominal = replace(task, **ones)
    ends = []
    for this in (nominal, replace(nominal, **{field: getattr(task, field)})):
        batch = make_batch(name, 1)
        batch.reset([this], [np.random.default_rng(0)])
        ends.append(run(batch, commands(batch, 150))[-1])
    assert not np.array_equal(ends[0], ends[1])


@pytest.mark.parametrize("name", NAMES)
def test_setting_a_task_again_or_after_another_does_not_compound(name: str) -> None:
    first, second = held_out(name)[:2]
    batch, fresh = make_batch(name, 2), make_batch(name, 2)

    def motion(batch: LocomotionBatch, task: Task) -> NDArray[np.float64]:
        batch.reset([task], [np.random.default_rng(3)])
        return run(batch, commands(batch, 60))

    once = motion(batch, first)
    assert np.array_equal(motion(batch, first), once)
    assert not np.array_equal(motion(batch, second), once)
    assert np.array_equal(motion(batch, first), once)
    assert np.array_equal(motion(fresh, first), once)


@pytest.mark.parametrize("name", NAMES)
def test_the_shared_model_stays_nominal(name: str) -> None:
    file = make_batch(name, 1).family.model_file
    before = {field: getattr(load_model(file), field).copy() for field in (*FIELDS, *DERIVED)}
    batch = make_batch(name, 2)
    batch.reset(held_out(name)[:1], [np.random.default_rng(0)])
    batch.restart(np.array([1]), held_out(name)[1:2], [np.random.default_rng(1)])
    for field, values in before.items():
        assert np.array_equal(getattr(load_model(file), field), values), field


@pytest.mark.parametrize("name", NAMES)
def test_a_restart_changes_the_model_of_no_other_simulation(name: str) -> None:
    first, second = held_out(name)[:2]
    batch, undisturbed = make_batch(name, 3), make_batch(name, 3)
    for each in (batch, undisturbed):
        each.reset([first], [np.random.default_rng(0)])
        run(each, commands(each, 20))
    fields = {field: batch.physics.model_field(field) for field in (*FIELDS, *DERIVED)}
    before = {field: values.copy() for field, values in fields.items()}
    batch.restart(np.array([1]), [second], [np.random.default_rng(1)])
    for field, values in fields.items():
        assert np.array_equal(values[[0, 2]], before[field][[0, 2]]), field
        assert not np.array_equal(values[1], before[field][1]), field
    control = commands(batch, 40)
    assert np.array_equal(run(batch, control)[:, [0, 2]], run(undisturbed, control)[:, [0, 2]])


@pytest.mark.parametrize("name", NAMES)
def test_multipliers_have_their_stated_distribution(name: str) -> None:
    tasks = make_family(name).sample_tasks(generator(1, "tasks"), 500)
    file = make_batch(name, 1).family.model_file
    for field, base in zip(FIELDS, (1.5, 1.5, 1.5, 1.3), strict=True):
        multipliers = np.array([getattr(task, field) for task in tasks])
        assert multipliers.shape[1] == getattr(load_model(file), field).size
        exponents = np.log(multipliers) / np.log(base)
        # Uniform on [-3, 3]: mean 0, variance 36 / 12; no entry follows another.
        assert np.abs(exponents).max() <= 3.0 + 1e-9
        assert exponents.max() > 2.95 and exponents.min() < -2.95
        assert exponents.mean() == pytest.approx(0.0, abs=0.15)
        assert exponents.var() == pytest.approx(3.0, rel=0.05)
        correlation = np.corrcoef(exponents.T) - np.eye(exponents.shape[1])
        assert np.abs(correlation).max() < 0.25


@pytest.mark.parametrize("name", NAMES)
def test_no_drawn_body_upsets_the_physics(name: str) -> None:
    tasks = make_family(name).sample_tasks(generator(2, "tasks"), 200)
    batch = make_batch(name, 200)
    batch.reset(tasks, [np.random.default_rng(i) for i in range(200)])
    run(batch, commands(batch, 50))
    assert not batch.faults().any()
