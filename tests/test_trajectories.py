"""What is drawn from trajectories: which states, how often, and that they match their source."""

from __future__ import annotations

import numpy as np
import torch
from helpers import make_problem, same_bits
from hypothesis import given
from hypothesis import strategies as st

from warprl import trajectories
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


@given(
    tasks=st.integers(1, 6),
    steps=st.integers(1, 4),
    parts=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_one_pass_draws_every_state_and_every_task_once(
    tasks: int, steps: int, parts: int, seed: int
) -> None:
    every = trajectories.of_tasks(range(tasks), steps)
    drawn = list(trajectories.draw(np.random.default_rng(seed), every, parts))
    assert len(drawn) == parts
    states = np.concatenate([part.states for part in drawn])
    drawn_tasks = np.concatenate([part.tasks for part in drawn])
    assert sorted(states.tolist()) == list(range(tasks * steps))
    assert sorted(drawn_tasks.tolist()) == list(range(tasks))
    sizes = [len(part.states) for part in drawn]
    assert max(sizes) - min(sizes) <= 1


def test_passes_differ_and_equal_generators_draw_alike() -> None:
    rng, every = np.random.default_rng(0), trajectories.of_tasks(range(6), 3)
    first, second = (
        [part.states.tolist() for part in trajectories.draw(rng, every, 3)] for _ in range(2)
    )
    assert first != second
    again = trajectories.draw(np.random.default_rng(0), every, 3)
    assert [part.states.tolist() for part in again] == first


def test_states_are_numbered_by_the_positions_of_their_tasks() -> None:
    found = trajectories.of_tasks([0, 2], 2)
    assert found.tasks.tolist() == [0, 2]
    assert found.states.tolist() == [0, 1, 4, 5]


def test_a_state_is_theta_k_with_the_data_of_k_and_of_its_successor() -> None:
    states = trajectories.states(trajectory(3, 2), np.arange(6))
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
    expected = p.states()
    found = trajectories.states(p.trajectory, np.arange(len(expected.task)))
    assert torch.equal(found.task, expected.task) and torch.equal(found.step, expected.step)
    assert same_bits(found.theta, expected.theta)
    assert same_bits(found.start, expected.start)
    assert same_bits(found.support._asdict(), expected.support._asdict())
    assert same_bits(found.query._asdict(), expected.query._asdict())


def test_selected_tasks_keep_their_names() -> None:
    kept = trajectories.select(trajectory(3, 2), np.array([0, 2]))
    assert kept.task.tolist() == [0, 2]
    assert kept.theta["w"].tolist() == [[0, 1, 2], [20, 21, 22]]


def test_shards_add_up_to_the_whole() -> None:
    found = trajectories.concatenate([trajectory(2, 2), trajectory(3, 2, start=2)])
    expected = trajectory(5, 2)
    assert torch.equal(found.task, expected.task)
    assert torch.equal(found.theta["w"], expected.theta["w"])
    assert same_bits(found.data._asdict(), expected.data._asdict())
