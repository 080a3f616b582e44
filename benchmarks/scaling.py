"""Measures what a run costs the process that drives it, and models how training scales.

``python benchmarks/scaling.py [--quick]`` measures, for ``warpgrad`` on HalfCheetah:

* ``work``: processor time of a worker, on one thread: sampling, and the gradients of an epoch
* ``driver``: processor time of the process that learns, for each worker and round, and the bytes
  that come back to it, with 1 to 64 workers. It runs the real sampler, crew and learner; the
  workers are light stand-ins, which answer at once with recorded facts and sums.
* ``whole``: real meta-iterations with 0, 1 and 2 workers, in interleaved repeats

From the first two it models the time of a meta-iteration, and the speed-up over one core, with 1 to
256 workers. All but the clock of ``whole`` is processor time, which other work on the machine
changes little, and all values are medians over repeats. Writes ``results/scaling.json`` and
``results/scaling.png``, and prints the tables. ``--quick`` is a rehearsal
with few tasks and workers, which writes nothing.
"""

from __future__ import annotations

import argparse
import copy
import gc
import math
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from common import RESULTS, provenance, shrink, write_json

from warprl import params as P
from warprl import threads, tree
from warprl.agents.inner import adapt
from warprl.agents.meta import Experiment, Sampler, iterate, shards_of
from warprl.agents.timing import Timing
from warprl.envs import make_family
from warprl.launch.cluster.connection import connect
from warprl.launch.evaluation.compare_report import markdown_table
from warprl.launch.machine import keep_freed_memory
from warprl.launch.runs.config import RunConfig, resolve
from warprl.launch.training.crew import Crew, Piece
from warprl.launch.training.loop import Progress, experiment_of, iterations, sampling
from warprl.launch.training.ray_sampler import RaySampler
from warprl.launch.training.workers import (
    Answer,
    AskFacts,
    AskGradient,
    Facts,
    Question,
    Start,
    read_sums,
    to_arrays,
)
from warprl.learner import Learner, LearnerState
from warprl.meta_batch import InMemory
from warprl.seeding import generator
from warprl.sums import GradientSums
from warprl.trajectories import Selection, of_tasks
from warprl.tree import Span
from warprl.types import BatchEnv, Params

FAMILY, AGENT, SEED = "half-cheetah-dir-v1", "warpgrad", 1
LEAST_TASKS = 20  # of a meta-batch with stand-ins
TOGETHER = 4  # stand-ins that start at once
SEVERAL = 4  # tasks of the shard that shows what a further task costs
MODELLED = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # workers
MOST_MS, MOST_SHARE, MOST_KIB = 2.0, 0.05, 1024.0  # see bars()

Document = Mapping[str, Any]


class Setting(NamedTuple):
    """The size of a meta-batch."""

    tasks: int
    episodes: int
    horizon: int

    @property
    def of_task(self) -> str:
        """What decides how long a task takes: episodes x horizon."""
        return f"{self.episodes} x {self.horizon}"

    def __str__(self) -> str:
        """As tasks x episodes x horizon."""
        return f"{self.tasks} x {self.of_task}"


class Plan(NamedTuple):
    """What is measured, and how often."""

    settings: Sequence[Setting]  # the first is that of whole meta-iterations
    stand_ins: Sequence[int]
    workers: Sequence[int]  # of whole meta-iterations
    repeats: int  # where no worker does real work
    long_repeats: int


FULL = Plan(
    settings=[
        Setting(20, 20, 100),
        Setting(64, 20, 100),
        Setting(40, 20, 200),
        Setting(320, 20, 100),
    ],
    stand_ins=[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64],
    workers=[0, 1, 2],
    repeats=20,
    long_repeats=5,
)
QUICK = Plan([Setting(4, 2, 100)], [1, 2, 4], [0, 2], repeats=3, long_repeats=1)


# --- the model ------------------------------------------------------------------------------------


