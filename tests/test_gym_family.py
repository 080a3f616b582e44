"""Families of registered Gymnasium environments, and how the user's own are found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg  # type: ignore[import-untyped]
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiDiscrete
from gymnasium.spaces.utils import flatten
from gymnasium.vector import SyncVectorEnv
from helpers_gym import CART, Push, push
from helpers_launch import fabricate

from warprl.envs import GymFamily, UnknownFamily, make_family
from warprl.envs.splits import Listed
from warprl.envs.vector import FamilyEnv, FamilyVectorEnv
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.evaluation import render
from warprl.seeding import generator
from warprl.types import Task

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = "my_family:FAMILY"


@dataclass(frozen=True)
class Speed(Task):
    speed: float


class Walk(gymnasium.Env[dict[str, Any], Any]):
    """Four numbers that the action moves, as fast as the task says; drawn as a shade of grey."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = Dict({"place": Box(-np.inf, np.inf, (2, 2)), "side": Discrete(2)})
    action_space = Box(-0.5, 0.5, (2, 2), np.float64)
    speed = 0.0

    def __init__(self, render_mode: str | None = None, patience: int | None = None) -> None:
        self.render_mode = render_mode
        self.patience = patience

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.place = self.np_random.uniform(-1, 1, (2, 2))
        return self.seen(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        self.place += self.speed * action
        ended = bool(abs(self.place).max() > 2)
        return self.seen(), -abs(self.place).sum(), ended, self.steps == self.patience, {}

    def seen(self) -> dict[str, Any]:
        return {"place": self.place.astype(np.float32), "side": int(self.place[0, 0] > 0)}

    def render(self) -> Any:
        return np.full((4, 8, 3), 20 * self.steps, np.uint8)


def registered(name: str, **changes: Any) -> str:
    """The id of a Walk whose class attributes and arguments are these."""
    arguments = {key: changes.pop(key) for key in ("patience",) if key in changes}
    made: Any = type(name, (Walk,), changes)
    gymnasium.register(f"{name}-v0", entry_point=made, kwargs=arguments)
    return f"{name}-v0"


def draw(rng: np.random.Generator) -> Speed:
    return Speed(float(rng.uniform(0.5, 1.5)))


def set_speed(env: gymnasium.Env[Any, Any], task: Speed) -> None:
    env.unwrapped.speed = task.speed  # type: ignore[attr-defined]


WALK = GymFamily("walk-v1", registered("Walk"), draw, set_speed, horizon=12)
LISTED = GymFamily("two-walks-v1", "Walk-v0", [Speed(1), Speed(-1)], set_speed, horizon=12)
IMPATIENT = GymFamily("impatient-v1", registered("Impatient", patience=3), draw, set_speed, 12)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the search path with the module of docs/custom_family.md in it."""
    folder = tmp_path_factory.mktemp("home")
    page = (ROOT / "docs" / "custom_family.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (folder / "my_family.py").write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("my_family", None)


@pytest.fixture
def example(home: Path) -> GymFamily[Any]:
    family = make_family(EXAMPLE)
    assert isinstance(family, GymFamily)
    return family


def flat(observation: dict[str, Any]) -> Any:
    return flatten(Walk.observation_space, observation)


def generators(number: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(number)]


def test_the_documented_family_takes_at_most_twenty_lines(home: Path) -> None:
    lines = (home / "my_family.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 20


def test_a_batch_does_what_the_environment_does_stepped_by_hand(example: GymFamily[Any]) -> None:
    tasks = example.sample_tasks(generator(0, "tasks"), 2)
    batch = example.make_batch(4)
    actions = np.random.default_rng(5).normal(0, 3, (100, 4, 1)).astype(np.float32)
    for order in (tasks, tasks[::-1]):  # nothing is left of the first episodes in the second
        observation = batch.reset(order, generators(2))
        seeds = [int(s) for g in generators(2) for s in g.integers(2**31, size=2)]
        singles: list[Any] = [gymnasium.make("InvertedPendulum-v5") for _ in range(4)]
        for i, single in enumerate(singles):
            single.unwrapped.model.actuator_gear[0, 0] = asdict(order[i // 2])["gear"]
            assert np.array_equal(observation[i], single.reset(seed=seeds[i])[0])
        alive = np.ones(4, np.bool_)
        for action in actions:
            observation, reward, terminated = batch.step(action)
            assert np.isfinite(observation).all() and np.isfinite(reward).all()
            for i in np.flatnonzero(alive).tolist():
                by_hand = singles[i].step(np.clip(action[i], -3, 3))
                assert np.array_equal(observation[i], by_hand[0])
                assert (reward[i], terminated[i]) == by_hand[1:3]
            alive &= ~terminated
        assert not alive.any(), "they end, each at its own time"
        assert not batch.faults().any()


def test_spaces_are_flat_and_actions_fit_the_environment() -> None:
    assert WALK.action_space == Box(-0.5, 0.5, (4,), np.float32)
    batch, single = WALK.make_batch(1), Walk()
    single.speed = 0.75
    seed = int(np.random.default_rng(0).integers(2**31))
    first = batch.reset([Speed(0.75)], generators(1))
    assert np.array_equal(first[0], flat(single.reset(seed=seed)[0]))
    observation, reward, _ = batch.step(np.array([[0.25, 9.0, -9.0, 0.1]], np.float32))
    seen, gained, *_ = single.step(np.array([[0.25, 0.5], [-0.5, np.float32(0.1)]]))
    assert np.array_equal(observation[0], flat(seen))
    assert reward.tolist() == [gained]
    assert observation.shape == (1, *WALK.observation_space.shape) == (1, 6)
    assert observation.dtype == WALK.observation_space.dtype == np.float64


def test_episodes_depend_neither_on_neighbours_nor_on_what_these_do() -> None:
    tasks = WALK.sample_tasks(generator(1, "tasks"), 3)
    together, alone = WALK.make_batch(6), WALK.make_batch(2)
    alone.reset(tasks[:1], generators(3)[2:])
    alone.step(np.ones((2, 4), np.float32))
    first = together.reset(tasks, generators(3))
    assert np.array_equal(alone.reset(tasks[1:2], generators(3)[1:2]), first[2:4])
    actions = np.random.default_rng(3)
    for _ in range(WALK.horizon):
        action = actions.normal(size=(6, 4)).astype(np.float32)
        action[4:] = 0.5  # out of bounds soon: these start again and again
        for left, right in zip(together.step(action), alone.step(action[2:4]), strict=True):
            assert np.array_equal(left[2:4], right)


def test_the_horizon_truncates_and_terminates_nothing() -> None:
    env = FamilyEnv(f"{__name__}:WALK")
    for action, length, ended in ((0.0, WALK.horizon, False), (0.5, None, True)):
        env.reset(seed=0, options={"task": {"speed": 1.0}})
        flags = [(False, False)]
        while not any(flags[-1]):
            flags.append(env.step(np.full(4, action, np.float32))[2:4])
        assert flags[-1] == (ended, not ended)
        assert length is None or len(flags) - 1 == length


def test_the_vector_environment_does_what_single_ones_do() -> None:
    name = f"{__name__}:WALK"
    ours, theirs = FamilyVectorEnv(name, 3), SyncVectorEnv([lambda: FamilyEnv(name)] * 3)
    ours.action_space.seed(0)
    theirs_start: Any = theirs.reset(seed=5)
    assert np.array_equal(ours.reset(seed=5)[0], theirs_start[0])
    ends = np.zeros(3)
    for _ in range(40):
        action = np.abs(ours.action_space.sample())
        expected: Any = theirs.step(action)
        for left, right in zip(ours.step(action)[:4], expected[:4], strict=True):
            assert np.array_equal(left, right)
        ends += expected[2] | expected[3]
    assert ends.min() >= 2


def test_of_discrete_actions_the_environment_is_given_the_one_chosen() -> None:
    assert CART.action_space == Discrete(2)
    batch = CART.make_batch(2)
    observation = batch.reset([Push(10.0), Push(-10.0)], generators(2))
    choices = np.random.default_rng(5).integers(2, size=(60, 2))
    singles: list[Any] = [gymnasium.make("CartPole-v1") for _ in range(2)]
    for i, single in enumerate(singles):
        push(single, Push((10.0, -10.0)[i]))
        seed = int(generators(2)[i].integers(2**31))
        assert np.array_equal(observation[i], single.reset(seed=seed)[0])
    alive = np.ones(2, np.bool_)
    for choice in choices:
        observation, reward, terminated = batch.step(np.eye(2, dtype=np.float32)[choice])
        for i in np.flatnonzero(alive).tolist():
            by_hand = singles[i].step(choice[i])
            assert np.array_equal(observation[i], by_hand[0])
            assert (reward[i], terminated[i]) == by_hand[1:3]
        alive &= ~terminated
    assert not alive.any(), "they end, each at its own time"


def count(self: Walk, action: Any) -> Any:
    assert self.action_space.contains(action)
    self.steps += 1
    return int(action), float(action), False, False, {}


COUNTED = GymFamily(
    "counted-v1",
    registered(
        "Counted",
        action_space=Discrete(3, start=3),
        observation_space=Discrete(10),
        step=count,
        seen=lambda self: 0,
    ),
    draw,
    set_speed,
    horizon=12,
)


def test_discrete_actions_may_start_anywhere_and_discrete_observations_are_one_hot() -> None:
    batch = COUNTED.make_batch(3)
    batch.reset([Speed(1.0)], [np.random.default_rng(0)])
    observation, reward, _ = batch.step(np.eye(3, dtype=np.float32))
    assert reward.tolist() == [3.0, 4.0, 5.0]
    assert observation.argmax(axis=1).tolist() == [3, 4, 5]
    screen = COUNTED.screen(Speed(1.0), 16)
    assert screen.draw(batch.render_state(1))[8, 8].tolist() == [20, 20, 20]
    screen.close()


def test_a_family_with_discrete_actions_is_trained_evaluated_and_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, run = "helpers_gym:CART", str(tmp_path / "run")
    assert main(["envs", name]) == 0
    assert "CartPole-v1 (2 to choose from)" in capsys.readouterr().out
    tiny = ("tasks=2", "adaptation.episodes=2", "policy.hidden=[8]")
    settings = [part for setting in tiny for part in ("--set", setting)]
    start = ["train", name, "--iterations", "2", "--workers", "0", "--run", run, *settings]
    assert main(start) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--episodes", "2", "--steps", "1", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["family"], summary["tasks"]) == (name, 2)
    assert all(1 <= point["mean"] <= 60 for point in summary["curves"][0]["curve"])


def test_an_environment_that_truncates_before_the_horizon_is_an_error() -> None:
    batch = IMPATIENT.make_batch(1)
    batch.reset([Speed(1.0)], generators(1))
    still = np.zeros((1, 4), np.float32)
    batch.step(still)
    batch.step(still)
    with pytest.raises(RuntimeError, match="Impatient-v0 truncated an episode after 3 steps: give"):
        batch.step(still)


def test_what_went_wrong_in_the_physics_is_a_fault_until_the_next_episode(
    example: GymFamily[Any],
) -> None:
    wild, tame = (example.parse_task({"gear": gear}) for gear in (1e12, 100.0))
    batch = example.make_batch(2)
    batch.reset([wild, tame], generators(2))
    for _ in range(3):
        batch.step(np.full((2, 1), 0.1, np.float32))
    assert batch.faults().tolist() == [True, False]
    batch.reset([tame, tame], generators(2))
    batch.step(np.full((2, 1), 0.1, np.float32))
    assert batch.faults().tolist() == [False, False]
    walks = WALK.make_batch(2)
    walks.reset([Speed(np.inf), Speed(1.0)], generators(2))
    walks.step(np.full((2, 4), 0.1, np.float32))
    assert walks.faults().tolist() == [True, False]


def test_tasks_that_are_drawn_are_never_those_held_out() -> None:
    held_out = WALK.held_out_tasks()
    assert len(set(held_out)) == 40
    again = GymFamily("walk-v1", "Walk-v0", draw, set_speed, horizon=12)
    assert again.held_out_tasks() == held_out
    first = next(task for task in held_out)
    calls: list[Speed] = []

    def unlucky(rng: np.random.Generator) -> Speed:
        calls.append(Speed(asdict(first)["speed"]) if len(calls) == 42 else draw(rng))
        return calls[-1]

    family = GymFamily("walk-v1", "Walk-v0", unlucky, set_speed, horizon=12)
    tasks = family.sample_tasks(generator(0, "tasks"), 10)
    assert first in calls[41:]
    assert len(tasks) == 10 and not set(tasks) & set(family.held_out_tasks())


def test_tasks_of_a_list_come_as_often_as_each_other_in_random_order() -> None:
    assert LISTED.held_out_tasks() == [Speed(1.0), Speed(-1.0)]
    draws = [LISTED.sample_tasks(generator(seed, "tasks"), 21) for seed in range(5)]
    assert {drawn.count(Speed(1.0)) for drawn in draws} == {10, 11}
    assert len({tuple(drawn) for drawn in draws}) == 5
    assert LISTED.parse_task({"speed": 1}) == Speed(1.0)
    with pytest.raises(ValueError, match=r"^two-walks-v1: Speed\(speed=2.0\) is not one of the 2"):
        LISTED.parse_task({"speed": 2})


def test_held_out_tasks_that_are_given_are_evaluated_on_and_never_trained_on() -> None:
    listed = GymFamily(
        "split-v1", "Walk-v0", [Speed(1), Speed(-1)], set_speed, 12, held_out=[Speed(2), Speed(3)]
    )
    assert listed.held_out_tasks() == [Speed(2.0), Speed(3.0)]
    assert set(listed.sample_tasks(generator(0, "tasks"), 50)) == {Speed(1.0), Speed(-1.0)}
    assert listed.parse_task({"speed": 3}) == Speed(3.0)
    assert listed.definition().held_out == "2 others, given in a list"
    coin = iter([2.0, 2.0, 5.0, 2.0, 6.0])
    drawn = GymFamily(
        "coin-v1", "Walk-v0", lambda rng: Speed(next(coin)), set_speed, 12, held_out=[Speed(2)]
    )
    assert drawn.held_out_tasks() == [Speed(2.0)]
    assert drawn.sample_tasks(generator(0, "tasks"), 2) == [Speed(5.0), Speed(6.0)]
    assert drawn.definition().held_out.startswith("1 given in a list; a training draw that equals")


def test_the_card_of_a_family_of_ones_own(example: GymFamily[Any]) -> None:
    card = example.definition()
    assert (card.horizon, card.frame_skip, card.dt) == (100, 2, 0.04)
    assert card.tasks.startswith("|gear| ~ U[50, 150]"), "the docstring of what draws them"
    assert "40 draws under a fixed seed" in card.held_out
    assert "InvertedPendulum-v5" in card.render()
    assert WALK.definition().tasks == "drawn by draw"
    assert "all tasks" in LISTED.definition().held_out


def make(
    env_id: str = "Walk-v0", tasks: Any = draw, horizon: int | None = 5, held_out: Any = None
) -> Callable[[], object]:
    return lambda: GymFamily("mine-v1", env_id, tasks, set_speed, horizon, held_out)


GRAPH = registered("Graph", observation_space=Graph(Box(0, 1, (1,)), None))
WHOLE = registered("Whole", action_space=Box(0, 5, (1,), np.int64))
SEVERAL = registered("Several", action_space=MultiDiscrete([2, 3]))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (make(WHOLE), "the actions of Whole-v0 must be a Box of floats or Discrete, and are Box"),
        (make(SEVERAL), "the actions of Several-v0 must be a Box of floats or Discrete, and are M"),
        (make(GRAPH), "the observations of Graph-v0 must flatten into a Box, and are Graph"),
        (make(horizon=None), "Walk-v0 has no step limit: give a horizon"),
        (make(horizon=0), "the horizon must be at least 1, got 0"),
        (make(tasks=lambda rng: 1.0), "a task must be a frozen dataclass that derives from"),
        (make(tasks=lambda rng: Speed(1.0)), "40 draws hold only 1 different tasks: if there"),
        (make(tasks=lambda rng: Speed(np.nan)), "task field 'speed' must be a finite number"),
        (make(tasks=[]), "the list of tasks is empty"),
        (make(tasks=[Speed(1), Speed(1.0)]), "the list of tasks repeats one"),
        (make(tasks=[Speed(1), 2.0]), "a task must be a frozen dataclass"),
        (make(held_out=[]), "the list of held-out tasks is empty"),
        (make(held_out=[Speed(1), Speed(1.0)]), "the list of held-out tasks repeats one"),
        (make(held_out=[Speed(np.inf)]), "task field 'speed' must be a finite number"),
        (
            make(tasks=[Speed(1), Speed(2)], held_out=[Speed(3), Speed(2)]),
            r"Speed\(speed=2.0\) is on the list of tasks and held out as well",
        ),
        (make(tasks=Listed([Speed(1)]), held_out=[Speed(2)]), "Listed holds out its own tasks: gi"),
    ],
)
def test_a_family_that_cannot_be_is_refused_in_one_line(
    family: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^mine-v1: {message}") as error:
        family()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone:FAMILY", "no module 'gone' in the working directory or on PYTHONPATH"),
        ("my_family.gone:FAMILY", "no module 'my_family.gone' in the working directory or on"),
        ("my_family:FAMLY", "'FAMLY' of 'my_family' does not exist; its families: FAMILY"),
        ("my_family:wire", "'wire' of 'my_family' is a function; its families: FAMILY"),
        ("json:dumps", "'dumps' of 'json' is a function; it has no families"),
        ("needy:FAMILY", "needy imports 'gone', and there is no such module"),
        ("broken:FAMILY", "importing 'broken' failed with ZeroDivisionError: division by zero"),
        (
            "limitless:FAMILY",
            "importing 'limitless' failed with ValueError: mine: the horizon",
        ),
        (":FAMILY", "the form is package.module:FAMILY"),
        ("my_family:", "the form is package.module:FAMILY"),
        ("my family.py:FAMILY", "the form is package.module:FAMILY"),
    ],
)
def test_a_name_that_is_no_family_is_one_line_and_status_2(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    message: str,
) -> None:
    (home / "needy.py").write_text("import gone")
    (home / "broken.py").write_text("1 / 0")
    cart = "GymFamily('mine', 'CartPole-v1', print, print, horizon=0)"
    (home / "limitless.py").write_text(f"from warprl.envs import GymFamily\nFAMILY = {cart}")
    monkeypatch.syspath_prepend(str(home))  # and so the command's own entry goes afterwards
    for arguments in (["envs", name], ["config", name], ["train", name]):
        assert main(arguments) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith(f"warprl: no task family {name!r}: {message}")
        assert output.err.count("\n") == 1
    with pytest.raises(UnknownFamily):
        make_family(name)


JOURNEY = """
import json, os, sys
from warprl.launch.cli import main

tiny = ["--set", "tasks=2", "--set", "adaptation.episodes=2", "--set", "policy.hidden=[8]"]

def train(name, workers, run):
    start = ["train", name, "--iterations", "1", "--workers", workers, "--run", run, *tiny]
    return main(start)

if __name__ == "__main__":
    assert main(["envs", "my_family:FAMILY", "--json"]) == 0
    assert train("my_family:FAMILY", "0", "alone") == 0
    assert train("my_family:FAMILY", "2", "shared") == 0
    assert main(["evaluate", "shared", "--episodes", "1", "--steps", "1", "--json"]) == 0
    sys.path.append("hidden")
    assert train("only_here:FAMILY", "2", "lost") == 2
"""


@pytest.mark.ray
def test_a_family_in_the_working_directory_is_trained_and_evaluated_with_any_number_of_workers(
    home: Path,
) -> None:
    (home / "hidden").mkdir()
    (home / "hidden" / "only_here.py").write_text((home / "my_family.py").read_text())
    # -P keeps the working directory off the path, as it is for an installed command.
    done = subprocess.run(
        [sys.executable, "-P", "-c", JOURNEY],
        cwd=home,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WARPRL_RUNS": str(home / "runs")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == (
        "warprl: node 127.0.0.1 of the cluster: no task family 'only_here:FAMILY': "
        "no module 'only_here' in the working directory or on PYTHONPATH"
    )
    runs = home / "runs"
    card, *_, summary = (json.loads(x) for x in done.stdout.splitlines() if x.startswith("{"))
    assert card["name"] == "inverted-pendulum-motor-v1"
    assert (summary["family"], summary["tasks"]) == (EXAMPLE, 40)
    alone, shared = (
        (runs / run / "checkpoints" / "1" / "tensors.safetensors").read_bytes()
        for run in ("alone", "shared")
    )
    assert alone == shared


def test_the_run_of_a_family_of_ones_own_has_a_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from warprl.launch.runs import folders

    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path))
    name = folders.default_name(EXAMPLE, "maml", 3)
    folder = folders.create(name, None, lambda folder: None)
    assert folder.parent == tmp_path and folder.name.startswith("my_family-FAMILY-maml-s3-")


def test_it_needs_no_native_batch(home: Path) -> None:
    code = (
        "import sys; sys.modules['mujoco.batch'] = None\n"
        "import numpy as np\n"
        "from warprl.envs import make_family\n"
        "family = make_family('my_family:FAMILY')\n"
        "batch = family.make_batch(2)\n"
        "batch.reset(family.held_out_tasks()[:2], [np.random.default_rng(i) for i in range(2)])\n"
        "print(batch.step(np.zeros((2, 1), np.float32))[1])"
    )
    search = os.pathsep.join([str(home), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": search},
    )
    assert done.stdout == "[1. 1.]\n"


def test_a_screen_shows_what_each_episode_did() -> None:
    batch = WALK.make_batch(2)
    batch.reset([Speed(1.0)], generators(1))
    states = [[batch.render_state(i)] for i in range(2)]
    for _ in range(4):
        batch.step(np.full((2, 4), 0.1, np.float32))
        for i in range(2):
            states[i].append(batch.render_state(i))
    screen = WALK.screen(Speed(1.0), 16)
    for step in (0, 1, 4, 4, 2):  # forwards, standing still and back
        for panel in range(2):
            picture = screen.draw(states[panel][step], panel)
            assert picture.shape == (16, 16, 3)
            assert picture[8, 8].tolist() == [20 * step] * 3
            assert picture[0, 8].tolist() == [0] * 3, "an oblong picture keeps its shape"
    screen.close()


def test_a_screen_repeats_an_episode_bit_by_bit(
    example: GymFamily[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "draws", True)
    monkeypatch.setattr(
        "gymnasium.envs.mujoco.mujoco_env.MujocoEnv.render",
        lambda env: np.full((1, 1, 3), env.data.qpos.tobytes()[0], np.uint8),
    )
    (task,) = example.sample_tasks(generator(4, "tasks"), 1)
    batch, screen = example.make_batch(1), example.screen(task, 1)
    observation = batch.reset([task], generators(1))
    ended = np.zeros(1, np.bool_)
    while not ended[0]:
        shade = screen.draw(batch.render_state(0))[0, 0, 0]
        assert shade == observation[0].tobytes()[0]
        observation, _, ended = batch.step(np.full((1, 1), 0.05, np.float32))


BLIND = GymFamily(
    "blind-v1", registered("Blind", metadata={"render_modes": []}), draw, set_speed, horizon=12
)


def blank(self: Walk) -> Any:
    raise gymnasium.error.DependencyNotInstalled("paint is not installed,\nbuy some")


BARE = GymFamily("bare-v1", registered("Bare", render=blank), draw, set_speed, horizon=12)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("BLIND", "blind-v1: Blind-v0 draws no rgb_array: it has no such render mode"),
        ("BARE", "bare-v1: Bare-v0 draws no rgb_array: paint is not installed, buy some"),
    ],
)
def test_a_family_that_cannot_be_drawn_is_refused_before_any_work(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    reason: str,
) -> None:
    fabricate(tmp_path / "run", f"{__name__}:{family}")
    monkeypatch.setattr(machine, "require_backend", lambda: "egl")
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(render, "record", None)
    assert main(["render", str(tmp_path / "run")]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"warprl: cannot render: {reason}\n")
    assert not (tmp_path / "run" / "videos").exists()


def test_a_run_of_ones_own_family_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fabricate(tmp_path / "run", f"{__name__}:WALK")
    out = tmp_path / "policy.zip"
    assert main(["export", str(tmp_path / "run"), "--task", "speed=1", "--out", str(out)]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"warprl: cannot export: {__name__}:WALK has no id in Gymnasium's")
    assert (output.out, output.err.count("\n"), out.exists()) == ("", 1, False)


def test_a_run_of_the_example_is_filmed_by_its_own_environment(home: Path, tmp_path: Path) -> None:
    if machine.find_backend() is None:
        pytest.skip(f"this machine cannot draw: {machine.advice()}")
    fabricate(tmp_path / "run", EXAMPLE)
    done = subprocess.run(
        [sys.executable, "-m", "warprl.launch.cli", "render", str(tmp_path / "run"), "--json"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    pictures, seconds = imageio_ffmpeg.count_frames_and_secs(answer["video"])
    assert pictures == max(answer["returns"]) + 2  # one a step survived, and the two ends
    assert pictures / seconds == pytest.approx(25, rel=0.01)
