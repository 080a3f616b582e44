"""Measures how fast our loop and meta-iteration are compared with ``mj_step`` alone.

``python benchmarks/throughput.py [--quick]`` measures, for HalfCheetah and Ant with 20 tasks x 20
episodes x 100 steps, in one run and with interleaved repeats:

* ``raw_1`` / ``raw_all``: one ``MjData`` under ``mj_step``, on one core / on all cores at once
* ``loop``: sampling as the workers do it, on one core: physics, policy, noise, storage
* ``reference.loop``: the sampling of public MAML code on one core: a Gymnasium ``SyncVectorEnv``,
  one ``nn.Module`` for each task, ``torch.distributions.Normal``, task after task
* ``reference.PRESET``: a whole meta-iteration on that sampling, the preset's work in the plainest
  form: K = 1, 5 epochs, exact meta-gradients (of the gates too), task after task, no baseline
* ``iteration.PRESET``: whole meta-iterations (the preset with K = 1 and 5 epochs, exact) with one
  Ray worker for each core; and, for HalfCheetah, their time with 10 to 160 tasks
* ``preset.PRESET``: whole meta-iterations of the preset as it is used by default, with its own K,
  epochs, KL guard, tasks and episodes, and one Ray worker for each core

Ant's own horizon is 200; its episodes are cut to 100 steps here, in all processes and quantities
but ``preset.PRESET``.

Rates are given per second of the clock and per second of processor time. A fraction compares
measurements of the same repeat, so that other work on the machine affects both sides equally; the
result is the median over repeats. Writes ``results/throughput.json`` and every measurement to
``results/throughput.csv``.
"""

from __future__ import annotations

import argparse
import copy
import gc
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import mujoco
import numpy as np
import torch
from common import RESULTS, provenance, write_csv, write_json
from rich.console import Console
from rich.table import Table

from warprl import params as P
from warprl.agents.inner import Shard
from warprl.agents.policy import Policy
from warprl.agents.presets import PRESETS
from warprl.agents.rollout import collect
from warprl.envs import make_family
from warprl.envs.physics import load_model, quiet_compiler
from warprl.envs.robots.locomotion import LocomotionFamily
from warprl.seeding import generator
from warprl.types import Params

FAMILIES = ("half-cheetah-dir-v1", "ant-dir-v1")
GYMNASIUM: dict[str, tuple[str, dict[str, Any]]] = {
    "half-cheetah-dir-v1": ("HalfCheetah-v5", {}),
    "ant-dir-v1": ("Ant-v5", {"include_cfrc_ext_in_observation": False}),
}
METHODS = ("warpgrad", "promp")
DEFAULT = "warpgrad"  # the preset that is measured as it is used by default
TASKS, EPISODES, HORIZON = 20, 20, 100
GROWTH = (10, 20, 40, 80, 160)
CORES = len(os.sched_getaffinity(0))
# (quantity, compared with): the smallest ratio that is required, and the families that must reach
# it. On one core, no sampler can be faster than the raw physics.
REQUIRED: dict[tuple[str, str], tuple[float, Sequence[str]]] = {
    ("loop", "raw_1"): (0.85, FAMILIES),
    ("iteration.warpgrad", "raw_all"): (0.55, FAMILIES[:1]),
    ("iteration.promp", "raw_all"): (0.55, FAMILIES[:1]),
    (f"preset.{DEFAULT}", "raw_all"): (0.50, FAMILIES[:1]),
    ("iteration.warpgrad", "reference.warpgrad"): (2.5, FAMILIES),
    ("iteration.promp", "reference.promp"): (2.5, FAMILIES),
    ("iteration.warpgrad", "reference.loop"): (0.0, ()),
    ("iteration.promp", "reference.loop"): (0.0, ()),
    ("loop", "reference.loop"): (0.0, ()),
    ("raw_1", "reference.loop"): (0.0, ()),
}


@dataclass(frozen=True)
class Sample:
    """One measurement. ``cpu_s`` is the processor time of all processes that took part."""

    family: str
    quantity: str
    repeat: int
    steps: int
    wall_s: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.wall_s

    @property
    def cpu_rate(self) -> float:
        """Environment steps per second of processor time."""
        return self.steps / self.cpu_s


