"""Small runs through the training loop, in this process or on a shared Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from warprl.agents.meta import Experiment, Sampler
from warprl.launch.runs.config import RunConfig, resolve
from warprl.launch.training.loop import Progress, experiment_of, iterations, sampling
from warprl.types import Params

CPUS = 4  # logical ones, for four workers on any machine

# Two inner steps of a small warped policy, on few and short batches of episodes.
SMALL = (
    "policy.hidden=[8,8]",
    "policy.warp=residual",
    "adaptation.steps=2",
    "adaptation.episodes=2",
)


def start_ray() -> None:
    """Start Ray, or use the one that an earlier test module left if it is large enough."""
    import ray

    from warprl.launch.cluster.connection import connect

    if ray.is_initialized() and ray.cluster_resources()["CPU"] < CPUS:  # type: ignore[no-untyped-call]
        ray.shutdown()
    connect(CPUS)


def small(
    family: str = "point-navigation-v1",
    *settings: str,
    workers: int = 0,
    tasks: int = 5,
    seed: int = 3,
) -> RunConfig:
    """A run of warpgrad that takes a moment."""
    options = {"workers": workers, "tasks": tasks, "seed": seed}
    return resolve(family, "warpgrad", options, [*SMALL, *settings])


class Run:
    """A run between two iterations."""

    def __init__(self, experiment: Experiment, sampler: Sampler, progress: Progress) -> None:
        self.experiment, self.sampler, self.progress = experiment, sampler, progress

    def train(self) -> dict[str, Any]:
        """The metrics of one more iteration."""
        self.progress, metrics = next(iterations(self.experiment, self.sampler, self.progress))
        return metrics

    def history(self, number: int) -> History:
        """Train, and keep what is not about time."""
        metrics = [timeless(self.train()) for _ in range(number)]
        learned = self.progress.learner
        return History(metrics, as_bytes(learned.to_tensors()), learned.to_scalars())


@contextmanager
def running(
    config: RunConfig, progress: Progress | None = None, sampler: Sampler | None = None
) -> Iterator[Run]:
    """A run from its beginning or from given progress, on its own sampler or another one."""
    experiment = experiment_of(config)
    progress = progress or Progress.begin(experiment)
    if sampler is not None:
        yield Run(experiment, sampler, progress)
        return
    if config.compute.workers:
        start_ray()
    with sampling(config, experiment) as own:
        yield Run(experiment, own, progress)


@dataclass(frozen=True)
class History:
    """What must not depend on how a run was carried out; parameters as their bytes."""

    metrics: list[dict[str, Any]]
    tensors: dict[str, bytes]
    scalars: dict[str, Any]


def as_bytes(tensors: Params) -> dict[str, bytes]:
    """Tensors in a form in which -0 is not 0, and NaN is NaN."""
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def timeless(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics that are not about time."""
    about_time = {"wall_s", "steps_per_s", "physics_fraction", "workers_replaced"}
    return {
        name: value
        for name, value in metrics.items()
        if name not in about_time and not name.startswith("time.")
    }
