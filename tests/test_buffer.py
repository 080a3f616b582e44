"""The buffer of trajectory states: what is drawn, how often, and that it matches its source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import make_problem, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from warprl.buffer import TrajectoryBuffer
from warprl.types import Batch, Trajectory


def trajectory(tasks: int, steps: int, start: int = 0) -> Trajectory:
    """Numbers that say where they belong: theta is ``10 task + k`` and data is its negative."""
    task = torch.arange(start, start + tasks)
    place = 10.0 * task[:, None] + torch.arange(steps + 1)
    row = -place[..., None]
    return Trajectory(
        task=task,
        theta={"w": place},
        data=Batch(row[..., None], row[..., None], row, row, row),
        returns=place,
        finite=torch.ones(tasks, dtype=torch.bool),
    )


@settings(deadline=None)
@given(
    tasks=st.integers(1, 6),
    steps=st.integers(1, 4),
    parts=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_one_pass_draws_every_state_and_every_task_once(
    tasks: int, steps: int, parts: int, seed: int
) -> None:
    buffer = TrajectoryBuffer()
    buffer.add(trajectory(tasks, steps))
    assert (buffer.tasks, len(buffer)) == (tasks, tasks * steps)
    drawn = list(buffer.draw(np.random.default_rng(seed), parts))
    assert len(drawn) == parts
    states = np.concatenate([numbers for numbers, _ in drawn])
    rows = np.concatenate([rows for _, rows in drawn])
    assert sorted(states.tolist()) == list(range(tasks * steps))
    assert sorted(rows.tolist()) == list(range(tasks))
    sizes = [len(numbers) for numbers, _ in drawn]
    assert max(sizes) - min(sizes) <= 1


def test_passes_differ_and_equal_generators_draw_alike() -> None:
    buffer = TrajectoryBuffer()
    buffer.add(trajectory(6, 3))
    rng = np.random.default_rng(0)
    first, second = ([n.tolist() for n, _ in buffer.draw(rng, 3)] for _ in range(2))
    assert first != second
    assert [n.tolist() for n, _ in buffer.draw(np.random.default_rng(0), 3)] == first


def test_a_state_is_theta_k_with_the_data_of_k_and_of_its_successor() -> None:
    buffer = TrajectoryBuffer()
    buffer.add(trajectory(3, 2))
    states = buffer.states(np.arange(6))
    assert states.task.tolist() == [0, 0, 1, 1, 2, 2]
    assert states.step.tolist() == [0, 1, 0, 1, 0, 1]
    assert states.theta["w"].tolist() == [0, 1, 10, 11, 20, 21]
    assert states.start["w"].tolist() == [0, 0, 10, 10, 20, 20]
    for x in states.support:
        assert x.flatten().tolist() == [0, -1, -10, -11, -20, -21]
    for x in states.query:
        assert x.flatten().tolist() == [-1, -2, -11, -12, -21, -22]


def test_states_of_a_real_trajectory_are_those_gathered_by_hand() -> None:
    p = make_problem("linear", 3)
    buffer = TrajectoryBuffer()
    buffer.add(p.trajectory)
    found, expected = buffer.states(np.arange(len(buffer))), p.states()
    assert torch.equal(found.task, expected.task) and torch.equal(found.step, expected.step)
    assert same_bits(found.theta, expected.theta)
    assert same_bits(found.start, expected.start)
    assert same_bits(found.support._asdict(), expected.support._asdict())
    assert same_bits(found.query._asdict(), expected.query._asdict())


def test_diverged_tasks_are_left_out_and_the_others_keep_their_names() -> None:
    buffer = TrajectoryBuffer()
    buffer.add(trajectory(3, 2)._replace(finite=torch.tensor([True, False, True])))
    assert (buffer.tasks, len(buffer)) == (2, 4)
    assert buffer.states(np.arange(4)).task.tolist() == [0, 0, 2, 2]
    assert buffer.trajectories(np.array([1])).theta["w"].tolist() == [[20, 21, 22]]


def test_shards_add_up_to_the_whole() -> None:
    parts, whole = TrajectoryBuffer(), TrajectoryBuffer()
    parts.add(trajectory(2, 2))
    parts.add(trajectory(3, 2, start=2))
    whole.add(trajectory(5, 2))
    found, expected = (b.trajectories(np.arange(5)) for b in (parts, whole))
    assert torch.equal(found.task, expected.task)
    assert torch.equal(found.theta["w"], expected.theta["w"])
    assert same_bits(found.data._asdict(), expected.data._asdict())


def test_trajectories_of_another_length_are_refused() -> None:
    buffer = TrajectoryBuffer()
    buffer.add(trajectory(2, 2))
    with pytest.raises(ValueError, match="trajectories of 2 inner steps, got 3"):
        buffer.add(trajectory(2, 3))


def test_clearing_forgets_everything() -> None:
    buffer = TrajectoryBuffer()
    buffer.add(trajectory(2, 2))
    buffer.clear()
    assert (buffer.tasks, len(buffer)) == (0, 0)
    with pytest.raises(ValueError, match="empty"):
        buffer.states(np.arange(1))
    buffer.add(trajectory(1, 3))  # what was held before does not bind what comes after
    assert len(buffer) == 3
