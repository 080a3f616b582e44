"""Where the time of an iteration goes: the parts add up to the whole."""

from __future__ import annotations

import pytest
from helpers_runs import running, small

from warprl.agents.timing import Cost, Spent, Timing, mean_timing, waiting


def test_the_seconds_by_purpose_are_those_of_sampling_and_update() -> None:
    costs = [Cost(waiting=1.0, transfer=0.5), Cost(waiting=1.75, transfer=1.5, lost=1)]
    spent = Spent.of(
        sampling=10.0, update=6.0, adapting=Timing(4.0, 2.0, 1.0), answers=5.0, costs=costs
    )
    assert (spent.physics, spent.policy, spent.inner) == (4.0, 2.0, 1.0)
    assert spent.gradient == 5.0 - 0.75 - 1.0
    assert spent.waiting == 1.75
    assert spent.transfer == (10.0 - 7.0 - 1.0) + 1.0
    assert spent.learner == 6.0 - 5.0
    assert spent.whole == 16.0


def test_workers_wait_for_the_slowest() -> None:
    assert waiting([1.0, 2.0, 6.0]) == 3.0
    assert waiting([2.0]) == 0.0
    assert mean_timing([Timing(1.0, 2.0, 3.0), Timing(3.0, 2.0, 1.0)]) == Timing(2.0, 2.0, 2.0)


@pytest.mark.ray
def test_the_seconds_of_workers_add_up_to_the_whole_iteration() -> None:
    with running(small(workers=2)) as run:
        first, second = run.train(), run.train()
    seconds = {name: value for name, value in second.items() if name.startswith("time.")}
    assert sum(seconds.values()) == pytest.approx(second["wall_s"] - first["wall_s"])
    assert all(value >= 0.0 for value in seconds.values()), seconds
    assert seconds["time.gradient"] > 0.0 and seconds["time.learner"] > 0.0