class Work(NamedTuple):
    """Processor seconds of a worker: sampling a shard, and its gradients.

    Sampling takes ``shard_s``, whatever the number of tasks, and ``task_s`` for each.
    """

    shard_s: float
    task_s: float
    epoch_s: float  # of a task's gradients


class Driving(NamedTuple):
    """Processor seconds of the driver: the learner's in an iteration, and those of messages.

    A round of messages takes ``round_s``, whatever the number of workers, and ``worker_s`` for
    each.
    """

    learner_s: float
    round_s: float
    worker_s: float


class Model(NamedTuple):
    """What decides how long a meta-iteration of ``tasks`` takes."""

    tasks: int
    epochs: int
    work: Work
    driving: Driving

    def shard_s(self, tasks: int) -> float:
        """Seconds in which a core samples a shard and computes its gradients."""
        work = self.work
        return work.shard_s + tasks * (work.task_s + self.epochs * work.epoch_s)

    def iteration_s(self, workers: int) -> float:
        """Seconds of an iteration, if each worker has a core and messages travel in no time.

        The driver's time is added in full, although workers compute while it serves others. There
        is a round for the facts and one for each epoch. No more workers are used than there are
        tasks; without any, one core does everything.
        """
        used = min(workers, self.tasks)
        if not used:
            return self.shard_s(self.tasks) + self.driving.learner_s
        round_s = self.driving.round_s + used * self.driving.worker_s
        longest = self.shard_s(math.ceil(self.tasks / used))
        return longest + (1 + self.epochs) * round_s + self.driving.learner_s

    def speed_up(self, workers: int) -> float:
        """How many times as fast as one core without workers."""
        return self.iteration_s(0) / self.iteration_s(workers)


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Offset and slope of the line with the least squares of relative errors."""
    slope, offset = np.polyfit(x, y, 1, w=1 / np.asarray(y))
    return float(offset), float(slope)


# --- the work of a worker, in a process with one thread -------------------------------------------


def configured(setting: Setting, workers: int = 0) -> RunConfig:
    """The preset with a meta-batch of this size."""
    settings = [f"tasks={setting.tasks}", f"adaptation.episodes={setting.episodes}"]
    return resolve(FAMILY, AGENT, {"workers": workers, "seed": SEED}, settings)


def like_a_worker() -> None:
    """Compute with one thread in this process."""
    torch.set_num_threads(1)
    keep_freed_memory()


def adapted(experiment: Experiment, env: BatchEnv, state: LearnerState, number: int) -> InMemory:
    """The meta-batch of an iteration, adapted to in this process."""
    agent, family = experiment.agent, experiment.family
    tasks = family.sample_tasks(generator(SEED, "tasks", iteration=number), experiment.tasks)
    (shard,) = shards_of(tasks, 1, SEED, number)
    trajectory, _ = adapt(env, agent.policy, state.theta, state.phi, shard, agent.adaptation)
    return agent.gather([trajectory], 1, "cpu")


def gradient_of(state: LearnerState, here: InMemory) -> AskGradient:
    """The question for the gradient of all states and tasks."""
    parameters = P.prefix("theta", state.theta) | P.prefix("phi", state.phi)
    which = of_tasks(here.task.tolist(), here.steps)
    return AskGradient(to_arrays(parameters), state.kl_coefficient, which)


def measure_work(setting: Setting, repeats: int) -> Work:
    """What sampling and gradients cost, from shards of one and of several tasks in turn."""
    make_family(FAMILY).horizon = setting.horizon
    sizes = (1, SEVERAL)
    experiments = [experiment_of(configured(setting._replace(tasks=tasks))) for tasks in sizes]
    envs = [make_family(FAMILY).make_batch(tasks * setting.episodes) for tasks in sizes]
    state = experiments[0].agent.init(SEED)

    # Seconds of sampling and of gradients; the first repeat warms up.
    spent = np.empty((repeats + 1, 2, 2))
    for repeat in range(repeats + 1):
        for place, (experiment, env) in enumerate(zip(experiments, envs, strict=True)):
            gc.collect()
            began = time.process_time()
            here = adapted(experiment, env, state, repeat)
            sampled = time.process_time()
            gradient_of(state, here)(here)
            spent[repeat, place] = sampled - began, time.process_time() - sampled

    # What a further task costs, and what the first one costs beyond that.
    (one, _), (several, gradients) = np.median(spent[1:], axis=0).tolist()
    task_s = (several - one) / (SEVERAL - 1)
    return Work(one - task_s, task_s, gradients / SEVERAL)


# --- the driver, with stand-ins for its workers ---------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """A task that was adapted to, and its sums of gradients."""

    experiment: Experiment
    here: InMemory
    sums: list[tuple[Any, ...]]  # as a worker sends them


def record() -> Recorded:
    """Adapt to one task on few episodes, on whose number the sizes of answers do not depend."""
    experiment = experiment_of(configured(Setting(1, 2, make_family(FAMILY).horizon)))
    state, env = experiment.agent.init(SEED), make_family(FAMILY).make_batch(2)
    here = adapted(experiment, env, state, 1)
    (sums,) = gradient_of(state, here)(here).values()
    return Recorded(experiment, here, sums)


@dataclass(frozen=True)
class Answered(InMemory):
    """A meta-batch that knows the sums of its gradients already."""

    sums: GradientSums = GradientSums()

    def gradient(
        self, theta: Params, phi: Params, which: Selection, kl_coefficient: float
    ) -> GradientSums:
        """The same sums at any parameters."""
        return self.sums


def measure_learner(recorded: Recorded, repeats: int) -> float:
    """What the learner's own steps cost in an iteration."""
    here, agent = recorded.here, recorded.experiment.agent
    batch = Answered(here.trajectory, here.objective, sums=read_sums(recorded.sums, "cpu"))
    learner, state, spent = Learner(agent.learner), agent.init(SEED), []
    for repeat in range(repeats + 1):
        began = time.process_time()
        learner.update(state, batch, generator(SEED, "minibatch", iteration=repeat))
        spent.append(time.process_time() - began)
    return median(spent[1:])


