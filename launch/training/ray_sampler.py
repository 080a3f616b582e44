"""A sampler on Ray: its meta-batches are spread over workers, and their trajectories stay there.

What travels in an iteration are tasks and parameters to the workers, returns and sums of gradients
from them. The sums have the same bits however the tasks are spread (:mod:`warprl.tree`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError
from ray.util import get_current_placement_group
from torch import Tensor

from warprl import params as P
from warprl import tree
from warprl.agents.meta import Agent, Experiment, Sampled, shards_of
from warprl.agents.timing import mean_timing
from warprl.launch.cluster.connection import connect
from warprl.launch.errors import RunFailedError
from warprl.launch.runs.config import Compute
from warprl.launch.search_path import own_folders
from warprl.launch.training.crew import Crew, Piece
from warprl.launch.training.workers import (
    Arrays,
    AskCurvature,
    AskFacts,
    AskGradient,
    Facts,
    Question,
    Start,
    Worker,
    read_sums,
    to_arrays,
    to_tensor,
)
from warprl.meta_batch import Group
from warprl.sums import GradientSums, joined
from warprl.trajectories import Selection
from warprl.types import Params, Task

Value = TypeVar("Value")


class RaySampler:
    """A sampler on Ray: one worker a core, here or on any node of a cluster."""

    def __init__(
        self,
        experiment: Experiment,
        family: str,
        compute: Compute,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the workers, in the Ray of this process, which starts if it has not yet.

        If all workers are lost, they are not waited for once ``stopping`` is true.
        """
        connect(compute.workers)
        self._experiment, self._device = experiment, compute.device
        self._drawn = 0  # meta-batches
        limits = compute.worker_timeout_s, compute.restart_timeout_s, compute.max_losses
        self.crew = Crew([], *limits, stopping)
        try:
            for _ in range(compute.workers):
                self.crew.actors.append(_start_worker(family, experiment.agent, compute))
            ready = [actor.__ray_ready__.remote() for actor in self.crew.actors]
            ray.get(ready, timeout=compute.restart_timeout_s)
        except GetTimeoutError:
            self.stop()
            raise RunFailedError(
                f"the workers did not start within {compute.restart_timeout_s:g} s: free CPUs, or "
                "set a larger compute.restart_timeout_s"
            ) from None
        except BaseException:
            self.stop()  # otherwise the workers that did start would keep their cores
            raise

    def sample(self, theta: Params, phi: Params, tasks: Sequence[Task], iteration: int) -> Sampled:
        """See :class:`warprl.agents.meta.Sampler`."""
        self._drawn += 1
        parameters = ray.put(_arrays(theta, phi))
        start = Start(self._drawn, len(tasks), parameters)

        # Whoever lives gets a shard.
        living = self.crew.at_least_one()
        number = min(len(living), len(tasks))
        shards = shards_of(tasks, number, self._experiment.seed, iteration)
        pieces = [Piece(shard, worker) for shard, worker in zip(shards, living, strict=False)]
        before = self.crew.cost
        pieces, answers = self.crew.ask(pieces, start, AskFacts())
        batch = Spread(self.crew, start, pieces, [answer.content for answer in answers])
        timing = mean_timing(answer.sampling for answer in answers)
        return Sampled(batch, timing, lambda: self.crew.cost - before)

    def stop(self) -> None:
        """End the workers, unless Ray has ended with all of them."""
        self.crew.stop()


class Spread:
    """A meta-batch whose trajectories lie with workers; see :class:`warprl.meta_batch.MetaBatch`.

    A worker that is lost takes its trajectories along; others make them again when they are asked.
    """

    def __init__(
        self, crew: Crew, start: Start, pieces: Sequence[Piece], facts: Sequence[Facts]
    ) -> None:
        """The shards, each with who has it and what it told of itself."""
        self._crew, self._start, self._pieces = crew, start, pieces
        self.task = torch.arange(start.tasks)
        self.returns = torch.from_numpy(np.concatenate([part.returns for part in facts]))
        self.finite = torch.from_numpy(np.concatenate([part.finite for part in facts]))
        self.steps = facts[0].steps

    def gradient(
        self, theta: Params, phi: Params, which: Selection, kl_coefficient: float
    ) -> GradientSums:
        """See :meth:`warprl.meta_batch.MetaBatch.gradient`."""
        question = AskGradient(_arrays(theta, phi), kl_coefficient, which)
        device = next(iter(theta.values())).device
        found = self._total(question, lambda sums: read_sums(sums, device), joined)
        return found or GradientSums()

    def curvature(
        self, theta: Params, phi: Params, group: Group, which: Selection
    ) -> Callable[[Tensor], Tensor]:
        """See :meth:`warprl.meta_batch.MetaBatch.curvature`."""
        number = len(which.states if group == "phi" else which.tasks)
        parameters = _arrays(theta, phi)

        def product(vector: Tensor) -> Tensor:
            question = AskCurvature(parameters, group, which, vector.cpu().numpy())
            found = self._total(question, lambda x: to_tensor(x, vector.device), torch.add)
            assert found is not None, "there is no curvature of nothing"
            return found / number

        return product

    def _total(
        self,
        question: Question,
        read: Callable[[Any], Value],
        join: Callable[[Value, Value], Value],
    ) -> Value | None:
        """The sum over all tasks, in the order of the tree."""
        self._pieces, answers = self._crew.ask(self._pieces, self._start, question)
        found = {span: read(part) for answer in answers for span, part in answer.content.items()}
        return tree.total((0, self._start.tasks), found, join)


def _start_worker(family: str, agent: Agent, compute: Compute) -> Any:
    """The handle of a worker, which Ray restarts wherever there is a core for it."""
    options: dict[str, Any] = {"num_cpus": 1, "max_restarts": -1}
    if get_current_placement_group() is None:  # inside of one, such as Tune's, it says where
        options["scheduling_strategy"] = "SPREAD"
    if compute.device.startswith("cuda"):
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        options["num_gpus"] = min(1.0, resources.get("GPU", 0.0) / compute.workers)
    remote: Any = ray.remote(**options)(Worker)
    return remote.remote(family, agent, compute.device, own_folders())


def _arrays(theta: Params, phi: Params) -> Arrays:
    return to_arrays(P.prefix("theta", theta) | P.prefix("phi", phi))
