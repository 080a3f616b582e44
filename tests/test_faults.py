"""Workers that die or fail: what is lost is recomputed, what is wrong is said at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from helpers_runs import CPUS, History, Run, running, small, start_ray
from ray.exceptions import RayActorError, RayTaskError

from warprl.launch.errors import RunFailedError
from warprl.launch.runs.config import RunConfig
from warprl.launch.training import workers
from warprl.launch.training.loop import experiment_of
from warprl.launch.training.workers import RaySampler, collect_shards
from warprl.types import Task

pytestmark = pytest.mark.ray


def slow(*settings: str, number: int = 0) -> RunConfig:
    """Sampling that takes long enough to be interrupted."""
    settings = ("adaptation.episodes=20", *settings)
    return small("half-cheetah-dir-v1", *settings, workers=number, tasks=4)


def pid_of_a_worker(run: Run) -> int:
    assert isinstance(run.sampler, RaySampler)
    pid: int = ray.get(run.sampler.actors[-1].__ray_call__.remote(lambda worker: os.getpid()))
    return pid


@pytest.fixture(scope="module")
def expected() -> History:
    """What no fault may change."""
    with running(slow()) as undisturbed:
        return undisturbed.history(2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_while_sampling_is_replaced_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expected: History,
    number: signal.Signals,
) -> None:
    with running(slow("compute.worker_timeout_s=8", number=2)) as run:
        victims = [pid_of_a_worker(run)]
        wait = ray.wait

        def kill_and_wait(*args: Any, **kwargs: Any) -> Any:
            if victims:
                time.sleep(0.1)  # the requests are out: let it get to work
                os.kill(victims.pop(), number)
            return wait(*args, **kwargs)

        monkeypatch.setattr(ray, "wait", kill_and_wait)
        disturbed = run.train()
        rest = run.history(1)
    assert disturbed["workers_replaced"] == 1
    assert run.progress.counters["workers_replaced"] == 1
    assert "iteration 1: workers lost and replaced: 1" in caplog.text
    hung = number == signal.SIGSTOP
    assert ("a worker that gave no answer for 8 s is replaced" in caplog.text) == hung
    assert disturbed["return_step_2"] == expected.metrics[0]["return_step_2"]
    assert rest.metrics == expected.metrics[1:]
    assert rest.tensors == expected.tensors


def test_an_exception_in_a_worker_surfaces_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(small(workers=2)) as run:
        with monkeypatch.context() as patch:
            kind = type(run.experiment.family)
            patch.setattr(kind, "sample_tasks", lambda self, rng, n: [Task()] * n)
            with pytest.raises(RayTaskError, match=r"(?s)in adapt.*in reset"):
                run.train()
        metrics = run.train()
    assert (metrics["iteration"], metrics["workers_replaced"]) == (1, 0)


def test_workers_end_if_not_all_of_them_start(monkeypatch: pytest.MonkeyPatch) -> None:
    start_ray()
    config = small()

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ray, "get", interrupted)
        # It holds on to the sampler, by way of its traceback.
        with pytest.raises(KeyboardInterrupt) as caught:
            RaySampler(experiment_of(config), config.family, 2, timeout_s=60.0)
    deadline = time.monotonic() + 60.0
    while ray.available_resources().get("CPU", 0) < CPUS:  # type: ignore[no-untyped-call]
        assert time.monotonic() < deadline, "their cores are still taken"
        time.sleep(0.1)
    assert caught.tb is not None


def mortal(deaths: int, log: Path, sleeps: bool = False) -> Any:
    """A worker that ends its process, or falls asleep, so many times; it counts in a file."""

    class Mortal:  # local, and without our types, for its workers import nothing of ours
        def sample(self, parameters: Any, shard: Any) -> Any:
            with log.open("a") as file:
                file.write("asked\n")
            if len(log.read_text().splitlines()) <= deaths:
                time.sleep(999) if sleeps else os._exit(1)
            return f"answer to {shard}"

    worker: Any = ray.remote(num_cpus=0, max_restarts=-1)(Mortal).remote()
    ray.get(worker.__ray_ready__.remote())
    return worker


def test_a_request_is_put_again_until_its_worker_survives(tmp_path: Path) -> None:
    start_ray()
    mortals = [
        mortal(0, tmp_path / "a"),
        mortal(2, tmp_path / "b"),
        mortal(1, tmp_path / "c", sleeps=True),
    ]
    shards: list[Any] = ["the first", "the second", "the third"]
    answers, replaced = collect_shards(mortals, {}, shards, 3.0)
    assert list(map(str, answers)) == [f"answer to {shard}" for shard in shards]
    assert replaced == 3


def test_a_request_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    start_ray()
    shards: list[Any] = ["deadly"]
    with pytest.raises(RayActorError):
        collect_shards([mortal(99, tmp_path / "log")], {}, shards, 60.0)
    assert len((tmp_path / "log").read_text().splitlines()) == workers.ATTEMPTS


def test_a_request_that_hangs_every_worker_is_given_up_and_the_limit_named(tmp_path: Path) -> None:
    start_ray()
    shards: list[Any] = ["endless"]
    with pytest.raises(
        RunFailedError, match=r"no answer for 1 s, 4 times.* larger compute.worker_timeout_s$"
    ):
        collect_shards([mortal(99, tmp_path / "log", sleeps=True)], {}, shards, 1.0)