class Unread(tuple[Any, ...]):
    """Stands for an object of any class of ours, and is pickled as that object again."""

    def __new__(cls, *content: Any) -> Unread:
        """``content`` are the fields of a named tuple; those of a data class come as attributes."""
        return tuple.__new__(cls, content)

    def __getnewargs__(self) -> tuple[Any, ...]:
        """What the object is made of."""
        return tuple(self)


class UnreadModule(ModuleType):
    """Stands for a module of ours, whose import would load torch and the physics."""

    def __getattr__(self, name: str) -> Any:
        """A class of that name."""
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (Unread,), {"__module__": self.__name__}))
        return getattr(self, name)


UNREAD = (
    "warprl.agents.inner",
    "warprl.agents.timing",
    "warprl.envs.tasks",
    "warprl.launch.training.workers",
    "warprl.trajectories",
)


class StandIn:
    """Has the interface of ``Worker.answer``, but remembers what to answer.

    It does without torch, so that the memory of one machine suffices for many.
    """

    def __init__(self) -> None:
        """Let messages be read without the modules of their classes."""
        sys.modules.update({name: UnreadModule(name) for name in UNREAD})
        self._answers: dict[str, Any] = {}

    def remember(self, answers: bytes) -> None:
        """What to answer, by the classes of the questions."""
        self._answers = pickle.loads(answers)

    def answer(self, shard: Any, start: Any, question: Any) -> Any:
        """What is remembered, whatever the shard and its start."""
        return self._answers[type(question).__name__]


def start_stand_ins(number: int) -> list[Any]:
    """Their handles. They start in small groups."""
    remote: Any = ray.remote(num_cpus=0)(StandIn)
    actors: list[Any] = []
    while len(actors) < number:
        group = [remote.remote() for _ in range(min(TOGETHER, number - len(actors)))]
        ray.get([actor.__ray_ready__.remote() for actor in group])
        actors += group
    return actors


