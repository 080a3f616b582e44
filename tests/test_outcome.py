"""What a verb prints about a task."""

from __future__ import annotations

from warprl.launch.outcome import parameters


def test_a_tasks_numbers_fit_on_a_line_however_many_they_are() -> None:
    assert parameters({"direction": -1.0}) == "direction=-1"
    assert parameters({"x": 0.123456, "y": 2}) == "x=0.123 y=2"
    many = {"body_mass": (1.0,) * 8, "dof_damping": [1.0] * 9}
    assert parameters(many) == "body_mass[8] dof_damping[9]"
