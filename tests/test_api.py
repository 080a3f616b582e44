"""What ``import warprl`` offers: the commands' results and errors, callbacks, Ctrl-C, threads."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import same_bits
from helpers_launch import fabricate
from stable_baselines3 import PPO

import warprl
from warprl import checkpoint
from warprl.agents.inner import Shard, adapt
from warprl.launch import machine
from warprl.launch.cli import main
from warprl.launch.errors import RunFailedError
from warprl.learner import LearnerState

FAMILY = "point-navigation-v1"
SMALL = {"tasks": 2, "adaptation.episodes": 2, "adaptation.steps": 1, "policy.hidden": [8]}
WRONG: Any = [3]
NOTHING: Any = None
Call = Callable[[], object]


@pytest.fixture(autouse=True)
def _own_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARPRL_RUNS", str(tmp_path / "runs"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> warprl.Run:
    """A run of two iterations, for tests that only read it."""
    folder = tmp_path_factory.mktemp("api") / "run"
    return warprl.train(FAMILY, iterations=2, seed=3, run=folder, set=SMALL)


@pytest.fixture(scope="module")
def memory_run(tmp_path_factory: pytest.TempPathFactory) -> warprl.Run:
    folder = tmp_path_factory.mktemp("api") / "memory"
    return warprl.train(FAMILY, "rl2", iterations=1, run=folder, set=SMALL)


def parameters(run: warprl.Run) -> dict[str, torch.Tensor]:
    return checkpoint.load(run.folder / "checkpoints").tensors


# --- the package ----------------------------------------------------------------------------------


def test_every_public_name_is_there_listed_and_known_to_type_checkers() -> None:
    assert set(warprl.__all__) <= set(dir(warprl))
    for name in warprl.__all__:
        assert getattr(warprl, name).__doc__, name
    assert warprl.__file__ is not None
    tree = ast.parse(Path(warprl.__file__).read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = {
        a.asname for node in typed.body if isinstance(node, ast.ImportFrom) for a in node.names
    }
    assert names == set(warprl.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'warprl' has no attribute 'trian'"):
        warprl.trian  # noqa: B018


def test_families_and_presets_are_what_train_takes() -> None:
    assert warprl.families()[FAMILY].startswith("goal")
    assert "warpgrad" in warprl.presets()


QUIET = """
import sys, warprl
warprl.train("point-navigation-v1", iterations=1, run=sys.argv[1], set={"tasks": 2,
             "adaptation.episodes": 2, "policy.hidden": [8]}).evaluate(steps=1, episodes=1)
