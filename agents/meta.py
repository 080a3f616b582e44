"""One meta-iteration of WarpGrad: the loop that anyone can read.

:func:`iterate` draws tasks, has a sampler adapt to each of them, and has the learner update the
warp parameters and the initialisation from what the adaptations left behind. Where the adaptations
run is the sampler's own affair: :class:`InProcess` runs them in threads of this process.

Nothing here knows Ray, a file or a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

import numpy as np

from warprl import tree
from warprl.agents.consistency import Choices
from warprl.agents.inner import AdaptationConfig, Shard, adapt
from warprl.agents.losses import InnerLoss, OuterLoss
from warprl.agents.policy import Policy
from warprl.agents.timing import Cost, Spent, Timed, Timing, mean_timing, waiting
from warprl.learner import Learner, LearnerConfig, LearnerState, Ppo, Report
from warprl.meta_batch import CHUNK, LONG_CHUNK, InMemory, MetaBatch
from warprl.objective import MetaObjective
from warprl.seeding import generator
from warprl.threads import pool
from warprl.trajectories import concatenate, to_device
from warprl.tree import Span
from warprl.types import BatchEnv, Params, Spaces, Task, Trajectory

Metrics = Mapping[str, float]


class Family(Protocol):
    """What the loop needs of a task family."""

    horizon: int

    @property
    def spaces(self) -> Spaces:
        """Sizes and bounds of observations and actions."""
        ...

    def sample_tasks(self, rng: np.random.Generator, n: int) -> Sequence[Task]:
        """Draw training tasks.

        Args:
            rng: decides them.
            n: how many.

        Returns:
            The tasks.
        """
        ...

    def make_batch(self, num_envs: int) -> BatchEnv:
        """Simulations that are stepped together."""
        ...


class Sampled(NamedTuple):
    """A meta-batch, the seconds of adapting (mean over workers), and what sharing it has cost."""

    batch: MetaBatch
    timing: Timing
    cost: Callable[[], Cost] = Cost  # so far: it rises while the meta-batch answers


class Sampler(Protocol):
    """Adapts to tasks, wherever that runs."""

    def sample(self, theta: Params, phi: Params, tasks: Sequence[Task], iteration: int) -> Sampled:
        """Adapt from theta_0 to every task, phi frozen.

        Args:
            theta: theta_0 ``[...]``.
            phi: ``[...]``.
            tasks: of the meta-batch, in order.
            iteration: the number of the meta-iteration, which keys the random numbers.

        Returns:
            The meta-batch. Its bits depend on the arguments and the run's seed alone.
        """
        ...


@dataclass(frozen=True)
class Agent:
    """What adapts, and how it learns: a policy without parameters, and three configurations."""

    policy: Policy
    adaptation: AdaptationConfig
    learner: LearnerConfig

    def objective(self) -> MetaObjective:
        """All that decides the meta-gradient besides parameters and data."""
        loss = self.learner.loss
        return MetaObjective(
            self.learner.objective,
            self.learner.init,
            self.adaptation.step_sizes(self.policy),
            InnerLoss(self.policy),
            OuterLoss(self.policy, loss.clip if isinstance(loss, Ppo) else None),
            trust_region=self.learner.outer.trust_region,
        )

    def init(self, seed: int) -> LearnerState:
        """The state before the first iteration of a run with this seed."""
        return Learner(self.learner).init(*self.policy.init(generator(seed, "init")))

    def gather(
        self, parts: Sequence[Trajectory], threads: int, device: str, whole: Span | None = None
    ) -> InMemory:
        """The meta-batch of trajectories that lie in this process, or the part of it.

        Args:
            parts: the trajectories, in the order of the tasks.
            threads: how many compute gradients.
            device: where they are computed.
            whole: the positions of the whole meta-batch, if this is a part of it.

        Returns:
            The meta-batch, on the device.
        """
        trajectory = to_device(concatenate(parts), device)
        runs = self.policy.config.memory is not None  # step by step
        chunk = LONG_CHUNK if runs else CHUNK
        return InMemory(trajectory, self.objective(), threads, chunk, runs, whole)


@dataclass(frozen=True)
class Experiment:
    """A run apart from how it is carried out: its tasks, its agent and its seed.

    ValueError says, in one line, what cannot work together or would do nothing.
    """

    family: Family
    agent: Agent
    tasks: int  # of a meta-batch
    seed: int

    def __post_init__(self) -> None:
        """Refuse choices that have no effect or cannot work together."""
        agent = self.agent
        choices = Choices.of(agent.policy, agent.adaptation, agent.learner)
        choices.require_used()
        choices.require_consistent()


class Iteration(NamedTuple):
    """The result of one meta-iteration."""

    state: LearnerState
    metrics: Metrics
    diverged: tuple[int, ...]


def iterate(experiment: Experiment, sampler: Sampler, state: LearnerState) -> Iteration:
    """One meta-iteration: tasks, sample, update, metrics.

    Args:
        experiment: what is learned.
        sampler: where adaptations run.
        state: where the learner stands.

    Returns:
        The next state; the metrics of this iteration, see :func:`metrics_of`; and the positions of
        the tasks that diverged and were left out.
    """
    began = time.perf_counter()
    iteration, seed = state.iteration + 1, experiment.seed

    # Tasks: as many as a meta-batch has.
    rng = generator(seed, "tasks", iteration=iteration)
    tasks = experiment.family.sample_tasks(rng, experiment.tasks)

    # Sample: adapt to each of them from theta_0, phi frozen.
    sampled = sampler.sample(state.theta, state.phi, tasks, iteration)
    drawn, cost, answering = time.perf_counter(), sampled.cost(), Timed(sampled.batch)

    # Update: phi and theta_0 from the states along the adaptation trajectories.
    rng = generator(seed, "minibatch", iteration=iteration)
    state, report = Learner(experiment.agent.learner).update(state, answering, rng)
    update_s = time.perf_counter() - drawn

    # Metrics.
    episodes = sampled.batch.returns.numel() * experiment.agent.adaptation.episodes
    steps = episodes * experiment.family.horizon
    costs = (cost, sampled.cost())
    spent = Spent.of(drawn - began, update_s, sampled.timing, answering.seconds, costs)
    metrics = metrics_of(sampled, report, steps, spent)
    return Iteration(state, {"iteration": iteration, **metrics}, report.diverged)


def metrics_of(sampled: Sampled, report: Report, steps: int, spent: Spent) -> dict[str, float]:
    """The metrics of one iteration.

    They are ``env_steps`` (horizons of all episodes, also of those that end early), ``wall_s``,
    ``workers_replaced``; ``return_step_k`` (mean over finite tasks, NaN if there is none);
    ``meta_loss`` (of Leap and Reptile without warps, their own objective), ``kl``, ``grad_norm``,
    ``meta_steps``, ``kl_coefficient``, ``step_scale``; ``diverged_tasks``, ``steps_per_s``; the
    seconds ``time.physics``, ``time.policy``, ``time.inner``, ``time.gradient``, ``time.waiting``,
    ``time.transfer`` and ``time.learner`` (:class:`warprl.agents.timing.Spent`); and
    ``physics_fraction``, the first of these over their sum.

    Args:
        sampled: the meta-batch and how it was sampled.
        report: what the update did.
        steps: environment steps of the meta-batch.
        spent: where the time went.

    Returns:
        A number for each name.
    """
    finite = sampled.batch.returns[sampled.batch.finite].double().mean(0)
    return {
        "env_steps": steps,
        "wall_s": spent.whole,
        "workers_replaced": sampled.cost().lost,
        **{f"return_step_{k}": value for k, value in enumerate(finite.tolist())},
        **report.metrics,
        "diverged_tasks": len(report.diverged),
        "steps_per_s": steps / spent.whole,
        "physics_fraction": spent.physics / spent.whole,
        **{f"time.{name}": value for name, value in asdict(spent).items()},
    }


class InProcess:
    """A sampler of this process: the meta-batch in as many shards as there are threads."""

    def __init__(self, experiment: Experiment, threads: int = 1, device: str = "cpu") -> None:
        """Simulate and act on the processor, ``threads`` shards at a time; learn on ``device``."""
        self._experiment, self._threads, self._device = experiment, threads, device
        self._batches: dict[tuple[int, int], BatchEnv] = {}

    def sample(self, theta: Params, phi: Params, tasks: Sequence[Task], iteration: int) -> Sampled:
        """See :class:`Sampler`."""
        shards = shards_of(tasks, min(self._threads, len(tasks)), self._experiment.seed, iteration)
        theta, phi = ({n: x.cpu() for n, x in group.items()} for group in (theta, phi))

        def work(number: int) -> tuple[Trajectory, Timing]:
            agent, shard = self._experiment.agent, shards[number]
            batch = self._simulations(number, len(shard.tasks) * agent.adaptation.episodes)
            return adapt(batch, agent.policy, theta, phi, shard, agent.adaptation)

        with pool(len(shards)) as executor:
            found = list(executor.map(work, range(len(shards))))
        parts = [trajectory for trajectory, _ in found]
        batch = self._experiment.agent.gather(parts, self._threads, self._device)
        timings = [timing for _, timing in found]
        cost = Cost(waiting([timing.total for timing in timings]))
        return Sampled(batch, mean_timing(timings), lambda: cost)

    def _simulations(self, number: int, size: int) -> BatchEnv:
        """The simulations of one thread, which are kept for the next iteration."""
        if (number, size) not in self._batches:
            self._batches[number, size] = self._experiment.family.make_batch(size)
        return self._batches[number, size]


def shards_of(tasks: Sequence[Task], number: int, seed: int, iteration: int) -> list[Shard]:
    """A meta-batch in parts of nearly equal size (:func:`warprl.tree.shares`).

    Args:
        tasks: of the meta-batch, in order.
        number: of the parts.
        seed: of the run.
        iteration: of the meta-training.

    Returns:
        The parts, in order.
    """
    return [
        Shard(tasks[first:end], range(first, end), seed, iteration)
        for first, end in tree.shares(len(tasks), number)
    ]
