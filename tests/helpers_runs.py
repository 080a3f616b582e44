"""Small runs on a shared Ray, for the tests of what is distributed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from torch import Tensor

from warprl.agents.inner import AdaptationConfig
from warprl.agents.policy import PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.launch.training.algorithm import WarpGrad, WarpGradConfig, connect, iteration_metrics

CPUS = 4  # logical ones, for four workers on any machine


def _cpus() -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources["CPU"]


def start_ray() -> None:
    """Start Ray, or use the one that an earlier test module left if it is large enough."""
    if ray.is_initialized() and _cpus() < CPUS:
        ray.shutdown()
    connect(CPUS)


def small(family: str = "point-navigation-v1", workers: int = 0, tasks: int = 5) -> WarpGradConfig:
    """Two inner steps of a small warped policy, on few and short batches of episodes."""
    return (
        WarpGradConfig()
        .env_runners(num_env_runners=workers)
        .meta(
            family=family,
            policy=PolicyConfig(hidden=(8, 8), warp="residual"),
            adaptation=AdaptationConfig(steps=2, episodes=2),
            learner=PRESETS["warpgrad"].learner,
            tasks=tasks,
            seed=3,
        )
    )


@contextmanager
def running(config: WarpGradConfig) -> Iterator[WarpGrad]:
    """The algorithm of a configuration, stopped at the end."""
    start_ray()
    algorithm = config.build_algo()
    assert isinstance(algorithm, WarpGrad)
    try:
        yield algorithm
    finally:
        algorithm.stop()  # type: ignore[no-untyped-call]


def train(algorithm: WarpGrad) -> dict[str, Any]:
    """The metrics of one more iteration."""
    return iteration_metrics(algorithm.train())  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class History:
    """What must not depend on how a run was carried out."""

    metrics: list[dict[str, Any]]
    tensors: dict[str, bytes]
    scalars: dict[str, Any]


def history(algorithm: WarpGrad, iterations: int) -> History:
    """Train, and keep what is not about time, parameters as their bytes."""
    metrics = [_timeless(train(algorithm)) for _ in range(iterations)]
    state = algorithm.learner_state
    tensors = {name: _bytes(tensor) for name, tensor in state.to_tensors().items()}
    return History(metrics, tensors, state.to_scalars())


def _bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def _timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    about_time = {"wall_s", "steps_per_s", "physics_fraction", "workers_replaced"}
    return {
        name: value
        for name, value in metrics.items()
        if name not in about_time and not name.startswith("time.")
    }