@dataclass(frozen=True)
class Ratio:
    """The ratio of two quantities: medians over the repeats in which both were measured."""

    quantity: str
    against: str
    wall: float
    cpu: float
    lowest: float
    highest: float
    repeats: int


def ratio(samples: Sequence[Sample], quantity: str, against: str) -> Ratio:
    """Compare the rates of two quantities of one family, repeat by repeat.

    Raises ValueError if no repeat has both.
    """
    left, right = ({s.repeat: s for s in samples if s.quantity == q} for q in (quantity, against))
    both = sorted(left.keys() & right.keys())
    if not both:
        raise ValueError(f"no repeat has both {quantity!r} and {against!r}")
    wall = [left[r].rate / right[r].rate for r in both]
    cpu = [left[r].cpu_rate / right[r].cpu_rate for r in both]
    return Ratio(
        quantity, against, statistics.median(wall), statistics.median(cpu), min(wall), max(wall),
        len(both),
    )  # fmt: skip


def linear_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Least squares ``y = offset + slope * x``, with the coefficient of determination."""
    slope, offset = np.polyfit(x, y, 1)
    residual = np.asarray(y) - (offset + slope * np.asarray(x))
    spread = np.asarray(y) - np.mean(y)
    return float(offset), float(slope), float(1.0 - (residual @ residual) / (spread @ spread))


# --- what is measured on one core; each runs in a process of its own -----------------------------


def with_horizon(name: str, horizon: int = HORIZON) -> LocomotionFamily:
    """The family, with episodes of so many steps in this process, whatever its own horizon is."""
    family = make_family(name)
    assert isinstance(family, LocomotionFamily)
    family.horizon = horizon
    return family


class Measured(NamedTuple):
    """Environment steps, and the seconds of clock and of processor time that they took."""

    steps: int
    wall_s: float
    cpu_s: float


class Stopwatch:
    """Clock and processor time of this process since it was made."""

    def __init__(self) -> None:
        """Start, after collecting the garbage of earlier measurements."""
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def measured(self, steps: int) -> Measured:
        """What these steps took."""
        return Measured(steps, time.perf_counter() - self._wall, time.process_time() - self._cpu)


def raw(name: str, steps: int, seed: int) -> Measured:
    """``mj_step`` alone: the reset noise of the family, and the controls of an untrained policy."""
    family = with_horizon(name)
    model = load_model(family.model_file)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(seed)
    low, high = model.actuator_ctrlrange.T
    controls = (rng.standard_normal((steps, model.nu)) / family.action_scale).clip(low, high)
    scale, watch = family.reset_noise, Stopwatch()
    for step, control in enumerate(controls):
        if step % HORIZON == 0:
            mujoco.mj_resetData(model, data)
            data.qpos += rng.uniform(-scale, scale, model.nq)
            data.qvel += scale * rng.standard_normal(model.nv)
            mujoco.mj_forward(model, data)
        data.ctrl[:] = control
        mujoco.mj_step(model, data, family.frame_skip)
    return watch.measured(steps)


def loop(name: str, seed: int) -> Measured:
    """Our sampling of all tasks at once, with the ``warpgrad`` policy."""
    family = with_horizon(name)
    policy = make_policy(family)
    theta, phi = policy.init(generator(seed, "init"))
    env = family.make_batch(TASKS * EPISODES)
    tasks = family.sample_tasks(generator(seed, "tasks"), TASKS)
    stacked = P.tree_map(torch.clone, P.broadcast(theta, TASKS))
    watch = Stopwatch()
    draws = Shard(tasks, range(TASKS), seed, 0).draws(0)
    collect(env, policy, stacked, phi, draws)
    return watch.measured(TASKS * EPISODES * HORIZON)


def reference_loop(name: str, seed: int) -> Measured:
    """The plain loop: task after task, each with its own module on one vector environment."""
    env, policy = reference_setting(name, seed, gated=False)
    modules = [copy.deepcopy(policy) for _ in range(TASKS)]
    watch = Stopwatch()
    for task, module in enumerate(modules):
        env.set_attr("direction", (-1.0) ** task)
        reference_episodes(env, module, seed + task)
    measured = watch.measured(TASKS * EPISODES * HORIZON)
    env.close()
    return measured


def reference_iteration(name: str, agent: str, seed: int) -> Measured:
    """A meta-iteration with the plain loop: sample, adapt, sample again; then 5 meta-steps."""
    env, policy = reference_setting(name, seed, gated=PRESETS[agent].policy.warp == "gate")
    adam = torch.optim.Adam(policy.parameters(), 1e-3)
    watch = Stopwatch()
    data = []
    for task in range(TASKS):
        env.set_attr("direction", (-1.0) ** task)
        before = reference_episodes(env, policy, seed + task)
        module = copy.deepcopy(policy)
        module.load_state_dict(reference_step(policy, before))
        data.append((before, reference_episodes(env, module, seed + task)))
    for _ in range(5):
        adam.zero_grad()
        for before, after in data:
            ratio = reference_ratio(policy, reference_step(policy, before), after)
            weight = reference_advantage(after)
            clipped = torch.minimum(ratio * weight, ratio.clamp(0.7, 1.3) * weight)
            torch.autograd.backward(-clipped.mean() / TASKS)
        adam.step()
    measured = watch.measured(2 * TASKS * EPISODES * HORIZON)
    env.close()
    return measured


def reference_setting(
    name: str, seed: int, gated: bool
) -> tuple[gym.vector.SyncVectorEnv, ReferencePolicy]:
    """Environments for one task, stepped one after the other, and a fresh policy."""
    identifier, options = GYMNASIUM[name]
    scale = with_horizon(name).action_scale
    with quiet_compiler():
        env = gym.vector.SyncVectorEnv(
            [lambda: DirectionEnv(gym.make(identifier, **options), scale)] * EPISODES
        )
    observation_space, action_space = env.single_observation_space, env.single_action_space
    assert observation_space.shape and action_space.shape
    torch.manual_seed(seed)
    return env, ReferencePolicy(observation_space.shape[0], action_space.shape[0], gated)


def reference_step(policy: ReferencePolicy, episodes: list[torch.Tensor]) -> Params:
    """The policy's parameters after one differentiable inner step of size 0.1; gates stay."""
    params: Params = dict(policy.named_parameters())
    loss = -(reference_ratio(policy, params, episodes) * reference_advantage(episodes)).mean()
    adapted = {n: p for n, p in params.items() if not n.startswith("gates.")}
    gradients = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
    stepped = zip(adapted.items(), gradients, strict=True)
    return params | {n: p - 0.1 * g for (n, p), g in stepped}


