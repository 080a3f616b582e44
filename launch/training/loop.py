"""A run as a loop over meta-iterations: its sampler, and the content of its checkpoints.

The loop samples in this process without Ray, or with Ray workers. The results have the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warprl import checkpoint
from warprl.agents.meta import Agent, Experiment, InProcess, Sampler, iterate
from warprl.envs import make_family
from warprl.launch.machine import available_threads, keep_freed_memory
from warprl.launch.runs import contents
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.metrics import Logged
from warprl.learner import Learner, LearnerState
from warprl.types import Params

COUNTERS = tuple(contents.Counters.model_fields)  # metrics that add up over a run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run has come: what has been learned, and the counters of the whole run."""

    learner: LearnerState
    counters: Mapping[str, float]

    @classmethod
    def begin(cls, experiment: Experiment, start: tuple[Params, Params] | None = None) -> Progress:
        """Before the first iteration: at (theta_0, phi), by default random ones."""
        if start is None:
            state = experiment.agent.init(experiment.seed)
        else:
            state = Learner(experiment.agent.learner).init(*start)
        return cls(state, dict.fromkeys(COUNTERS, 0))

    @classmethod
    def load(cls, saved: checkpoint.Checkpoint) -> Progress:
        """The progress in a checkpoint that :mod:`warprl.launch.runs.stored` has checked."""
        document = saved.document
        state = LearnerState.from_tensors(saved.tensors, document["learner"])
        return cls(state, dict(document["counters"]))

    def save(
        self, folder: Path, config: RunConfig, logged: Logged | None = None, durable: bool = True
    ) -> None:
        """Write ``folder/<iteration>``; see :func:`warprl.checkpoint.save`.

        ``logged`` is what metrics.jsonl holds by then; None if there is no such file.
        """
        learner = self.learner
        document = contents.write(config, learner.to_scalars(), self.counters, logged)
        checkpoint.save(
            folder,
            learner.iteration,
            learner.to_tensors(),
            document,
            config.output.keep if durable else 2,
            durable,
        )


def experiment_of(config: RunConfig) -> Experiment:
    """What a configuration trains, apart from how it is carried out."""
    agent = Agent(config.network, config.adaptation, config.learner)
    return Experiment(make_family(config.family), agent, config.tasks, config.seed)


@contextmanager
def sampling(
    config: RunConfig, experiment: Experiment, stopping: Callable[[], bool] = lambda: False
) -> Iterator[Sampler]:
    """The sampler of a run, with its workers running. Ray starts only if there are workers.

    If all workers are lost, they are not waited for once ``stopping`` says that the run is to end.
    """
    keep_freed_memory()
    compute = config.compute
    if not compute.workers:
        yield InProcess(experiment, available_threads(), compute.device)
        return

    from warprl.launch.training.ray_sampler import RaySampler

    sampler = RaySampler(experiment, config.family, compute, stopping)
    try:
        yield sampler
    finally:
        sampler.stop()


def iterations(
    experiment: Experiment, sampler: Sampler, progress: Progress, device: str = "cpu"
) -> Iterator[tuple[Progress, dict[str, Any]]]:
    """Iteration after iteration, without end: the progress after each, and its metrics.

    Args:
        experiment: what is learned.
        sampler: where adaptations run.
        progress: where to continue from.
        device: where the learner computes.

    Yields:
        The progress on the processor, and the metrics of the iteration, in which the counters are
        those of the whole run.
    """
    state, counters = progress.learner.to_device(device), dict(progress.counters)
    while True:
        state, metrics, diverged = iterate(experiment, sampler, state)
        if 0 < len(diverged) < experiment.tasks:
            log.warning("iteration %d: diverged tasks left out: %s", state.iteration, diverged)
        counters = {name: counters[name] + metrics[name] for name in COUNTERS}
        yield Progress(state.to_device("cpu"), counters), {**metrics, **counters}