@dataclass
class Observed(Crew):
    """A crew that keeps what it was answered, round by round."""

    rounds: list[list[Answer]] = field(default_factory=list)

    def ask(
        self, pieces: Sequence[Piece], start: Start, question: Question
    ) -> tuple[list[Piece], list[Answer]]:
        """See :meth:`warprl.launch.training.crew.Crew.ask`."""
        found = super().ask(pieces, start, question)
        self.rounds.append(found[1])
        return found


class Rehearsal(RaySampler):
    """The sampler of a run, with actors that are there already."""

    def __init__(self, experiment: Experiment, crew: Crew) -> None:
        """Start nothing."""
        self._experiment, self._device, self._drawn = experiment, "cpu", 0
        self.crew = crew


def answers_of(recorded: Recorded, shard: Span, tasks: int) -> dict[str, Answer]:
    """What a worker with the tasks at these positions answers, by the classes of the questions."""
    facts = AskFacts()(recorded.here)
    number = len(range(*shard))
    returns, finite = (np.repeat(x, number, axis=0) for x in (facts.returns, facts.finite))
    spans = tree.subtrees((0, tasks), shard)
    content = {
        AskFacts.__name__: Facts(returns, finite, facts.steps),
        # Pickle would write the same object only once.
        AskGradient.__name__: {span: copy.deepcopy(recorded.sums) for span in spans},
    }
    return {name: Answer(what, Timing(), 0.0) for name, what in content.items()}


@dataclass(frozen=True)
class Driven:
    """What a meta-iteration costs the driver: its processor time, and KiB from each worker."""

    workers: int
    tasks: int
    rounds: int
    cpu_s: float
    ms_per_worker_round: float
    kib_mean: float
    kib_from_worker: float  # from the one that sends most


def measure_driver(actors: Sequence[Any], recorded: Recorded, repeats: int) -> Driven:
    """The cost of a meta-iteration with these stand-ins."""
    # Each of them remembers what a worker with its shard would answer.
    tasks = max(LEAST_TASKS, len(actors))
    shards = tree.shares(tasks, len(actors))
    told = [pickle.dumps(answers_of(recorded, shard, tasks)) for shard in shards]
    ray.get([actor.remember.remote(what) for actor, what in zip(actors, told, strict=True)])

    # The first repeat warms up.
    experiment = experiment_of(configured(Setting(tasks, 20, make_family(FAMILY).horizon)))
    crew, state, spent = Observed(list(actors), 60.0, 60.0), experiment.agent.init(SEED), []
    sampler = Rehearsal(experiment, crew)
    for _ in range(repeats + 1):
        crew.rounds.clear()
        gc.collect()
        began = time.process_time()
        iterate(experiment, sampler, state)
        spent.append(time.process_time() - began)

    # Bytes of the last iteration, worker by worker.
    rounds, cpu = len(crew.rounds), median(spent[1:])
    sizes = [[len(pickle.dumps(answer, 5)) / 1024 for answer in found] for found in crew.rounds]
    kib = [sum(of_worker) for of_worker in zip(*sizes, strict=True)]
    ms = 1e3 * cpu / rounds / len(actors)
    return Driven(len(actors), tasks, rounds, cpu, ms, fmean(kib), max(kib))


# --- whole meta-iterations, side by side ----------------------------------------------------------


class Spent(NamedTuple):
    """Seconds of the clock, and of the processor: of all processes, and of the driver alone."""

    wall_s: float
    cpu_s: float
    driver_s: float


class Trainer:
    """A run with workers or without, and what it costs."""

    def __init__(self, experiment: Experiment, sampler: Sampler) -> None:
        """Begin at the first iteration."""
        self._sampler = sampler
        self._iterations = iterations(experiment, sampler, Progress.begin(experiment))

    def measure(self) -> Spent:
        """What the next meta-iteration takes."""
        gc.collect()
        before = self._now()
        next(self._iterations)
        return Spent(*(y - x for x, y in zip(before, self._now(), strict=True)))

    def _now(self) -> Spent:
        wall, own, workers = time.perf_counter(), time.process_time(), []
        if isinstance(self._sampler, RaySampler):
            actors = self._sampler.crew.actors
            calls = [actor.__ray_call__.remote(lambda _: time.process_time()) for actor in actors]
            workers = ray.get(calls)
        return Spent(wall, own + sum(workers), own)