def reference_ratio(
    policy: ReferencePolicy, params: Params, episodes: list[torch.Tensor]
) -> torch.Tensor:
    """Likelihood ratios ``[H, E]`` of other parameters to those that drew the episodes."""
    obs, action, log_prob, _ = episodes
    distribution = torch.func.functional_call(policy, params, (obs,))
    return torch.exp(distribution.log_prob(action).sum(-1) - log_prob)


def reference_advantage(episodes: list[torch.Tensor]) -> torch.Tensor:
    """Rewards to go ``[H, E]``, normalised."""
    to_go = episodes[3].flip(0).cumsum(0).flip(0)
    return (to_go - to_go.mean()) / (to_go.std() + 1e-8)


class DirectionEnv(gym.Wrapper[Any, Any, Any, Any]):
    """One task of an environment: the action scaled, the reward replaced."""

    def __init__(self, env: gym.Env[Any, Any], action_scale: float) -> None:
        """Start with the forward direction."""
        super().__init__(env)
        self.direction = 1.0
        self.action_scale = action_scale

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Reward ``d * v_x - 0.05 sum(u^2)``."""
        control = np.clip(action / self.action_scale, -1.0, 1.0)
        observation, _, terminated, truncated, info = self.env.step(control)
        reward = self.direction * info["x_velocity"] - 0.05 * float(np.square(control).sum())
        return observation, reward, terminated, truncated, info


class ReferencePolicy(torch.nn.Module):
    """The usual policy: two hidden layers and a learned log standard deviation, gated or not.

    The initialisation is torch's own; it makes no difference to speed.
    """

    def __init__(self, obs_dim: int, act_dim: int, gated: bool) -> None:
        """Two hidden layers of 64."""
        super().__init__()
        self.layers = torch.nn.ModuleList(
            [torch.nn.Linear(obs_dim, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, act_dim)]
        )
        self.gates = torch.nn.ModuleList([torch.nn.Linear(64, 64) for _ in range(2 * gated)])
        self.log_std = torch.nn.Parameter(torch.zeros(act_dim))

    def forward(self, obs: torch.Tensor) -> torch.distributions.Normal:
        """The distribution over actions."""
        x = obs
        for number, layer in enumerate(self.layers[:-1]):
            x = torch.tanh(layer(x))
            if self.gates:
                x = x * (1.0 + torch.tanh(self.gates[number](x)))
        return torch.distributions.Normal(self.layers[-1](x), self.log_std.exp())


def reference_episodes(
    env: gym.vector.VectorEnv[Any, Any, Any], policy: ReferencePolicy, seed: int
) -> list[torch.Tensor]:
    """One batch of episodes: observations, actions, log-probabilities and rewards, stacked."""
    storage: list[list[torch.Tensor]] = [[], [], [], []]
    observation, _ = env.reset(seed=seed)
    for _ in range(HORIZON):
        with torch.no_grad():
            obs = torch.as_tensor(observation, dtype=torch.float32)
            distribution = policy(obs)
            action = distribution.sample()
            log_prob = distribution.log_prob(action).sum(-1)
        observation, gained, _, _, _ = env.step(action.numpy())
        reward = torch.as_tensor(gained, dtype=torch.float32)
        for kept, new in zip(storage, (obs, action, log_prob, reward), strict=True):
            kept.append(new)
    return [torch.stack(kept) for kept in storage]


def make_policy(family: LocomotionFamily) -> Policy:
    """The ``warpgrad`` preset's policy for a family."""
    config = PRESETS["warpgrad"].policy
    return Policy.for_spaces(family.spaces, config)


