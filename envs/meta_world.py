"""Meta-World's meta-learning benchmarks as families: ``ml1-<task>``, ``ml10`` and ``ml45``.

The package metaworld is optional: :mod:`warprl.envs.registry` imports this module when it looks up
one of these names. Building a benchmark takes up to a minute. A worker needs none, since a task
holds the numbers that Meta-World calls a random vector: only drawing tasks builds the benchmark.
"""

from __future__ import annotations

import functools
import pickle
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import gymnasium
import metaworld
import mujoco
import numpy as np
from gymnasium.spaces import Box
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, ML10_V3, ML45_V3
from numpy.typing import NDArray

from warprl.envs.family import Definition
from warprl.envs.gym_family import Env, GymFamily
from warprl.envs.splits import Split
from warprl.envs.tasks import is_finite_number
from warprl.types import Floats, Task

SEED = 2026  # of the goals; another seed would be another family
HORIZON = 500
_ENV_ID = "warprl/MetaWorldTable-v0"
GOALS = 50  # for each environment, in training and in testing
_NAMES = list(ALL_V3_ENVIRONMENTS)  # a position in this list is Meta-World's own task id
_PARTS = {"ml10": ML10_V3, "ml45": ML45_V3}
# The newest environments that no table uses: one takes 0.2 s to make, and 23 MB of memory.
_IDLE: deque[tuple[str, Any]] = deque(maxlen=64)

Observation = Floats


@dataclass(frozen=True)
class Variation(Task):
    """One environment of Meta-World, by its task id, with one of its random vectors.

    The vector holds the place of the goal, in m; in most environments, the place at which the
    object starts comes first.
    """

    env: int
    vector: tuple[float, ...]


