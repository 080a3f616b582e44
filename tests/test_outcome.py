"""What a verb prints: tasks and durations."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from warprl.envs import make_family
from warprl.launch.outcome import duration, parameters


def test_a_tasks_numbers_fit_on_a_line_however_many_they_are() -> None:
    assert parameters({"direction": -1.0}) == "direction=-1"
    assert parameters({"x": 0.123456, "y": 2}) == "x=0.123 y=2"
    many = {"body_mass": (0.5, 1.0) * 4, "dof_damping": [1.0] * 9}
    assert parameters(many) == "body_mass~0.75 dof_damping~1"


@pytest.mark.parametrize("family", ["hopper-rand-params-v1", "walker2d-rand-params-v1"])
def test_tasks_of_many_numbers_can_be_told_apart(family: str) -> None:
    tasks = make_family(family).held_out_tasks()
    labels = {parameters(asdict(task)) for task in tasks}
    assert len(labels) == len(tasks)
    assert max(map(len, labels)) < 80


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3723, "1:02:03")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text
