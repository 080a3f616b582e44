"""Workers that die or fail: what is lost is recomputed, what is wrong is said at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from helpers_runs import History, history, running, small, start_ray, train
from ray.exceptions import RayActorError, RayTaskError

from warprl.agents.inner import AdaptationConfig
from warprl.launch.errors import RunFailedError
from warprl.launch.runs.config import resolve
from warprl.launch.training import env_runner
from warprl.launch.training.algorithm import WarpGrad, WarpGradConfig, build
from warprl.launch.training.env_runner import collect_shards
from warprl.types import Task


def slow() -> WarpGradConfig:
    """Sampling that takes long enough to be interrupted."""
    return small("half-cheetah-dir-v1", tasks=4).meta(
        adaptation=AdaptationConfig(steps=2, episodes=20)
    )


def pid_of_a_runner(algorithm: WarpGrad) -> int:
    group: Any = algorithm.env_runner_group
    pids = group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
    return int(pids[-1])


@pytest.fixture(scope="module")
def expected() -> History:
    """What no fault may change."""
    with running(slow()) as undisturbed:
        return history(undisturbed, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_while_sampling_is_replaced_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, expected: History,
    number: signal.Signals,
) -> None:  # fmt: skip
    config = slow().env_runners(num_env_runners=2, sample_timeout_s=8.0)
    with running(config) as algorithm:
        victims = [pid_of_a_runner(algorithm)]
        wait = ray.wait

        def kill_and_wait(*args: Any, **kwargs: Any) -> Any:
            if victims:
                time.sleep(0.1)  # the requests are out: let it get to work
                os.kill(victims.pop(), number)
            return wait(*args, **kwargs)

        monkeypatch.setattr(ray, "wait", kill_and_wait)
        disturbed = train(algorithm)
        rest = history(algorithm, 1)
    assert disturbed["workers_replaced"] == 1
    assert "iteration 1: workers lost and replaced: 1" in caplog.text
    hung = number == signal.SIGSTOP
    assert ("a worker that gave no answer for 8 s is replaced" in caplog.text) == hung
    assert disturbed["return_step_2"] == expected.metrics[0]["return_step_2"]
    assert rest.metrics == expected.metrics[1:]
    assert rest.tensors == expected.tensors


def test_the_limit_for_workers_that_hang_is_that_of_the_configuration() -> None:
    start_ray()
    settings = ["worker_timeout_s=90", "tasks=2", "policy.hidden=[8]"]
    algorithm = build(resolve("point-navigation-v1", "promp", {"workers": 0}, settings))
    algorithm.stop()  # type: ignore[no-untyped-call]
    assert algorithm.config.sample_timeout_s == 90.0


def test_an_exception_in_a_worker_surfaces_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(small(workers=2)) as algorithm:
        with monkeypatch.context() as patch:
            patch.setattr(
                type(algorithm._family), "sample_tasks", lambda self, rng, n: [Task()] * n
            )
            with pytest.raises(RayTaskError, match=r"(?s)in adapt.*in reset"):
                train(algorithm)
        metrics = train(algorithm)
    assert (metrics["iteration"], metrics["workers_replaced"]) == (1, 0)


def mortal(deaths: int, log: Path, sleeps: bool = False) -> Any:
    """A runner that ends its process, or falls asleep, so many times; it counts in a file."""

    class Mortal:  # local, and without our types, for its workers import nothing of ours
        def sample(self, *, parameters: Any, request: Any) -> Any:
            with log.open("a") as file:
                file.write("asked\n")
            if len(log.read_text().splitlines()) <= deaths:
                time.sleep(999) if sleeps else os._exit(1)
            return f"shard of {request}"

    runner: Any = ray.remote(num_cpus=0, max_restarts=-1)(Mortal).remote()
    ray.get(runner.__ray_ready__.remote())
    return runner


def test_a_request_is_put_again_until_its_worker_survives(tmp_path: Path) -> None:
    start_ray()
    runners = [
        mortal(0, tmp_path / "a"), mortal(2, tmp_path / "b"), mortal(1, tmp_path / "c", sleeps=True)
    ]  # fmt: skip
    requests: list[Any] = ["the first", "the second", "the third"]
    shards, replaced = collect_shards(runners, {}, requests, 3.0)
    assert list(map(str, shards)) == [f"shard of {request}" for request in requests]
    assert replaced == 3


def test_a_request_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    start_ray()
    requests: list[Any] = ["deadly"]
    with pytest.raises(RayActorError):
        collect_shards([mortal(99, tmp_path / "log")], {}, requests, 60.0)
    assert len((tmp_path / "log").read_text().splitlines()) == env_runner.ATTEMPTS


def test_a_request_that_hangs_every_worker_is_given_up_and_the_limit_named(tmp_path: Path) -> None:
    start_ray()
    requests: list[Any] = ["endless"]
    with pytest.raises(RunFailedError, match=r"no answer for 1 s, 4 times.* worker_timeout_s$"):
        collect_shards([mortal(99, tmp_path / "log", sleeps=True)], {}, requests, 1.0)
