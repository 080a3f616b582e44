"""The presets learn to adapt. Minutes each, so only ``make slow-test`` runs them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers_runs import running, train

from warprl.agents.presets import PRESETS
from warprl.launch.training.algorithm import WarpGradConfig


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("agent", "iterations", "least"), [("warpgrad", 30, -14.0), ("promp", 60, -18.0)]
)
def test_inner_steps_lead_to_the_goal_after_meta_training(
    agent: str, iterations: int, least: float
) -> None:
    """2.4 million steps; a straight walk to the goal returns about -2, a lost one about -40."""
    preset = PRESETS[agent]
    config = WarpGradConfig().meta(
        family="point-navigation-v1",
        policy=preset.policy,
        adaptation=replace(preset.adaptation, episodes=10),
        learner=preset.learner,
        tasks=20,
        seed=1,
    )
    with running(config) as algorithm:
        rows = [train(algorithm) for _ in range(iterations)][-5:]
    before = sum(row["return_step_0"] for row in rows) / len(rows)
    after = sum(row[f"return_step_{preset.adaptation.steps}"] for row in rows) / len(rows)
    assert after > before + 15.0
    assert after > least
