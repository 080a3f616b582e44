"""Workers that die or fail: what is lost is recomputed, what is wrong is said at once."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from helpers_runs import CPUS, History, Run, running, small, start_ray, timeless
from ray.exceptions import RayTaskError

from warprl.agents.inner import Shard
from warprl.launch.errors import RunFailedError
from warprl.launch.runs.config import RunConfig
from warprl.launch.training.crew import Crew, Piece
from warprl.launch.training.loop import experiment_of
from warprl.launch.training.ray_sampler import RaySampler
from warprl.types import Task

pytestmark = pytest.mark.ray

ALWAYS = range(1, 100)


def slow(*settings: str, number: int = 0) -> RunConfig:
    """Sampling that takes long enough to be interrupted."""
    settings = ("adaptation.episodes=20", *settings)
    return small("half-cheetah-dir-v1", *settings, workers=number, tasks=4)


def pid_of_a_worker(run: Run) -> int:
    assert isinstance(run.sampler, RaySampler)
    pid: int = ray.get(run.sampler.crew.actors[-1].__ray_call__.remote(lambda worker: os.getpid()))
    return pid


@pytest.fixture(scope="module")
def expected() -> History:
    """What no fault may change."""
    with running(slow()) as undisturbed:
        return undisturbed.history(2)


@pytest.mark.parametrize("round_", ["sampling", "second epoch"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_replaced_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expected: History,
    number: signal.Signals,
    round_: str,
) -> None:
    with running(slow("compute.worker_timeout_s=15", number=2)) as run:
        victims = [pid_of_a_worker(run)]
        waits = {"sampling": 1, "second epoch": 5}[round_]  # two answers a round
        wait = ray.wait

        def kill_and_wait(*args: Any, **kwargs: Any) -> Any:
            nonlocal waits
            waits -= 1
            if waits == 0:
                time.sleep(0.1)  # the requests are out: let it get to work
                os.kill(victims.pop(), number)
            return wait(*args, **kwargs)

        monkeypatch.setattr(ray, "wait", kill_and_wait)
        disturbed = run.train()
        rest = run.history(1)
    assert not victims
    assert disturbed["workers_replaced"] == 1
    assert run.progress.counters["workers_replaced"] == 1
    assert "iteration 1: a worker was lost; tasks that are computed again: 2" in caplog.text
    hung = number == signal.SIGSTOP
    assert ("a worker that gave no answer for 15 s is replaced" in caplog.text) == hung
    assert timeless(disturbed) == expected.metrics[0]
    assert rest.metrics == expected.metrics[1:]
    assert rest.tensors == expected.tensors


def test_a_worker_that_was_lost_gets_tasks_again_when_it_is_back(expected: History) -> None:
    with running(slow(number=2)) as run:
        assert isinstance(run.sampler, RaySampler)
        os.kill(pid_of_a_worker(run), signal.SIGKILL)
        run.train()
        deadline = time.monotonic() + 60.0
        while run.sampler.crew.living() != [0, 1]:
            assert time.monotonic() < deadline, "it did not come back"
            time.sleep(0.1)
        pieces: list[int] = []
        answer = Crew.ask

        def watched(self: Crew, asked: Any, *rest: Any) -> Any:
            pieces.append(len(asked))
            return answer(self, asked, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Crew, "ask", watched)
            rest = run.history(1)
    assert set(pieces) == {2}
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
            RaySampler(experiment_of(config), config.family, replace(config.compute, workers=2))
    deadline = time.monotonic() + 60.0
    while ray.available_resources().get("CPU", 0) < CPUS:  # type: ignore[no-untyped-call]
        assert time.monotonic() < deadline, "their cores are still taken"
        time.sleep(0.1)
    assert caught.tb is not None


def mortal(
    dies: Collection[int], log: Path, sleeps: bool = False, restarts: int = -1, pause: float = 0.0
) -> Any:
    """A worker that ends its process, or falls asleep, when it is asked for these times.

    It counts in a file, and pauses before it answers.
    """

    class Mortal:  # local, and without our types, for its workers import nothing of ours
        def answer(self, shard: Any, start: Any, question: Any) -> Any:
            with log.open("a") as file:
                file.write("asked\n")
            if len(log.read_text().splitlines()) in dies:
                time.sleep(999) if sleeps else os._exit(1)
            time.sleep(pause)
            return SimpleNamespace(content=f"{question} of {shard.indices}", busy=0.25)

    worker: Any = ray.remote(num_cpus=0, max_restarts=restarts)(Mortal).remote()
    ray.get(worker.__ray_ready__.remote())
    return worker


def pieces_of(number: int) -> list[Piece]:
    """Shards of two tasks, one for each worker."""
    return [Piece(Shard([Task()] * 2, [2 * n, 2 * n + 1], 0, 1), n) for n in range(number)]


def test_a_question_is_put_again_until_every_task_is_answered_for(tmp_path: Path) -> None:
    start_ray()
    mortals = [
        mortal((), tmp_path / "a"),
        mortal({1}, tmp_path / "b"),
        mortal({1}, tmp_path / "c", sleeps=True),
    ]
    crew = Crew(mortals, 10.0, 60.0)
    start: Any = None
    question: Any = "answer"
    pieces, answers = crew.ask(pieces_of(3), start, question)
    tasks = [index for piece in pieces for index in piece.shard.indices]
    assert tasks == list(range(6))
    contents = [f"answer of {piece.shard.indices}" for piece in pieces]
    assert [answer.content for answer in answers] == contents

    # Two workers were lost, one of which had slept for ten seconds, and others had more to do then.
    busy = Counter(piece.worker for piece in pieces)
    each = [0.25 * number for number in busy.values()]
    assert crew.cost.lost == 2 and crew.cost.transfer > 10.0 - max(each)
    assert crew.cost.waiting == pytest.approx(max(each) - sum(each) / len(each))


def ask_one(worker: Any, timeout_s: float, restart_timeout_s: float = 60.0) -> None:
    start: Any = None
    question: Any = "answer"
    Crew([worker], timeout_s, restart_timeout_s).ask(pieces_of(1), start, question)


def test_a_shard_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    start_ray()
    with pytest.raises(RunFailedError) as caught:
        ask_one(mortal(ALWAYS, tmp_path / "log"), 60.0)
    assert re.fullmatch(
        r"iteration 1: workers lost in a row over tasks 0, 1: 4 \(compute.max_losses\); the last: "
        r"The actor .*; the traces are in the logs of Ray's session_\S+",
        str(caught.value),
    )
    assert len((tmp_path / "log").read_text().splitlines()) == 4


def test_losses_are_not_in_a_row_if_others_answer_between_them(tmp_path: Path) -> None:
    start_ray()
    slow, other = mortal({2}, tmp_path / "a", pause=2.0), mortal({1}, tmp_path / "b")
    crew = Crew([slow, other], 60.0, 60.0, max_losses=2)
    start: Any = None
    question: Any = "answer"
    # The other one dies; the slow one answers, takes the shard over, and dies as well.
    pieces, _ = crew.ask(pieces_of(2), start, question)
    assert [index for piece in pieces for index in piece.shard.indices] == [0, 1, 2, 3]
    assert crew.cost.lost == 2


def test_a_shard_that_hangs_every_worker_is_given_up_and_the_limit_named(tmp_path: Path) -> None:
    start_ray()
    with pytest.raises(
        RunFailedError, match=r": 4 .*no answer for 1 s: .* set a larger compute.worker_timeout_s; "
    ):
        ask_one(mortal(ALWAYS, tmp_path / "log", sleeps=True), 1.0)


def test_a_run_ends_if_all_workers_are_lost_and_none_comes_back(tmp_path: Path) -> None:
    start_ray()
    with pytest.raises(RunFailedError, match="all 1 workers were lost, and none came back"):
        ask_one(mortal(ALWAYS, tmp_path / "log", restarts=0), 60.0, restart_timeout_s=1.0)
