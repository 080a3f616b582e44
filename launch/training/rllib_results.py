"""The result of a meta-iteration under the names that RLlib and Tune know; see docs/rllib.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = "meta"  # the key of our own metrics


def result(
    metrics: Mapping[str, Any], before: Mapping[str, float], inner_steps: int
) -> dict[str, Any]:
    """What RLlib and Tune read of an iteration, from our metrics and the counters before it."""
    sampled = metrics["env_steps"]
    wall = metrics["wall_s"] - before["wall_s"]
    update = metrics["time.gradient"] + metrics["time.learner"]
    return {
        METRICS: metrics,
        "num_env_steps_sampled_lifetime": sampled,
        "env_runners": {
            "episode_return_mean": metrics[f"return_step_{inner_steps}"],
            "num_env_steps_sampled": sampled - before["env_steps"],
            "num_env_steps_sampled_lifetime": sampled,
        },
        "timers": {
            "training_step": wall,
            "env_runner_sampling_timer": wall - update,
            "learner_update_timer": update,
        },
        "fault_tolerance": {"num_remote_worker_restarts": metrics["workers_replaced"]},
    }


def iteration_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """Our metrics of one iteration, from RLlib's result."""
    metrics: dict[str, Any] = result[METRICS]
    return metrics
