"""However a run ends, what it had learned by then is kept, and one line says how to go on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import same_bits
from helpers_cluster import name_of, sessions
from helpers_runs import running, small, start_ray
from rich.console import Console

from warprl import checkpoint
from warprl.launch.cli import main
from warprl.launch.errors import RunFailedError
from warprl.launch.runs import config as configuration
from warprl.launch.runs import stored
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.log import RunLog
from warprl.launch.training.crew import Crew
from warprl.launch.training.loop import Progress, experiment_of
from warprl.launch.training.ray_sampler import RaySampler
from warprl.launch.training.saving import Saver

COMMAND = [sys.executable, "-m", "warprl.launch.cli"]
TRAIN = (
    *("train", "point-navigation-v1", "--seed=3", "--run=./run", "--set=tasks=2"),
    *("--set=adaptation.episodes=2", "--set=policy.hidden=[8]", "--set=adaptation.steps=1"),
)
LIMIT_S = 120


class Training:
    """A run on two workers, in a session of its own, that a test ends in a rough way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "run"
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *TRAIN, "--workers=2", "--iterations=100000"],
                cwd=folder,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._err = folder / "err"

    @property
    def logged(self) -> int:
        """The number of iterations in the log."""
        log = self.folder / "metrics.jsonl"
        return log.read_text().count("\n") if log.exists() else 0

    def await_iteration(self, number: int) -> None:
        """Return when so many iterations are done."""
        deadline = time.monotonic() + LIMIT_S
        while self.logged < number:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.02)

    @property
    def said(self) -> str:
        """What was said on stderr."""
        return self._err.read_text()

    def pids(self, name: str = "") -> list[int]:
        """Its processes, all or those of a name."""
        session = self.process.pid
        return [pid for pid, its in sessions() if its == session and name in name_of(pid)]

    def await_silence(self) -> None:
        """Return when no process of it is left, which has to be soon."""
        deadline = time.monotonic() + 10
        while left := self.pids():
            assert time.monotonic() < deadline, [name_of(pid) for pid in left]
            time.sleep(0.1)


@contextmanager
def training(folder: Path) -> Iterator[Training]:
    """A run of three iterations at least."""
    run = Training(folder)
    try:
        run.await_iteration(3)
        yield run
    finally:
        for pid in run.pids():
            os.kill(pid, signal.SIGKILL)


def alone(folder: Path, iterations: int) -> checkpoint.Checkpoint:
    """What the same run learns in one process."""
    folder.mkdir()
    train = [*COMMAND, *TRAIN, "--workers=0", f"--iterations={iterations}"]
    subprocess.run(train, cwd=folder, check=True, capture_output=True)
    return checkpoint.load(folder / "run" / "checkpoints")


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_run_ends_it_after_its_iteration(
    number: int, tmp_path: Path
) -> None:
    with training(tmp_path) as run:
        for pid in run.pids():
            os.kill(pid, number)
        assert run.process.wait(LIMIT_S) == 128 + number
        run.await_silence()
        assert "stopping after this iteration" in run.said and run.said.count("\n") == 1
        assert checkpoint.iterations(run.folder / "checkpoints")[0] == run.logged
        assert not (run.folder / "last").exists()


@pytest.mark.ray
@pytest.mark.parametrize("victim", ["raylet", "driver"])
def test_a_run_that_is_ended_without_warning_keeps_its_last_iteration(
    victim: str, tmp_path: Path
) -> None:
    with training(tmp_path) as run:
        (pid,) = run.pids("raylet") if victim == "raylet" else [run.process.pid]
        os.kill(pid, signal.SIGKILL)
        status = run.process.wait(LIMIT_S)
        assert status == (1 if victim == "raylet" else -signal.SIGKILL)
        *_, last = run.said.splitlines()
        assert last == (
            "warprl: the run has ended at once: 'warprl resume run' continues after the last "
            "whole iteration"
        )

        # It goes on from there, with the bits of a run that nothing ever happened to.
        found = stored.newest(run.folder, configuration.load(run.folder / "config.yaml"))
        assert found is not None and found.iteration >= run.logged - 1
        resume = [*COMMAND, "resume", "./run", "--iterations=1", "--json"]
        done = subprocess.run(resume, cwd=tmp_path, check=True, capture_output=True)
        reached = json.loads(done.stdout)["iteration"]
        assert reached == found.iteration + 1
        saved = checkpoint.load(run.folder / "checkpoints")
        assert same_bits(saved.tensors, alone(tmp_path / "alone", reached).tensors)


@contextmanager
def saver_in(folder: Path, config: RunConfig, lost: str = "") -> Iterator[Saver]:
    """What saves a run whose lease is held, or lost as it says."""

    def check() -> None:
        if lost:
            raise RunFailedError(lost)

    lease: Any = SimpleNamespace(check=check)
    with RunLog(folder, Console(quiet=True), 0, 1, writers=()) as log:
        with Saver(folder, config, lease, log) as saver:
            yield saver


def test_the_last_iteration_is_saved_whatever_ends_the_run(tmp_path: Path) -> None:
    config = small()
    with running(config) as run:
        run.train()
        with pytest.raises(ZeroDivisionError), saver_in(tmp_path, config) as saver:
            saver.keep(run.progress)
            raise ZeroDivisionError
    saved = checkpoint.load(tmp_path / "checkpoints")
    assert saved.iteration == 1
    assert same_bits(saved.tensors, run.progress.learner.to_tensors())


def test_nothing_is_saved_into_a_run_that_another_process_has_taken_over(tmp_path: Path) -> None:
    config = small()
    progress = Progress.begin(experiment_of(config))
    with pytest.raises(RunFailedError, match="taken"):
        with saver_in(tmp_path, config, lost="the run was taken over") as saver:
            saver.keep(progress)
    assert checkpoint.iterations(tmp_path / "checkpoints") == []


def test_a_run_that_is_stopped_and_cannot_be_saved_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Progress, "save", save)
    assert main([*TRAIN, "--workers=0", "--iterations=1"]) == 1
    assert "warprl: cannot write to run: No space left on device; " in capsys.readouterr().err


def test_a_checkpoint_is_due_by_its_number_or_by_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(
        "point-navigation-v1", "output.checkpoint_every=3", "output.checkpoint_minutes=2"
    )
    now, saved = 0.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress.begin(experiment_of(config))
    with saver_in(tmp_path, config) as saver:
        for iteration, minutes in enumerate([0.5, 1.0, 1.5, 2.0, 3.6, 3.7], start=1):
            now = 60.0 * minutes
            progress = replace(progress, learner=replace(progress.learner, iteration=iteration))
            saver.keep(progress)
            saver.save_if_due()
            saved.append(max(checkpoint.iterations(tmp_path / "checkpoints"), default=0))
    assert saved == [0, 0, 3, 3, 5, 6]


@pytest.mark.ray
def test_a_run_that_is_to_end_does_not_wait_for_lost_workers() -> None:
    start_ray()
    crew = Crew([], 60.0, restart_timeout_s=600.0, stopping=lambda: True)
    with pytest.raises(RunFailedError, match="all workers were lost while the run was stopping"):
        crew.at_least_one()


@pytest.mark.ray
def test_workers_that_do_not_start_in_time_are_named() -> None:
    start_ray()
    config = small()
    compute = replace(config.compute, workers=1, restart_timeout_s=1e-3)
    with pytest.raises(RunFailedError, match="did not start within 0.001 s: free CPUs, or set"):
        RaySampler(experiment_of(config), config.family, compute)