# --- the whole meta-iteration, through Ray --------------------------------------------------------


class Trainer:
    """A run with one Ray worker a core, and what it costs."""

    def __init__(self, name: str, agent: str, settings: Sequence[str], horizon: int) -> None:
        """Start the workers and run one meta-iteration to warm everything up."""
        from warprl.launch.runs.config import resolve
        from warprl.launch.training.loop import Progress, experiment_of, iterations
        from warprl.launch.training.ray_sampler import RaySampler

        config = resolve(name, agent, {"workers": CORES, "seed": 1}, settings)
        experiment = experiment_of(config)
        self.name, self.horizon = name, horizon
        self.sampler = RaySampler(experiment, name, config.compute)
        self._each(lambda worker: with_horizon(name, horizon))
        self._iterations = iterations(experiment, self.sampler, Progress.begin(experiment))
        self.metrics = self._train()

    def measure(self) -> Measured:
        """One meta-iteration: steps, seconds, processor seconds of driver and workers."""
        gc.collect()
        before, cpu = self.metrics["env_steps"], self._cpu()
        began = time.perf_counter()
        self.metrics = self._train()
        wall = time.perf_counter() - began
        return Measured(self.metrics["env_steps"] - before, wall, self._cpu() - cpu)

    def memory(self) -> dict[str, float]:
        """Peak resident memory of the largest worker and of the driver so far, MiB."""
        return {"worker_mib": max(self._each(lambda _: peak_mib())), "driver_mib": peak_mib()}

    def stop(self) -> None:
        """End the workers; Ray itself stays."""
        self.sampler.stop()

    def _train(self) -> dict[str, Any]:
        with_horizon(self.name, self.horizon)  # which trainers here share, and steps are counted by
        return next(self._iterations)[1]

    def _cpu(self) -> float:
        workers: list[float] = self._each(lambda _: time.process_time())
        return time.process_time() + sum(workers)

    def _each(self, function: Callable[[Any], Any]) -> list[Any]:
        import ray

        answers: list[Any] = ray.get(
            [actor.__ray_call__.remote(function) for actor in self.sampler.crew.actors]
        )
        return answers