assert "ray" not in sys.modules
"""


def test_training_and_evaluation_are_quiet_and_need_no_ray(tmp_path: Path) -> None:
    command = [sys.executable, "-c", QUIET, str(tmp_path / "quiet")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_progress_is_shown_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warprl.train(FAMILY, iterations=1, run=tmp_path / "loud", set=SMALL, verbose=True)
    assert "iteration 1/1" in capsys.readouterr().out


# --- the same as the commands ---------------------------------------------------------------------


def test_train_leaves_the_run_that_the_command_leaves(run: warprl.Run, tmp_path: Path) -> None:
    settings = [f"--set={key}={value}" for key, value in SMALL.items()]
    options = ["--iterations=2", "--seed=3", "--workers=0", f"--run={tmp_path / 'command'}"]
    assert main(["train", FAMILY, *options, *settings]) == 0
    other = warprl.load(tmp_path / "command")
    assert run.config == other.config
    assert (run.folder / "config.yaml").read_text() == (other.folder / "config.yaml").read_text()
    assert same_bits(parameters(run), parameters(other))
    assert {path.name for path in run.folder.iterdir()} - {"evaluation"} == {
        path.name for path in other.folder.iterdir()
    }


def test_a_run_goes_on_as_if_it_had_never_stopped(run: warprl.Run, tmp_path: Path) -> None:
    short = warprl.train(FAMILY, iterations=1, seed=3, run=tmp_path / "short", set=SMALL)
    longer = short.resume(1)
    assert (short.iteration, longer.iteration) == (1, 2)
    assert short.evaluate(steps=1, episodes=1).checkpoint == 1, "it stays where it was"
    assert same_bits(parameters(longer), parameters(run))
    assert warprl.load(longer.folder, checkpoint=1).iteration == 1


def test_metrics_are_a_table_or_without_pandas_a_list(
    run: warprl.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = run.metrics
    assert table["iteration"].tolist() == [1, 2] and table["env_steps"].tolist() == [800, 1600]
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert [row["iteration"] for row in run.metrics] == [1, 2]


def test_evaluation_is_that_of_the_command(run: warprl.Run, tmp_path: Path) -> None:
    summary = run.evaluate(steps=1, episodes=2, untrained=True, against=run)
    labels = [curve.policy for curve in summary.curves]
    assert labels == ["trained", "untrained", str(run.folder)]
    assert (Path(summary.folder) / "curve.csv").is_file()
    assert warprl.evaluate(run.folder, steps=1, episodes=2).curves[0] == summary.curves[0]
    place = tmp_path / "comparison"
    compared = warprl.compare([run], steps=1, episodes=2, beside=["untrained"], out=place)
    assert compared.folder == str(place) and len(compared.groups) == 2


def test_an_exported_policy_predicts_as_the_adapted_one(run: warprl.Run, tmp_path: Path) -> None:
    task = run.tasks[1]
    file = run.export(tmp_path / "policy.zip", task, steps=1)
    model = PPO.load(file, device="cpu")
    policy = run.adapt(1, steps=1)
    for obs in (np.zeros((3, 2)), np.array([0.1, 0.2])):
        wanted, state = model.predict(obs, deterministic=True)
        found, mine = policy.predict(obs, deterministic=True)
        assert found.shape == wanted.shape and found.dtype == wanted.dtype and mine is state is None
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_film_is_made_although_mujoco_is_loaded_already(run: warprl.Run) -> None:
    if machine.find_backend() is None:
        pytest.skip(f"this machine cannot draw: {machine.advice()}")
    film = warprl.render(run, task=1, steps=1)
    assert film.suffix == ".mp4" and film.stat().st_size > 1000
    with pytest.raises(warprl.UserError, match="^task = 99: point-navigation-v1 has held-out"):
        run.render(task=99)


# --- adapting -------------------------------------------------------------------------------------


def test_adapt_gives_the_theta_of_the_inner_loop_and_its_returns(run: warprl.Run) -> None:
    before, threads = run.policy, torch.get_num_threads()
    policy = run.adapt(run.tasks[2], steps=2, episodes=3, seed=5)
    config = run.stored.config.adaptation
    shard = Shard([run.tasks[2]], [0], 5, 0)
    expected, _ = adapt(
        run.family.make_batch(3),
        before.network,
        before.theta,
        before.phi,
        shard,
        type(config)(**asdict(config) | {"steps": 2, "episodes": 3}),
    )
    assert same_bits(policy.theta, {n: x[0, 2] for n, x in expected.theta.items()})
    assert policy.returns == tuple(expected.returns[0].tolist())
    assert torch.get_num_threads() == threads
    by_number, by_name = run.adapt(2, 2, 3, 5), run.adapt(asdict(run.tasks[2]), 2, 3, 5)
    assert by_number.returns == by_name.returns == policy.returns
    unadapted = run.adapt(0, steps=0)
    assert same_bits(unadapted.theta, before.theta) and len(unadapted.returns) == 1


def test_an_agent_that_adapts_by_memory_adapts_in_one_trial(memory_run: warprl.Run) -> None:
    policy = memory_run.adapt(0, steps=2)
    assert len(policy.returns) == 2 and len(policy.memory) == 3
    assert same_bits(policy.theta, memory_run.policy.theta)
    with pytest.raises(warprl.UserError, match="episodes = 4: rl2 adapts by memory"):
        memory_run.adapt(0, episodes=4)


def test_an_adapter_begins_with_the_policy_of_the_run(run: warprl.Run) -> None:
    adapter = run.adapter(seed=1)
    assert adapter.episodes == 2
    assert same_bits(adapter.policy.theta, run.policy.theta)
    assert run.adapter(seed=1).act([0, 0]).tolist() == adapter.act([0, 0]).tolist()
    assert run.adapter(seed=2).act([0, 0]).tolist() != run.adapter(seed=1).act([0, 0]).tolist()


def test_a_diverging_adaptation_is_an_error(tmp_path: Path) -> None:
    fabricate(tmp_path / "wild", FAMILY, "adaptation.inner_lr=1e38")
    with pytest.raises(RunFailedError, match="the adaptation to Goal.* diverges"):
        warprl.load(tmp_path / "wild").adapt(0)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: warprl.train("half-cheetah-dri-v1"), "unknown family 'half-cheetah-dri-v1'"),
        (lambda run: warprl.train(FAMILY, "mamml"), "unknown agent 'mamml': did you mean 'maml'"),
        (lambda run: warprl.train(FAMILY, set={"adaptation.stps": 1}), "unknown key"),
        (lambda run: warprl.train(FAMILY, set={"tasks": 2.5}), "tasks = 2.5"),
        (lambda run: warprl.train(FAMILY, set={"tasks": object()}), "should be a number, text"),
        (lambda run: warprl.train(FAMILY, run=run.folder), "exists: continue it with"),
        (lambda run: warprl.load("nothing"), "no run 'nothing'"),
        (lambda run: warprl.load(run.folder, 9).policy, "9"),
        (lambda run: run.resume(), "is complete at iteration 2"),
        (lambda run: run.evaluate(steps=0), "steps = 0: must be a whole number, 1 or more"),
        (lambda run: run.adapt(99), "has held-out tasks 0 to"),
        (lambda run: run.adapt({"x": 0.1}), "task: point-navigation-v1: "),
        (lambda run: run.adapt(0, steps=-1), "steps = -1: must be a whole number, 0 or more"),
        (lambda run: run.adapt(0, episodes=0), "episodes = 0: must be a whole number, 1 or more"),
        (lambda run: run.adapt(0, steps=10**6), "steps = 1000000: must be 10000 or less"),
        (lambda run: run.adapter(episodes=0), "episodes = 0: must be a whole number, 1 or more"),
        (lambda run: run.adapter(seed=-1), "seed = -1: must be a whole number, 0 or more"),
        (lambda run: run.adapt(NOTHING), "^task = None: point-navigation-v1 has held-out tasks"),
        (
            lambda run: run.export("policy.zip", NOTHING),
            "^task = None: point-navigation-v1 has held",
        ),
        (lambda run: warprl.compare([]), "^compare: give one run or more"),
        (lambda run: warprl.compare("run"), "^runs = 'run': must be a list of runs"),
        (lambda run: warprl.compare([run], beside=WRONG), "^unknown reference '3': choose from"),
        (lambda run: warprl.train(WRONG), "^family = .3.: must be the name of a task family"),
        (lambda run: warprl.train(FAMILY, WRONG), "^agent = .3.: must be the name of an agent"),
        (
            lambda run: warprl.train(FAMILY, set=WRONG),
            "^set = .*: must be a mapping such as",
        ),
        (lambda run: warprl.train(FAMILY, callback=WRONG), "^callback = .3.: must be a function"),
        (lambda run: run.resume(1, callback=WRONG), "^callback = .3.: must be a function"),
        (lambda run: run.export("policy.pt"), "the name must end in .zip"),
    ],
)
def test_bad_input_is_one_line_that_is_raised(
    run: warprl.Run, call: Callable[[warprl.Run], object], message: str
) -> None:
    with pytest.raises(warprl.UserError, match=message) as error:
        call(run)
    assert "\n" not in str(error.value)


COUNTS: dict[str, Callable[[warprl.Run, Any], object]] = {
    "iterations": lambda run, n: run.resume(n),
    "iterations of train": lambda run, n: warprl.train(FAMILY, iterations=n, set=SMALL),
    "workers": lambda run, n: warprl.train(FAMILY, workers=n, set=SMALL),
    "seed of train": lambda run, n: warprl.train(FAMILY, seed=n, set=SMALL),
    "checkpoint": lambda run, n: warprl.load(run.folder, n),
    "task": lambda run, n: run.adapt(n),
    "task of export": lambda run, n: run.export("policy.zip", n),
    "task of render": lambda run, n: run.render(n),
    "steps": lambda run, n: run.adapt(0, steps=n),
    "steps of render": lambda run, n: run.render(steps=n),
    "steps of evaluate": lambda run, n: run.evaluate(steps=n),
    "steps of compare": lambda run, n: warprl.compare([run], steps=n),
    "steps of export": lambda run, n: run.export("policy.zip", steps=n),
    "episodes": lambda run, n: run.adapt(0, episodes=n),
    "episodes of adapter": lambda run, n: run.adapter(episodes=n),
    "episodes of evaluate": lambda run, n: run.evaluate(episodes=n),
    "episodes of compare": lambda run, n: warprl.compare([run], episodes=n),
    "seed": lambda run, n: run.adapt(0, seed=n),
    "seed of adapter": lambda run, n: run.adapter(seed=n),
    "seed of evaluate": lambda run, n: run.evaluate(seed=n),
    "seed of compare": lambda run, n: warprl.compare([run], seed=n),
    "seed of export": lambda run, n: run.export("policy.zip", seed=n),
}


@pytest.mark.parametrize("value", [1.5, np.float64(1), "1", True, -1, [1], np.zeros((9, 9))])
@pytest.mark.parametrize("where", COUNTS)
def test_what_is_no_whole_number_is_refused_wherever_one_is_due(
    run: warprl.Run, where: str, value: Any
) -> None:
    name = where.partition(" ")[0]
    with pytest.raises(
        warprl.UserError, match=f"^{name} = .*: (must be a whole|point-nav)"
    ) as error:
        COUNTS[where](run, value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 160


def test_whole_numbers_and_settings_of_numpy_are_taken(run: warprl.Run, tmp_path: Path) -> None:
    one: Any = np.int8(1)
    two: Any = np.int64(2)
    three: Any = np.int32(3)
    settings = {"tasks": np.int64(2), "policy.hidden": np.array([8])}
    other = warprl.train(
        FAMILY, iterations=two, seed=three, run=tmp_path / "numpy", set=SMALL | settings
    )
    assert same_bits(parameters(other), parameters(run))
    assert other.adapt(two, steps=two, episodes=two).returns == run.adapt(2, 2, 2).returns
    assert other.export(tmp_path / "policy.zip", two, steps=one).is_file()
    assert other.resume(one).iteration == 3
    assert warprl.load(other.folder, two).iteration == 2


def test_the_text_none_is_none_as_at_the_command_line(tmp_path: Path) -> None:
    for value in ("none", None):
        settings = SMALL | {"policy.warp": value}
        run = warprl.train(FAMILY, "maml", iterations=1, run=tmp_path / str(value), set=settings)
        assert run.config.policy.warp is None


# --- callbacks, Ctrl-C, threads -------------------------------------------------------------------


def test_the_program_keeps_its_number_of_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 2)
    try:
        found = warprl.train(FAMILY, iterations=1, seed=3, run="threads", set=SMALL)
        found.adapt(0, steps=1, episodes=1)
        found.evaluate(steps=1, episodes=1)
        assert torch.get_num_threads() == before + 2
    finally:
        torch.set_num_threads(before)


def test_a_callback_is_told_each_iterations_metrics_and_state(
    run: warprl.Run, tmp_path: Path
) -> None:
    told: list[tuple[Any, LearnerState]] = []
    other = warprl.train(
        FAMILY,
        iterations=2,
        seed=3,
        run=tmp_path / "told",
        set=SMALL,
        callback=lambda metrics, state: told.append((metrics, state)),
    )
    assert [metrics["iteration"] for metrics, _ in told] == [1, 2]
    assert [metrics["kl"] for metrics, _ in told] == other.metrics["kl"].tolist()
    assert [state.iteration for _, state in told] == [1, 2]
    assert same_bits(told[1][1].theta, other.policy.theta)
    assert same_bits(parameters(other), parameters(run)), "listening changes nothing"


def stop(metrics: Any, state: LearnerState) -> bool:
    return bool(metrics["iteration"] == 2)


def raise_stop(metrics: Any, state: LearnerState) -> None:
    if metrics["iteration"] == 2:
        raise warprl.StopTraining


@pytest.mark.parametrize("callback", [stop, raise_stop])
def test_a_callback_can_end_training_with_everything_saved(callback: Any, tmp_path: Path) -> None:
    run = warprl.train(FAMILY, iterations=9, run=tmp_path / "run", set=SMALL, callback=callback)
    assert run.iteration == 2 and len(run.metrics) == 2


def test_what_a_callback_raises_surfaces_and_the_run_goes_on_from_there(
    run: warprl.Run, tmp_path: Path
) -> None:
    def fail(metrics: Any, state: LearnerState) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        warprl.train(FAMILY, iterations=2, seed=3, run=tmp_path / "run", set=SMALL, callback=fail)
    found = warprl.load(tmp_path / "run")
    assert found.iteration == 1
    assert same_bits(parameters(found.resume()), parameters(run))


def press(times: int) -> Callable[[Any, LearnerState], None]:
    """Press Ctrl-C so often in the first iteration."""

    def callback(metrics: Any, state: LearnerState) -> None:
        for _ in range(times if metrics["iteration"] == 1 else 0):
            signal.raise_signal(signal.SIGINT)

    return callback


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_is_raised_when_the_iteration_is_saved(
    times: int, run: warprl.Run, tmp_path: Path
) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt) as error:
        warprl.train(
            FAMILY, iterations=2, seed=3, run=tmp_path / "run", set=SMALL, callback=press(times)
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert ("continue with warprl.load" in str(error.value)) == (times == 1)
    found = warprl.load(tmp_path / "run")
    assert found.iteration == 1
    assert same_bits(parameters(found.resume()), parameters(run))


def test_a_program_that_handles_ctrl_c_itself_keeps_its_handler(tmp_path: Path) -> None:
    heard = []

    def mine(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGINT, mine)
    try:
        run = warprl.train(FAMILY, iterations=2, run=tmp_path / "run", set=SMALL, callback=press(1))
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT] and run.iteration == 2


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.ray)])
def test_training_works_in_a_thread(workers: int, run: warprl.Run, tmp_path: Path) -> None:
    found: list[warprl.Run] = []

    def work() -> None:
        folder = tmp_path / "threaded"
        found.append(
            warprl.train(FAMILY, iterations=2, workers=workers, seed=3, run=folder, set=SMALL)
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert same_bits(parameters(found[0]), parameters(run))


TWICE = """
import sys, threading, warprl

def train(name):
    warprl.train("point-navigation-v1", iterations=1, workers=1, run=name, set=SMALL)

SMALL = {"tasks": 2, "adaptation.episodes": 2, "adaptation.steps": 1, "policy.hidden": [8]}
thread = threading.Thread(target=train, args=("first",))
thread.start()
thread.join()
train("second")
print("trained twice")
"""


@pytest.mark.ray
def test_ray_outlasts_the_thread_that_started_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"WARPRL_RUNS": str(tmp_path)},
    )
    assert (done.stdout.strip(), done.returncode) == ("trained twice", 0), done.stderr
