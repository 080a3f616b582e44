"""WarpGrad as an RLlib algorithm: one request a worker, then one meta-update, an iteration.

RLlib carries the workers, Tune and the metrics; sampling, learning and checkpoints are this
project's own. Results have the same bits for any number of workers, ``num_env_runners=0`` (all in
the driver) included.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
from pydantic import TypeAdapter, ValidationError
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule

from warprl import checkpoint
from warprl import params as P
from warprl.agents.inner import AdaptationConfig
from warprl.agents.policy import PolicyConfig
from warprl.agents.presets import PRESETS
from warprl.agents.rollout import Timing
from warprl.buffer import concatenate
from warprl.envs import UnknownFamily, make_family
from warprl.launch.errors import UserError
from warprl.launch.machine import available_cores
from warprl.launch.runs.config import WORKER_TIMEOUT_S, RunConfig, require_consistent, saved_policy
from warprl.launch.training.env_runner import (
    AdaptationRunner,
    Request,
    Shard,
    collect_shards,
    to_arrays,
)
from warprl.launch.training.rllib_learner import STATE, MetaBatch, WarpGradLearner
from warprl.learner import LearnerConfig, LearnerState, Report
from warprl.seeding import generator
from warprl.types import Params, Trajectory

METRICS = "meta"  # the key of ours in RLlib's results
COUNTERS = ("env_steps", "wall_s", "workers_replaced")

log = logging.getLogger(__name__)


class WarpGradConfig(AlgorithmConfig):
    """RLlib's configuration with :meth:`meta`; ``num_env_runners`` is the number of workers.

    After ``sample_timeout_s`` seconds without an answer a worker is taken for hung and replaced.
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        """The ``warpgrad`` preset; the task family is still to be named."""
        super().__init__(algo_class=algo_class or WarpGrad)
        preset = PRESETS["warpgrad"]
        self.family: str = ""
        self.policy: PolicyConfig = preset.policy
        self.adaptation: AdaptationConfig = preset.adaptation
        self.learner: LearnerConfig = preset.learner
        self.tasks: int = 20
        self.keep: int = 2
        self.seed: Any = 0
        self.framework("torch")
        self.env_runners(
            env_runner_cls=AdaptationRunner, num_env_runners=0, create_local_env_runner=True,
            num_cpus_per_env_runner=1, sample_timeout_s=WORKER_TIMEOUT_S,
        )  # fmt: skip
        # Runners have no connectors, so there are no states of these to merge or to send round.
        self.merge_env_runner_states: Any = False
        self.broadcast_env_runner_states = False
        self._dont_auto_sync_env_runner_states = True

    def meta(
        self,
        *,
        family: str | None = None,
        policy: PolicyConfig | None = None,
        adaptation: AdaptationConfig | None = None,
        learner: LearnerConfig | None = None,
        tasks: int | None = None,
        seed: int | None = None,
        keep: int | None = None,
    ) -> Self:
        """Set what is learned: the task family, how a policy adapts, how phi and theta_0 are found.

        ``tasks`` is the size of the meta-batch, whatever the number of workers; ``seed`` keys every
        random number; ``keep`` is how many checkpoints stay. What is None stays as it was.
        """
        given = {
            "family": family, "policy": policy, "adaptation": adaptation, "learner": learner,
            "tasks": tasks, "seed": seed, "keep": keep,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None:
                setattr(self, name, value)
        return self

    def get_default_learner_class(self) -> type[WarpGradLearner]:
        """Our learner."""
        return WarpGradLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """A placeholder: RLlib asks for a module, and our policies are called with parameters."""
        return RLModuleSpec(module_class=TorchRLModule)

    def validate(self) -> None:
        """Raise UserError, in one line, for a setting out of range or at odds with another."""
        if not self.family:
            raise UserError("family is not set: call .meta(family=...), see warprl.envs")
        try:
            make_family(self.family)
        except ValueError as error:
            raise UserError(str(error)) from error
        _require_valid("policy", PolicyConfig, self.policy)
        _require_valid("adaptation", AdaptationConfig, self.adaptation)
        _require_valid("learner", LearnerConfig, self.learner)
        require_consistent(self.policy, self.adaptation, self.learner)
        _require_whole("tasks", self.tasks, 1)
        _require_whole("seed", self.seed, 0)
        _require_whole("keep", self.keep, 2)
        _require_whole("num_env_runners", self.num_env_runners, 0)
        if not isinstance(self.sample_timeout_s, int | float) or not self.sample_timeout_s > 0:
            raise UserError(
                f"sample_timeout_s = {self.sample_timeout_s!r}: must be a number of seconds above 0"
            )
        if self.num_env_runners > self.tasks:
            raise UserError(
                f"num_env_runners = {self.num_env_runners}: must not exceed tasks = {self.tasks}, "
                "for every worker takes whole tasks"
            )
        if self.num_learners:
            raise UserError(f"num_learners = {self.num_learners}: must be 0, a local learner")
        super().validate()


class WarpGrad(Algorithm):
    """Meta-learns warp parameters phi and the initialisation theta_0 (Flennerhag et al., 2020)."""

    config: WarpGradConfig
    learner_group: Any
    metrics: Any

    @classmethod
    def get_default_config(cls) -> WarpGradConfig:
        """The ``warpgrad`` preset."""
        return WarpGradConfig()

    def setup(self, config: Any) -> None:
        """Start the workers and draw the initial parameters."""
        self._counters_of_run: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        if config.num_env_runners:
            _require_on_workers(config.family)
        super().setup(config)
        self._family = make_family(self.config.family)

    @property
    def learner_state(self) -> LearnerState:
        """All that has been learned so far."""
        state: LearnerState = self.learner_group.get_state()[COMPONENT_LEARNER][STATE]
        return state

    def training_step(self) -> None:
        """One meta-iteration."""
        began = time.perf_counter()
        iteration = self.learner_state.iteration + 1
        shards, replaced = self._sample(iteration)
        trajectory = concatenate([shard.trajectory for shard in shards])
        sampled = time.perf_counter()
        (report,) = self.learner_group.update(training_data=MetaBatch(trajectory=trajectory))
        if replaced:
            log.warning("iteration %d: workers lost and replaced: %d", iteration, replaced)
        if report.diverged:
            log.warning("iteration %d: diverged tasks left out: %s", iteration, report.diverged)
        ended = time.perf_counter()
        steps = self._steps(trajectory)
        self._count(env_steps=steps, wall_s=ended - began, workers_replaced=replaced)
        metrics = {
            "iteration": iteration,
            **self._counters_of_run,
            **_returns(trajectory),
            **_update_metrics(report),
            "steps_per_s": steps / (ended - began),
            **_time_metrics(shards, sampled - began, ended - sampled),
        }
        for name, value in metrics.items():
            self.metrics.log_value((METRICS, name), value, reduce="item")

    def _sample(self, iteration: int) -> tuple[list[Shard], int]:
        """The shards of one meta-batch, and how many workers were lost over it."""
        config, state = self.config, self.learner_state
        tasks = self._family.sample_tasks(
            generator(config.seed, "tasks", iteration=iteration), config.tasks
        )
        requests = [
            Request([tasks[i] for i in part], part.tolist(), iteration)
            for part in np.array_split(np.arange(config.tasks), max(config.num_env_runners, 1))
        ]
        parameters = P.prefix("theta", state.theta) | P.prefix("phi", state.phi)
        group = self.env_runner_group
        assert group is not None
        if not config.num_env_runners:
            runner: Any = group.local_env_runner
            return [runner.sample(parameters=to_arrays(parameters), request=requests[0])], 0
        manager: Any = group._worker_manager
        runners = list(manager.actors().values())
        return collect_shards(runners, parameters, requests, config.sample_timeout_s)

    def _steps(self, trajectory: Trajectory) -> int:
        """Simulated environment steps, those after the end of an episode included."""
        tasks, rollouts = trajectory.returns.shape
        return tasks * rollouts * self.config.adaptation.episodes * self._family.horizon

    def _count(self, **increments: float) -> None:
        for name, increment in increments.items():
            self._counters_of_run[name] += increment

    def _identity(self) -> dict[str, Any]:
        """What the parameters of a checkpoint must fit."""
        policy = json.loads(json.dumps(asdict(self.config.policy)))
        return {"family": self.config.family, "policy": policy}

    def get_state(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The run's progress: tensors, and a JSON-able document."""
        state = self.learner_state
        document = {
            **self._identity(),
            "learner": state.to_scalars(),
            "counters": dict(self._counters_of_run),
        }
        return {"tensors": state.to_tensors(), "document": document}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from the progress of a run. Raises UserError if it is not one of this policy."""
        tensors, document = state["tensors"], state["document"]
        saved = {"family": document["family"], "policy": saved_policy(document)}
        for name, mine in self._identity().items():
            if saved[name] != mine:
                raise UserError(f"cannot continue: {name} was {saved[name]} and is now {mine}")
        learned = LearnerState.from_tensors(tensors, document["learner"])
        self.learner_group.set_state({COMPONENT_LEARNER: {STATE: learned}})
        self._counters_of_run = dict(document["counters"])
        self._iteration = learned.iteration

    def start_from(self, theta: Params) -> None:
        """Begin with this initialisation theta_0 in place of the random one."""
        state = replace(self.learner_state, theta=theta)
        self.learner_group.set_state({COMPONENT_LEARNER: {STATE: state}})

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """None: :meth:`get_state` holds everything."""
        return []

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write ``checkpoint_dir/<iteration>``; see :mod:`warprl.checkpoint`."""
        state = self.get_state()
        checkpoint.save(
            Path(checkpoint_dir), self.learner_state.iteration,
            state["tensors"], state["document"], self.config.keep,
        )  # fmt: skip

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Go on from the newest sound checkpoint in a folder; broken ones are logged."""
        found = checkpoint.load(Path(checkpoint_dir))
        for path, reason in found.skipped:
            log.warning("checkpoint %s is broken and was skipped: %s", path, reason)
        self.set_state({"tensors": found.tensors, "document": found.document})


def connect(workers: int) -> None:
    """Start Ray on this machine, unless it runs in this process or RAY_ADDRESS names a cluster.

    There may be more workers than cores.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's native log otherwise reaches the terminal; errors that matter are Python's exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        cpus = max(available_cores(), workers)
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)


def build(run: RunConfig) -> WarpGrad:
    """The algorithm of a run, with Ray started and all workers up. End it with ``stop()``."""
    connect(run.workers)
    config = WarpGradConfig().env_runners(
        num_env_runners=run.workers, sample_timeout_s=run.worker_timeout_s
    )
    config.meta(
        family=run.family, policy=run.policy, adaptation=run.adaptation, learner=run.learner,
        tasks=run.tasks, seed=run.seed, keep=run.keep,
    )  # fmt: skip
    algorithm = config.build_algo()
    assert isinstance(algorithm, WarpGrad)
    return algorithm


def _require_on_workers(family: str) -> None:
    """Raise UserError if a Ray worker does not find the module of a user's own family."""
    if ":" not in family:
        return

    @ray.remote(num_cpus=0)
    def find() -> None:  # in here, so that it travels whole and a worker need not load RLlib
        make_family(family)

    try:
        ray.get(find.remote())
    except UnknownFamily as error:
        reason = getattr(error, "cause", error)  # Ray's error holds a traceback beside it
        raise UserError(f"a Ray worker finds {reason}") from error


def iteration_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """Ours of what ``train()`` returns, flat, with Python numbers.

    Cumulative over the run: ``iteration``, ``env_steps`` (horizons of all episodes, also of those
    that end early), ``wall_s`` (seconds in iterations), ``workers_replaced``. Of this iteration:
    ``return_step_k`` (mean over finite tasks), ``meta_loss`` (of Leap and Reptile without warps,
    their own objective), ``kl``, ``grad_norm``, ``meta_steps``, ``kl_coefficient``, ``step_scale``,
    ``diverged_tasks``, ``steps_per_s``, the seconds ``time.physics``, ``time.policy``,
    ``time.inner`` (means over workers), ``time.transfer`` (messages and waiting for the slowest
    worker), ``time.meta_update``, and ``physics_fraction``, the first of these over their sum.
    """
    return dict(result[METRICS])


def _returns(trajectory: Trajectory) -> dict[str, float]:
    """Mean over the tasks that stayed finite; NaN if none did."""
    means = trajectory.returns[trajectory.finite].double().mean(0)
    return {f"return_step_{k}": value for k, value in enumerate(means.tolist())}


def _update_metrics(report: Report) -> dict[str, float]:
    return {**report.metrics, "diverged_tasks": len(report.diverged)}


def _time_metrics(shards: list[Shard], sampling: float, update: float) -> dict[str, float]:
    names = [field.name for field in fields(Timing)]
    spent = {n: sum(getattr(s.timing, n) for s in shards) / len(shards) for n in names}
    seconds = {**spent, "transfer": sampling - sum(spent.values()), "meta_update": update}
    fraction = spent["physics"] / (sampling + update)
    return {"physics_fraction": fraction} | {f"time.{name}": s for name, s in seconds.items()}


def _require_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} = {value!r}: must be a whole number, {least} or more")


def _require_valid(name: str, kind: type[Any], value: Any) -> None:
    if not isinstance(value, kind):
        raise UserError(f"{name} = {value!r}: must be a {kind.__name__}")
    try:
        # Strict JSON, as for config.yaml: 2.5 is not 2, while a list may stand for a tuple.
        text = json.dumps(asdict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} = {value}: must hold finite numbers and names") from error
    try:
        TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([name, *map(str, first["loc"])])
        message = first["msg"].removeprefix("Input ")
        raise UserError(f"{path} = {first['input']!r}: {message}") from error