def one_step(tasks: int) -> list[str]:
    """The settings of ``iteration.PRESET``."""
    return [
        f"tasks={tasks}",
        f"adaptation.episodes={EPISODES}",
        "adaptation.steps=1",
        "outer.epochs=5",
        "outer.minibatches=1",
        "outer.kl_limit=1e9",  # so that no epoch is left out
    ]


def peak_mib() -> float:
    """Peak resident memory of this process, MiB; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the run --------------------------------------------------------------------------------------


def single_core() -> None:
    """Initialise a measuring process."""
    torch.set_num_threads(1)


def raw_all(cores: Sequence[Executor], name: str, steps: int, seed: int) -> Measured:
    """The raw limit of all cores: the same work on each at once, until the slowest is done."""
    jobs = [core.submit(raw, name, steps, seed + i) for i, core in enumerate(cores)]
    parts = [job.result() for job in jobs]
    return Measured(
        sum(p.steps for p in parts), max(p.wall_s for p in parts), sum(p.cpu_s for p in parts)
    )


def measure_family(
    name: str, repeats: int, raw_steps: int, cores: Sequence[Executor], console: Console
) -> tuple[list[Sample], dict[str, Any]]:
    """All quantities of one family, ``repeats`` times each in turn."""
    from warprl.launch.cluster.connection import connect

    # The workers of all trainers are there at once, and wait in turn.
    own = make_family(name).horizon
    connect(CORES * (len(METHODS) + 1))
    trainers = {
        f"iteration.{agent}": Trainer(name, agent, one_step(TASKS), HORIZON) for agent in METHODS
    } | {f"preset.{DEFAULT}": Trainer(name, DEFAULT, (), own)}
    samples: list[Sample] = []

    def take(quantity: str, repeat: int, measurement: Measured) -> None:
        samples.append(Sample(name, quantity, repeat, *measurement))
        console.print(f"  {repeat} {quantity:<20} {samples[-1].rate:>10,.0f} steps/s")

    first = cores[0]
    for repeat in range(repeats):
        console.print(f"{name}, repeat {repeat + 1} of {repeats}", highlight=False)
        take("raw_1", repeat, first.submit(raw, name, raw_steps, repeat).result())
        take("loop", repeat, first.submit(loop, name, repeat).result())
        take("reference.loop", repeat, first.submit(reference_loop, name, repeat).result())
        for agent in METHODS:
            whole = first.submit(reference_iteration, name, agent, repeat).result()
            take(f"reference.{agent}", repeat, whole)
        parts = []
        for quantity, trainer in trainers.items():
            parts.append(raw_all(cores, name, raw_steps, repeat))
            take(quantity, repeat, trainer.measure())
        parts.append(raw_all(cores, name, raw_steps, repeat))
        # Before, between and after the meta-iterations: the limit that they had in this repeat.
        take("raw_all", repeat, Measured(*map(sum, zip(*parts, strict=True))))
    about = {quantity: about_trainer(trainer) for quantity, trainer in trainers.items()}
    for trainer in trainers.values():
        trainer.stop()
    return samples, about


def about_trainer(trainer: Trainer) -> dict[str, Any]:
    """Memory, and of the last meta-iteration the outer steps and where its time went."""
    times = {k: round(v, 4) for k, v in trainer.metrics.items() if k.startswith("time.")}
    memory = {k: round(v) for k, v in trainer.memory().items()}
    return {**memory, "meta_steps": round(trainer.metrics["meta_steps"]), **times}


def measure_growth(name: str, repeats: int, console: Console) -> dict[str, Any]:
    """Seconds of a meta-iteration, and memory, against the number of tasks."""
    rows = []
    for tasks in GROWTH:
        trainer = Trainer(name, METHODS[0], one_step(tasks), HORIZON)
        seconds, cpu = [], []
        for _ in range(repeats):
            _, wall_s, cpu_s = trainer.measure()
            seconds.append(wall_s)
            cpu.append(cpu_s)
        row = {"tasks": tasks, "wall_s": round(statistics.median(seconds), 3),
               "cpu_s": round(statistics.median(cpu), 3), **about_trainer(trainer)}  # fmt: skip
        console.print(f"  {tasks} tasks: {row['wall_s']} s", highlight=False)
        rows.append(row)
        trainer.stop()
    fits = {}
    for key in ("wall_s", "cpu_s"):
        offset, slope, r2 = linear_fit(GROWTH, [row[key] for row in rows])
        fits[key] = {"offset": round(offset, 4), "per_task": round(slope, 5), "r2": round(r2, 4)}
    fit = fits["cpu_s"]
    console.print(
        f"  CPU: {fit['offset']} + {fit['per_task']} s a task, R2 {fit['r2']}", highlight=False
    )
    return {"family": name, "agent": METHODS[0], "rows": rows, "fit": fits}


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Median rates of one family, and its ratios beside the required ones."""
    family = samples[0].family
    quantities = list(dict.fromkeys(s.quantity for s in samples))
    rates = {
        q: {
            "steps_per_s": round(statistics.median(s.rate for s in samples if s.quantity == q)),
            "steps_per_cpu_s": round(
                statistics.median(s.cpu_rate for s in samples if s.quantity == q)
            ),
        }
        for q in quantities
    }
    ratios = []
    for (quantity, against), (least, families) in REQUIRED.items():
        found = asdict(ratio(samples, quantity, against))
        rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
        ratios.append(rounded | {"required": least if family in families else None})
    return {"rates": rates, "ratios": ratios}


