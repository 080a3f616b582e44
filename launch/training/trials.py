"""The runs of a sweep as trials of Ray Tune, which hands out the cores and survives failures.

A trial trains in a thread of its own process, where no signal arrives. The driver catches the
signal and creates a file, and every run checks for that file after each iteration.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console

from warprl import checkpoint as checkpoints
from warprl.launch.cluster.address import ClusterOptions, named
from warprl.launch.cluster.connection import connect, require_cpus, require_nodes
from warprl.launch.errors import UserError, one_line
from warprl.launch.machine import available_cores
from warprl.launch.training import train as training
from warprl.launch.training.cells import Cell, Result
from warprl.launch.training.interruption import stoppable
from warprl.launch.training.train import Stop, say

# We handle interruptions, files and output ourselves. Trials stay in the working directory, because
# a user's own family may lie there.
ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # only the old output obeys verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def prepare(
    cells: Sequence[Cell], concurrent: int | None, cluster: ClusterOptions, console: Console
) -> None:
    """Connect to Ray, which can train so many cells at a time if it starts here.

    Raises UserError if it has no CPU at all or if a node cannot train the cells.
    """
    os.environ.update(ENVIRONMENT)  # before Ray starts, whose processes inherit it
    connect(concurrent or available_cores(), cluster)
    require_cpus(1, cluster.wait_s, partial(say, console), free=False)
    require_nodes({cell.config.family for cell in cells})


def train(
    cells: Sequence[Cell], folder: Path, concurrent: int | None, console: Console
) -> tuple[dict[str, Result], int | None]:
    """Train cells to their last iteration, ``concurrent`` at a time, after :func:`prepare`.

    If that is None, it is one cell for each core, or for each CPU that a cluster has.
    Returns results by the cells' names, and the signal that stopped the sweep, if any.
    """
    if named() is None:
        concurrent = concurrent or available_cores()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # _Progress names what fails

    # Tune's records serve this sweep only: they lie in a temporary folder beside the runs.
    with (
        tempfile.TemporaryDirectory(prefix=".sweep-", dir=folder) as scratch,
        stoppable(console) as stop,
    ):
        mark = Path(scratch) / "stop"
        progress = _Progress(cells, mark, stop, console)

        def trial(config: dict[str, Any]) -> dict[str, Any]:
            try:
                return {"iteration": _train_cell(cells[config["cell"]], mark)}
            except Exception as error:  # whatever it is, only this cell ends
                return {"error": _reason(error)}

        tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={"cell": tune.grid_search(list(range(len(cells))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=str(Path(scratch) / "tune"), verbose=0, callbacks=[progress]
            ),
        ).fit()
    return progress.results, stop.signal


class _Mark:
    """Stops a trial once a file exists."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def signal(self) -> int | None:
        return signal.SIGTERM if self._path.exists() else None


def _train_cell(cell: Cell, mark: Path) -> int | None:
    """Start or continue one run; returns the iteration it reached, or None if it never began."""
    if mark.exists():
        return None
    console = Console(quiet=True)

    def stopping(_: Console) -> AbstractContextManager[Stop]:
        return nullcontext(_Mark(mark))

    if cell.done is None:
        name = str(cell.folder)
        outcome = training.start(cell.config, name, console, stopping=stopping)
    else:
        remaining = cell.config.iterations - cell.done
        outcome = training.resume(cell.folder, remaining, console, stopping)
    return outcome.summary.iteration


class _Progress(TrialProgressCallback):
    """Reports what starts, ends and fails, keeps the results, creates the file that stops trials.

    Given a callback of this class, Tune adds none of its own, which would print at any verbosity.
    """

    def __init__(self, cells: Sequence[Cell], mark: Path, stop: Stop, console: Console) -> None:
        super().__init__()
        self._cells, self._mark, self._stop, self._console = cells, mark, stop, console
        self.results = {cell.name: Result("waiting", cell.done or 0) for cell in cells}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks in its records, which are deleted

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._stop.signal is not None:
            self._mark.touch()

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        cell = self._cell(trial)
        if self._stop.signal is None:
            begins = f"resuming at {cell.done}" if cell.done else "starting"
            say(self._console, f"{cell.name}: {begins}, to iteration {cell.config.iterations}")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        pass

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        result = trial.last_result
        if "error" in result:
            return self._fail(trial, result["error"])
        cell, reached = self._cell(trial), result["iteration"]
        if reached is not None:
            state = "finished" if reached >= cell.config.iterations else "stopped"
            self.results[cell.name] = Result(state, reached)
            say(self._console, f"{cell.name}: {state} at iteration {reached}")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self._fail(trial, "its process ended; perhaps the machine ran out of memory")

    def _fail(self, trial: Trial, reason: str) -> None:
        cell = self._cell(trial)
        saved = max(checkpoints.iterations(cell.folder / "checkpoints"), default=0)
        self.results[cell.name] = Result("failed", saved, reason)
        say(self._console, f"{cell.name}: failed: {reason}")

    def _cell(self, trial: Trial) -> Cell:
        position: int = trial.config["cell"]
        return self._cells[position]


def _reason(error: Exception) -> str:
    """Why a run failed, on one line."""
    said = one_line(error)
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