@dataclass(frozen=True)
class Variations(Split):
    """A benchmark's own training and test tasks, which are built when they are first needed."""

    benchmark: str
    task_type = Variation

    @property
    def classes(self) -> tuple[list[str], list[str]]:
        """The environments to train on and to test on."""
        if self.benchmark in _PARTS:
            parts = _PARTS[self.benchmark]
            return list(parts["train"]), list(parts["test"])
        return [self.benchmark], [self.benchmark]

    @property
    def size(self) -> int:
        """D, with the longest vector: vectors of different environments differ in length."""
        return 1 + max(len(task.vector) for tasks in _build(self.benchmark) for task in tasks)

    @property
    def text(self) -> str:
        """What the definition card says about the tasks for training."""
        train, _ = self.classes
        often = ", every environment as often as any other" if len(train) > 1 else ""
        return (
            f"Meta-World's training tasks: {GOALS} hidden goals of {_listed(train)}{often}; "
            f"seed {SEED}"
        )

    @property
    def held_out(self) -> Sequence[Task]:
        """The benchmark's test tasks."""
        return _build(self.benchmark)[1]

    @property
    def held_out_text(self) -> str:
        """What the definition card says about the tasks for evaluation."""
        _, test = self.classes
        return f"Meta-World's test tasks: {GOALS} other hidden goals of {_listed(test)}"

    def all_tasks(self) -> list[Task]:
        """The benchmark's training tasks."""
        return list(_build(self.benchmark)[0])

    def sample(self, rng: np.random.Generator, n: int) -> list[Task]:
        """Draw training tasks: the environments in turn, and the goals of each in turn.

        Args:
            rng: draws the order of the environments and of their goals.
            n: how many to draw.

        Returns:
            The n tasks.
        """
        train, _ = self.classes
        rounds = [rng.permutation(len(train)) for _ in range(-(-n // len(train)))]
        position = np.concatenate(rounds)[:n]
        goal = np.zeros(n, dtype=np.int64)
        for env in range(len(train)):
            mine = position == env
            goal[mine] = np.resize(rng.permutation(GOALS), mine.sum())
        tasks = self.all_tasks()
        return [tasks[i] for i in position * GOALS + goal]

    def check(self, task: Task) -> None:
        """Raise ValueError unless it is one of the benchmark's tasks."""
        train, test = _build(self.benchmark)
        if task not in train + test:
            raise ValueError(f"{task} is not one of Meta-World's tasks under seed {SEED}")

    def parse_field(self, name: str, value: Any) -> Any:
        """Read a task id, or a vector of finite numbers; see the base class."""
        if name == "env":
            return int(super().parse_field(name, value))
        if not isinstance(value, list | tuple) or not all(map(is_finite_number, value)):
            raise ValueError(f"task field {name!r} must be a list of finite numbers, got {value!r}")
        return tuple(map(float, value))


def meta_world_names() -> list[str]:
    """The names of all benchmarks: ``ml10``, ``ml45`` and ``ml1-<task>`` for each task."""
    return [*_PARTS, *(f"ml1-{task}" for task in _NAMES)]


class MetaWorld(GymFamily[Variation]):
    """A benchmark of Meta-World; its goals are hidden."""

    distribution: Variations

    def __init__(self, name: str) -> None:
        """Name the benchmark.

        Args:
            name: one of :func:`meta_world_names`.
        """
        benchmark = Variations(name.removeprefix("ml1-"))
        super().__init__(name, _ENV_ID, benchmark, Table.arrange, HORIZON)

    def definition(self) -> Definition:
        """The definition card."""
        return replace(
            super().definition(),
            reward="Meta-World's v2, its default: dense, between 0 and 10 a step",
            observation="Meta-World's (39): hand, gripper and objects now and one step before; "
            "zeros in place of the goal",
            action="Meta-World's (4): displacement of the hand, 1 is 1 cm, and force of the "
            "gripper; the policy's output clipped to [-1, 1]",
            initial_state="set by the task; no noise",
            termination="never, a success included; the horizon truncates",
            physics=f"Meta-World {version('metaworld')} on mujoco {mujoco.__version__}, stepped "
            "one by one",
            differences="none; Meta-World's v1 rewards and other seeds of the goals give other "
            "returns",
            source="Meta-World (Yu et al., CoRL 2019) and Meta-World+ (2025), the v3 environments",
        )

    def make_test_envs(self) -> Any:
        """Make Meta-World's own test environments, one of each test class, for its evaluator.

        A function makes them, not the id that Meta-World registers, because the id for training on
        one environment gives test tasks (its pull request 573).

        Returns:
            A Gymnasium vector environment.
        """
        benchmark = self.distribution.benchmark
        name = benchmark.upper() if benchmark in _PARTS else benchmark
        _, test = self.distribution.classes
        return metaworld.make_ml_envs_test(name, seed=SEED, meta_batch_size=len(test))


class Table(gymnasium.Env[Observation, NDArray[np.float32]]):
    """The environment of Meta-World that the task names."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}
    frame_skip = 5

    def __init__(self, render_mode: str | None = None) -> None:
        """Make no environment before the first task."""
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces()
        self._name = ""
        self._env: Any = None

    @staticmethod
    def arrange(env: Env, task: Variation) -> None:
        """Put a task into a wrapped table.

        Args:
            env: the table, in wrappers.
            task: the environment and the goal.
        """
        table: Any = env.unwrapped
        table.set_task(task)

    def set_task(self, task: Variation) -> None:
        """Change to the task's environment, if it is another one, and set the goal."""
        name = _NAMES[task.env]
        if name != self._name:
            self.close()
            idle = None if self.render_mode else _reuse(name)
            self._env = idle or _make(name, self.render_mode)
            self._name = name
        self._env.set_task(to_meta_world(task))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode as Gymnasium does; the task fixes all of it, so nothing is seeded."""
        observation, info = self._env.reset()
        return observation, info

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance by one step, as Gymnasium does."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, float(reward), terminated, truncated, info

    def render(self) -> Any:
        """The table from a corner, turned, because Meta-World's cameras hang upside down."""
        return np.rot90(self._env.render(), 2)

    def close(self) -> None:
        """Leave the environment to other tables, or close it if it draws."""
        if self._env is not None and self.render_mode is None:
            _IDLE.append((self._name, self._env))
        elif self._env is not None:
            self._env.close()
        self._env, self._name = None, ""

    @property
    def data(self) -> mujoco.MjData:
        """The simulation, in which to look for MuJoCo's warnings."""
        return self._env.data


def to_meta_world(task: Variation) -> metaworld.Task:
    """The task in Meta-World's own form."""
    name = _NAMES[task.env]
    values = {
        "rand_vec": np.array(task.vector),
        "env_cls": ALL_V3_ENVIRONMENTS[name],
        "partially_observable": True,
    }
    return metaworld.Task(env_name=name, data=pickle.dumps(values))


def _from_meta_world(task: metaworld.Task) -> Variation:
    vector = pickle.loads(task.data)["rand_vec"]  # safe: this process pickled it
    return Variation(_NAMES.index(task.env_name), tuple(vector.tolist()))


@functools.cache
def _build(name: str) -> tuple[list[Variation], list[Variation]]:
    """The training and test tasks of a benchmark; takes 2 s for one environment, 40 s for ML45."""
    if name in _PARTS:
        benchmark = getattr(metaworld, name.upper())(seed=SEED)
    else:
        benchmark = metaworld.ML1(name, seed=SEED)
    return (
        [_from_meta_world(task) for task in benchmark.train_tasks],
        [_from_meta_world(task) for task in benchmark.test_tasks],
    )


def _reuse(name: str) -> Any:
    """An environment of this name that no table uses now, if there is one."""
    for position, (other, env) in enumerate(_IDLE):
        if other == name:
            del _IDLE[position]
            return env
    return None


def _make(name: str, render_mode: str | None) -> Any:
    return ALL_V3_ENVIRONMENTS[name](render_mode=render_mode, camera_name="corner2")


@functools.cache
def _spaces() -> tuple[Box, Box]:
    """Observation and action space, which all of Meta-World's environments share."""
    env = _make(_NAMES[0], None)
    return env.observation_space, env.action_space


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {', '.join(names)}"


gymnasium.register(id=_ENV_ID, entry_point="warprl.envs.meta_world:Table")