def show(family: str, summary: dict[str, Any], console: Console) -> None:
    """Print the tables of one family."""
    rates = Table("", "steps/s", "steps/CPU-s", title=f"{family}: medians")
    for quantity, rate in summary["rates"].items():
        rates.add_row(quantity, f"{rate['steps_per_s']:,}", f"{rate['steps_per_cpu_s']:,}")
    ratios = Table("ratio", "clock", "lowest", "highest", "CPU", "required", title=family)
    for r in summary["ratios"]:
        ratios.add_row(
            f"{r['quantity']} / {r['against']}", f"{r['wall']:.2f}", f"{r['lowest']:.2f}",
            f"{r['highest']:.2f}", f"{r['cpu']:.2f}", f"{r['required'] or ''}",
        )  # fmt: skip
    console.print(rates, ratios)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats; HalfCheetah only")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--repeats", type=int, help="default: 5, quick 3")
    parser.add_argument("--no-growth", action="store_true", help="leave out 10 to 160 tasks")
    options = parser.parse_args()
    families = FAMILIES[:1] if options.quick else options.families
    repeats = options.repeats or (3 if options.quick else 5)
    console = Console()
    began, load = time.perf_counter(), os.getloadavg()[0]
    samples: list[Sample] = []
    document: dict[str, Any] = {
        **provenance(),
        "setting": {"tasks": TASKS, "episodes": EPISODES, "horizon": HORIZON, "repeats": repeats},
        "families": {},
    }
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        cores = [
            stack.enter_context(ProcessPoolExecutor(1, spawn, single_core)) for _ in range(CORES)
        ]
        for name in families:
            raw_steps = 40_000 if name == FAMILIES[0] else 10_000
            taken, about = measure_family(name, repeats, raw_steps, cores, console)
            samples += taken
            document["families"][name] = summarise(taken) | {"iterations": about}
    if not (options.quick or options.no_growth):
        document["growth"] = measure_growth(FAMILIES[0], 3, console)
    document["load_average_before"] = round(load, 2)
    document["seconds"] = round(time.perf_counter() - began)
    for name, summary in document["families"].items():
        show(name, summary, console)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / "throughput.json", document)
    write_csv(RESULTS / "throughput.csv", [asdict(sample) for sample in samples])
    console.print(f"written to {RESULTS}/throughput.json and .csv", highlight=False)


if __name__ == "__main__":
    main()