def measure_whole(setting: Setting, workers: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """The same run with different numbers of workers, iteration by iteration in turn."""
    experiment = experiment_of(configured(setting))
    with ExitStack() as stack:
        samplers = [
            stack.enter_context(sampling(configured(setting, number), experiment))
            for number in workers
        ]
        trainers = [Trainer(experiment, sampler) for sampler in samplers]

        # The first repeat warms up. Another number of workers begins each time.
        spent = np.empty((repeats + 1, len(workers), 3))
        for repeat in range(repeats + 1):
            for place in np.roll(np.arange(len(workers)), repeat).tolist():
                spent[repeat, place] = trainers[place].measure()
                tell(f"repeat {repeat}, {workers[place]} workers: {spent[repeat, place].round(2)}")

    shares = np.median(spent[1:, :, 2] / spent[1:, :, 1], axis=0).tolist()
    middle = np.median(spent[1:], axis=0).tolist()
    return [
        {"workers": number, **Spent(*seconds)._asdict(), "driver_share": share}
        for number, seconds, share in zip(workers, middle, shares, strict=True)
    ]


# --- the result -----------------------------------------------------------------------------------


def tell(line: str) -> None:
    """Show what has been measured."""
    print(line, file=sys.stderr, flush=True)


def measure(plan: Plan) -> dict[str, Any]:
    """All that is measured."""
    # A worker's time, for each kind of task.
    spawn = multiprocessing.get_context("spawn")
    work: dict[str, Any] = {}
    for setting in plan.settings:
        if setting.of_task not in work:
            with ProcessPoolExecutor(1, spawn, like_a_worker) as core:
                found = core.submit(measure_work, setting, plan.long_repeats).result()
            work[setting.of_task] = found._asdict()
            tell(f"work of {setting.of_task}: {found}")

    # The driver's time. Ray has cores for the whole meta-iterations, too.
    connect(sum(plan.workers))
    with threads.one_thread():
        recorded = record()
        learner_s = measure_learner(recorded, plan.repeats)
        actors = start_stand_ins(max(plan.stand_ins))
        driven = []
        for number in plan.stand_ins:
            driven.append(measure_driver(actors[:number], recorded, plan.repeats))
            tell(f"{driven[-1]}")
    for actor in actors:
        ray.kill(actor)
    rounds_s = [(each.cpu_s - learner_s) / each.rounds for each in driven]
    driving = Driving(learner_s, *line(plan.stand_ins, rounds_s))

    return {
        "epochs": driven[0].rounds - 1,
        "work": work,
        "driving": driving._asdict(),
        "driver": list(map(asdict, driven)),
        "whole": measure_whole(plan.settings[0], plan.workers, plan.long_repeats),
    }


def models(measured: Document, settings: Sequence[Setting]) -> dict[str, Model]:
    """The model of each setting."""
    driving = Driving(**measured["driving"])
    return {
        str(s): Model(s.tasks, measured["epochs"], Work(**measured["work"][s.of_task]), driving)
        for s in settings
    }


def modelled(measured: Document, settings: Sequence[Setting]) -> dict[str, Any]:
    """Seconds of a meta-iteration on one core, and the speed-up for each number of workers."""
    return {
        name: {
            "one_core_s": model.iteration_s(0),
            "speed_up": {str(workers): model.speed_up(workers) for workers in MODELLED},
        }
        for name, model in models(measured, settings).items()
    }


def bars(measured: Document) -> dict[str, dict[str, float]]:
    """What the driver may cost at most, beside what was found.

    Milliseconds for each worker and round with 32 workers; its share of the processor time, and KiB
    from a worker in an iteration, with the 2 workers of a machine with two cores. What was not
    measured is left out.
    """
    required = {
        "ms_per_worker_round": ("driver", 32, MOST_MS),
        "driver_share": ("whole", 2, MOST_SHARE),
        "kib_from_worker": ("driver", 2, MOST_KIB),
    }
    return {
        name: {"found": row[name], "at_most": most}
        for name, (rows, workers, most) in required.items()
        for row in measured[rows]
        if row["workers"] == workers
    }


def rounded(data: Any) -> Any:
    """The same with four digits of every number that is not whole."""
    if isinstance(data, float):
        return float(f"{data:.4g}")
    if isinstance(data, Mapping):
        return {name: rounded(value) for name, value in data.items()}
    return list(map(rounded, data)) if isinstance(data, list) else data


def tables(document: Document) -> list[str]:
    """The tables of the page: the model, and then what was measured."""
    speed = document["modelled"]
    model = markdown_table(
        ["tasks x episodes x horizon", "one core, s", *map(str, MODELLED)],
        [
            [name, f"{row['one_core_s']:.1f}", *(f"{x:.3g}" for x in row["speed_up"].values())]
            for name, row in speed.items()
        ],
    )
    work = markdown_table(
        [
            "episodes x horizon",
            "sampling, a shard",
            "sampling, a task",
            "gradients, a task and epoch",
        ],
        [
            [name, *(f"{1e3 * x:.0f} ms" for x in row.values())]
            for name, row in document["work"].items()
        ],
    )
    driver = markdown_table(
        [
            "stand-ins",
            "tasks",
            "rounds",
            "iteration",
            "a worker and round",
            "from a worker",
            "at most",
        ],
        [
            [
                *(str(row[name]) for name in ("workers", "tasks", "rounds")),
                f"{1e3 * row['cpu_s']:.0f} ms",
                f"{row['ms_per_worker_round']:.2f} ms",
                *(f"{row[name]:.0f} KiB" for name in ("kib_mean", "kib_from_worker")),
            ]
            for row in document["driver"]
        ],
    )
    whole = markdown_table(
        ["workers", "clock", "processor time", "the driver's", "its share"],
        [
            [
                str(row["workers"]),
                *(f"{row[name]:.2f} s" for name in ("wall_s", "cpu_s", "driver_s")),
                f"{100 * row['driver_share']:.1f} %",
            ]
            for row in document["whole"]
        ],
    )
    return [model, work, driver, whole]


def draw(path: Path, found: Mapping[str, Model]) -> None:
    """The modelled speed-up against the number of workers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis = figure.subplots()
    workers = np.arange(1, MODELLED[-1] + 1)
    axis.plot(workers, workers, color="0.6", ls="--", lw=1, label="as many times as workers")
    for name, model in found.items():
        axis.plot(workers, [model.speed_up(int(n)) for n in workers], lw=1.5, label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.set_xticks(MODELLED, list(map(str, MODELLED)))
    axis.set_yticks(MODELLED, list(map(str, MODELLED)))
    axis.set(xlabel="workers", ylabel="speed-up over one core (modelled)")
    axis.set_title(f"{AGENT} on {FAMILY}: tasks x episodes x horizon", fontsize=10)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    shrink(path)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few tasks; nothing is written")
    quick = parser.parse_args().quick
    plan, began, load = QUICK if quick else FULL, time.perf_counter(), os.getloadavg()[0]
    document = provenance() | {"agent": AGENT, "family": FAMILY}
    measured = rounded(measure(plan))
    document |= measured | {
        "modelled": rounded(modelled(measured, plan.settings)),
        "bars": bars(measured),
        "load_average_before": round(load, 2),
        "seconds": round(time.perf_counter() - began),
    }

    print("\n".join(tables(document)))
    for name, bar in document["bars"].items():
        print(f"{name}: {bar['found']:g}, at most {bar['at_most']:g}")
    if not quick:
        write_json(RESULTS / "scaling.json", document)
        draw(RESULTS / "scaling.png", models(measured, plan.settings))
        print(f"written to {RESULTS}/scaling.json and .png")


if __name__ == "__main__":
    main()
