"""The presets learn to adapt. Minutes each, so only ``make slow-test`` runs them."""

from __future__ import annotations

import pytest
from helpers_runs import running

from warprl.agents.presets import PRESETS
from warprl.launch.runs.config import resolve


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("agent", "iterations", "least"), [("warpgrad", 30, -14.0), ("promp", 60, -18.0)]
)
def test_inner_steps_lead_to_the_goal_after_meta_training(
    agent: str, iterations: int, least: float
) -> None:
    """2.4 million steps; a straight walk to the goal returns about -2, a lost one about -40."""
    options = {"workers": 0, "tasks": 20, "seed": 1}
    config = resolve("point-navigation-v1", agent, options, ["adaptation.episodes=10"])
    with running(config) as run:
        rows = [run.train() for _ in range(iterations)][-5:]
    before = sum(row["return_step_0"] for row in rows) / len(rows)
    last = f"return_step_{PRESETS[agent].adaptation.steps}"
    after = sum(row[last] for row in rows) / len(rows)
    assert after > before + 15.0
    assert after > least
