"""Ray workers that adapt shards of the meta-batch, and how lost workers are replaced.

Each worker gets one request in a meta-iteration: tasks and parameters go in, the adaptation
trajectories come out. Between requests a worker keeps nothing but compiled physics, so a request
may be repeated on any worker, and the result has the same bits.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError

from warprl import params as P
from warprl.agents.inner import Shard, adapt
from warprl.agents.meta import Agent, Experiment, Sampled, mean_timing, shards_of
from warprl.agents.rollout import Timing
from warprl.envs import make_family
from warprl.launch.cluster.connection import connect, require_family
from warprl.launch.errors import RunFailedError
from warprl.launch.machine import available_cores, keep_freed_memory
from warprl.types import Batch, BatchEnv, Params, Task, Trajectory

if TYPE_CHECKING:
    from ray.actor import ActorHandle

ATTEMPTS = 4  # if a shard's worker is lost so often, the shard is the likely cause

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


class Answer(NamedTuple):
    """The trajectories of a shard as a worker sends them, and the seconds they took."""

    arrays: Arrays
    timing: Timing

    @property
    def trajectory(self) -> Trajectory:
        """The trajectories, as views of the arrays."""
        named = to_tensors(self.arrays)
        return Trajectory(
            task=named["task"],
            theta=P.subtree("theta", named),
            data=Batch(**P.subtree("data", named)),
            returns=named["returns"],
            finite=named["finite"],
        )


class Worker:
    """Adapts an agent to the tasks of one family, on one thread; an actor of Ray."""

    def __init__(self, family: str, agent: Agent) -> None:
        """``family`` is a name, because physics cannot be sent to another process."""
        torch.set_num_threads(1)
        keep_freed_memory()
        self._family, self._agent = make_family(family), agent
        self._batch: BatchEnv | None = None

    def sample(self, parameters: Arrays, shard: Shard) -> Answer:
        """Adapt to the tasks of a shard, from ``theta.*`` and ``phi.*`` of ``parameters``."""
        named, agent = to_tensors(parameters), self._agent
        env = self._simulations(len(shard.tasks) * agent.adaptation.episodes)
        theta, phi = (P.subtree(group, named) for group in ("theta", "phi"))
        trajectory, timing = adapt(env, agent.policy, theta, phi, shard, agent.adaptation)
        return Answer(_pack(trajectory), timing)

    def _simulations(self, number: int) -> BatchEnv:
        if self._batch is None or self._batch.num_envs != number:
            self._batch = self._family.make_batch(number)
        return self._batch


class RaySampler:
    """A sampler on Ray: one worker a core, here or on any node of a cluster.

    A worker that is lost, or that gives no answer for ``timeout_s`` seconds, is replaced, and its
    shard computed again.
    """

    def __init__(
        self,
        experiment: Experiment,
        family: str,
        workers: int,
        timeout_s: float,
        device: str = "cpu",
    ) -> None:
        """Start the workers. Raises UserError if they do not find the family."""
        connect(workers)
        require_family(family)
        self._experiment, self._timeout_s, self._device = experiment, timeout_s, device
        remote: Any = ray.remote(num_cpus=1, max_restarts=-1)(Worker)
        self.actors: list[Any] = []
        try:
            for _ in range(workers):
                self.actors.append(remote.remote(family, experiment.agent))
            ray.get([actor.__ray_ready__.remote() for actor in self.actors])
        except BaseException:
            self.stop()  # otherwise the workers that did start would keep their cores
            raise

    def sample(self, theta: Params, phi: Params, tasks: Sequence[Task], iteration: int) -> Sampled:
        """See :class:`warprl.agents.meta.Sampler`."""
        parameters = P.prefix("theta", theta) | P.prefix("phi", phi)
        shards = shards_of(tasks, len(self.actors), self._experiment.seed, iteration)
        answers, lost = collect_shards(self.actors, parameters, shards, self._timeout_s)
        if lost:
            log.warning("iteration %d: workers lost and replaced: %d", iteration, lost)
        batch = self._experiment.agent.gather(
            [answer.trajectory for answer in answers], available_cores(), self._device
        )
        return Sampled(batch, mean_timing(answer.timing for answer in answers), lost)

    def stop(self) -> None:
        """End the workers, unless Ray has ended with all of them."""
        while self.actors and ray.is_initialized():
            ray.kill(self.actors.pop())


def collect_shards(
    actors: Sequence[ActorHandle[Worker]],
    parameters: Params,
    shards: Sequence[Shard],
    timeout_s: float,
) -> tuple[list[Answer], int]:
    """Let the worker at each position adapt to the shard at the same position.

    Ray restarts a worker that dies, and the worker gets its shard again. A worker that has not
    answered after ``timeout_s`` seconds is killed and handled in the same way.

    Returns:
        The answers in the order of the shards, and how many workers were replaced.

    Raises:
        RayTaskError: at once, if a worker raised an exception; it holds the traceback.
        RayError: after ATTEMPTS losses of one shard's worker, the last of these errors.
        RunFailedError: in place of RayError, if that worker hung.
    """
    parameters_ref = ray.put(to_arrays(parameters))
    deadlines = [0.0] * len(shards)

    def ask(n: int) -> Any:
        deadlines[n] = time.monotonic() + timeout_s
        return actors[n].sample.remote(parameters_ref, shards[n])

    waiting = {ask(n): n for n in range(len(shards))}
    answers: dict[int, Answer] = {}
    losses = [0] * len(shards)
    hung: set[int] = set()
    while waiting:
        # Wait for the next answer, or until a worker counts as hung.
        n = min(waiting.values(), key=deadlines.__getitem__)
        ready, _ = ray.wait(list(waiting), timeout=max(deadlines[n] - time.monotonic(), 0.0))
        if not ready:
            log.warning("a worker that gave no answer for %g s is replaced", timeout_s)
            ray.kill(actors[n], no_restart=False)  # from here on it counts as dead
            hung.add(n)
            deadlines[n] += timeout_s
            continue

        # Take the answer, or handle the loss of the worker.
        n = waiting.pop(ready[0])
        try:
            answers[n] = ray.get(ready[0])
        except RayTaskError:
            raise
        except RayError as error:
            losses[n] += 1
            if losses[n] == ATTEMPTS:
                if n in hung:
                    raise RunFailedError(
                        f"a worker gave no answer for {timeout_s:g} s, {ATTEMPTS} times in a row: "
                        "if its tasks take so long, set a larger compute.worker_timeout_s"
                    ) from error
                raise
            hung.discard(n)
            _await_restart(actors[n])
            waiting[ask(n)] = n
    return [answers[n] for n in range(len(shards))], sum(losses)


def _await_restart(actor: Any) -> None:
    # A call to an actor that is restarting fails, unless it has retries: then it is queued.
    ray.get(actor.__ray_ready__.options(max_task_retries=-1).remote())


def to_arrays(params: Params) -> Arrays:
    """The same values as arrays, which Ray moves without copying."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in params.items()}


def to_tensors(arrays: Arrays) -> Params:
    """Read-only views of arrays: arrays from the object store must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def _pack(trajectory: Trajectory) -> Arrays:
    named = {name: getattr(trajectory, name) for name in ("task", "returns", "finite")}
    named |= P.prefix("theta", trajectory.theta) | P.prefix("data", trajectory.data._asdict())
    return to_arrays(named)
