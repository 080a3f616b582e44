"""Ray workers that adapt a shard of the meta-batch, and what survives their loss.

One request a worker and meta-iteration: tasks and parameters go in, the adaptation trajectories
come out. A worker keeps nothing between requests but compiled physics, so a request may be repeated
on any worker with the same bits as a result.
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
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_runner import EnvRunner

from warprl import params as P
from warprl.agents.inner import AdaptationConfig, adapt
from warprl.agents.policy import Policy
from warprl.agents.rollout import Timing
from warprl.envs import make_family
from warprl.launch.errors import RunFailedError
from warprl.launch.machine import keep_freed_memory
from warprl.types import Batch, BatchEnv, Params, Task, Trajectory

if TYPE_CHECKING:
    from gymnasium import Space
    from ray.actor import ActorHandle
    from ray.rllib.utils.typing import StateDict

ATTEMPTS = 4  # a shard whose worker is lost so often is itself the likely cause

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


class Request(NamedTuple):
    """One shard of a meta-batch; ``indices`` are the tasks' positions in the whole of it."""

    tasks: Sequence[Task]
    indices: Sequence[int]
    iteration: int


class Shard(NamedTuple):
    """The trajectories of a shard on the wire, and the seconds they took."""

    arrays: Arrays
    timing: Timing
    seconds: float

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


class AdaptationRunner(EnvRunner):
    """Adapts the policy to tasks; one task family, one thread."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        """``config`` is a WarpGradConfig; RLlib's further arguments are passed on."""
        super().__init__(config=config, **kwargs)
        torch.set_num_threads(1)
        keep_freed_memory()
        self._family = make_family(config.family)
        self._policy = Policy.for_spaces(self._family.spaces, config.policy)
        self._adaptation: AdaptationConfig = config.adaptation
        self._run_seed: int = config.seed
        self._batch: BatchEnv | None = None

    def sample(self, *, parameters: Arrays, request: Request) -> Shard:  # type: ignore[override]
        """Adapt to the tasks of a request, from ``theta.*`` and ``phi.*`` of ``parameters``."""
        began = time.perf_counter()
        named = to_tensors(parameters)
        trajectory, timing = adapt(
            self._simulations(len(request.tasks) * self._adaptation.episodes),
            self._policy, P.subtree("theta", named), P.subtree("phi", named),
            request.tasks, request.indices,
            self._adaptation, self._run_seed, request.iteration,
        )  # fmt: skip
        return Shard(_pack(trajectory), timing, time.perf_counter() - began)

    def _simulations(self, number: int) -> BatchEnv:
        if self._batch is None or self._batch.num_envs != number:
            self._batch = self._family.make_batch(number)
        return self._batch

    def get_spaces(self) -> dict[str, tuple[Space[Any], Space[Any]]]:
        """Observation and action space, under RLlib's name of the only module."""
        return {DEFAULT_MODULE_ID: (self._family.observation_space, self._family.action_space)}

    def assert_healthy(self) -> None:
        """Fail unless the constructor has finished."""
        assert self._policy

    def get_state(self, *_: Any, **__: Any) -> StateDict:
        """Nothing: a runner has no state that outlives a request."""
        return {}

    def set_state(self, state: StateDict) -> None:
        """Ignore what RLlib sends round: parameters come with each request."""


def collect_shards(
    runners: Sequence[ActorHandle[AdaptationRunner]],
    parameters: Params,
    requests: list[Request],
    timeout_s: float,
) -> tuple[list[Shard], int]:
    """Have each request served by the runner of the same position.

    A runner that dies is restarted by Ray, and its request is put to it again; one that has not
    answered after ``timeout_s`` seconds is killed, and then the same. Returns the shards in the
    order of the requests and how many runners were replaced. Raises at once what a runner raised,
    with its traceback, and after ATTEMPTS losses on one request the last RayError, or
    RunFailedError if that runner hung.
    """
    parameters_ref = ray.put(to_arrays(parameters))
    deadlines = [0.0] * len(requests)

    def ask(n: int) -> Any:
        deadlines[n] = time.monotonic() + timeout_s
        return runners[n].sample.remote(parameters=parameters_ref, request=requests[n])

    waiting = {ask(n): n for n in range(len(requests))}
    shards: dict[int, Shard] = {}
    losses = [0] * len(requests)
    hung: set[int] = set()
    while waiting:
        n = min(waiting.values(), key=deadlines.__getitem__)
        ready, _ = ray.wait(list(waiting), timeout=max(deadlines[n] - time.monotonic(), 0.0))
        if not ready:
            log.warning("a worker that gave no answer for %g s is replaced", timeout_s)
            ray.kill(runners[n], no_restart=False)  # from here on it is one that died
            hung.add(n)
            deadlines[n] += timeout_s
            continue
        n = waiting.pop(ready[0])
        try:
            shards[n] = ray.get(ready[0])
        except RayTaskError:
            raise
        except RayError as error:
            losses[n] += 1
            if losses[n] == ATTEMPTS:
                if n in hung:
                    raise RunFailedError(
                        f"a worker gave no answer for {timeout_s:g} s, {ATTEMPTS} times in a row: "
                        "if its tasks take so long, set a larger worker_timeout_s"
                    ) from error
                raise
            hung.discard(n)
            _await_restart(runners[n])
            waiting[ask(n)] = n
    return [shards[n] for n in range(len(requests))], sum(losses)


def _await_restart(runner: Any) -> None:
    # Without retries a call to an actor that is just restarting fails; this one is queued.
    ray.get(runner.__ray_ready__.options(max_task_retries=-1).remote())


def to_arrays(params: Params) -> Arrays:
    """The same values as arrays, which Ray moves without copying."""
    return {name: tensor.detach().numpy() for name, tensor in params.items()}


def to_tensors(arrays: Arrays) -> Params:
    """Views of arrays, to be read only: those out of the object store cannot be written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def _pack(trajectory: Trajectory) -> Arrays:
    named = {name: getattr(trajectory, name) for name in ("task", "returns", "finite")}
    named |= P.prefix("theta", trajectory.theta) | P.prefix("data", trajectory.data._asdict())
    return to_arrays(named)
