"""The runs of a sweep as trials of Ray Tune, which hands out the cores and survives failures.

A trial trains in a thread of its own process, where no signal arrives. The driver catches the
signal and writes a file where the runs are, and every run looks for it after each iteration.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from functools import cached_property, partial
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console

from warprl.launch.cluster.address import ClusterOptions, named
from warprl.launch.cluster.connection import connect, require_cpus, require_nodes
from warprl.launch.errors import UserError, one_line
from warprl.launch.machine import available_cores
from warprl.launch.runs import copies, folders
from warprl.launch.runs.storage import Store, open_place
from warprl.launch.runs.trust import Trust
from warprl.launch.search_path import look_for, own_folders
from warprl.launch.training import train as training
from warprl.launch.training.cells import Cell, Result
from warprl.launch.training.interruption import Stop, stoppable
from warprl.launch.training.train import say

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
    cells: Sequence[Cell], place: str, concurrent: int | None, console: Console
) -> tuple[dict[str, Result], int | None]:
    """Train cells to their last iteration, ``concurrent`` at a time, after :func:`prepare`.

    If that is None, it is one cell for each core, or for each CPU that a cluster has.
    Returns results by the cells' names, and the signal that stopped the sweep, if any.
    """
    if named() is None:
        concurrent = concurrent or available_cores()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # _Progress names what fails

    # Tune's records serve this sweep only.
    mark, stop = _Mark(place), stoppable(console)
    with (
        tempfile.TemporaryDirectory(prefix="warprl-sweep-") as scratch,
        closing(mark),
        stop.caught(),
    ):
        progress = _Progress(cells, mark, stop, console)
        places = own_folders()

        def trial(config: dict[str, Any]) -> dict[str, Any]:
            try:
                look_for(cells[config["cell"]].config.family, places)
                return {"iteration": _train_cell(cells[config["cell"]], mark)}
            except Exception as error:  # whatever it is, only this cell ends
                return {"error": _reason(error)}

        tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={"cell": tune.grid_search(list(range(len(cells))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[progress]),
        ).fit()
    return progress.results, stop.signal


class _Mark:
    """Asks the trials of a sweep to stop, by a file beside the runs, wherever these are."""

    def __init__(self, place: str) -> None:
        """Use a hidden folder in the path or the URI of the runs."""
        self._place, self._folder = place, f".sweep-{folders.stamp()}-{os.getpid()}"
        self._seen = False

    @cached_property
    def _store(self) -> Store:
        return open_place(self._place)

    def set(self) -> None:
        """Ask all trials to stop."""
        if not self._seen:
            with suppress(OSError, UserError):  # the caller tries again
                self._store.write(f"{self._folder}/stop", b"")
                self._seen = True

    def caught(self) -> AbstractContextManager[None]:
        """Trials catch no signal."""
        return nullcontext()

    @property
    def signal(self) -> int | None:
        """SIGTERM once the trials are asked to stop."""
        if not self._seen:
            with suppress(OSError, UserError):  # looked for again after the next iteration
                self._seen = bool(self._store.names(self._folder))
        return signal.SIGTERM if self._seen else None

    def close(self) -> None:
        """Remove the file."""
        if self._seen:
            with suppress(OSError, UserError):
                self._store.remove(self._folder)


def _train_cell(cell: Cell, mark: _Mark) -> int | None:
    """Start or continue one run; returns the iteration it reached, or None if it never began."""
    if mark.signal:
        return None
    console = Console(quiet=True)

    def stopping(_: Console) -> Stop:
        return mark

    if cell.done is None:
        outcome = training.start(cell.config, cell.run, console, stopping=stopping)
    else:
        remaining = cell.config.iterations - cell.done
        with copies.lasting(folders.find(cell.run)) as folder:
            named = Trust(family=cell.config.family)
            outcome = training.resume(folder, remaining, console, stopping, trust=named)
    return outcome.summary.iteration


class _Progress(TrialProgressCallback):
    """Reports what starts, ends and fails, keeps the results, asks them to stop.

    Given a callback of this class, Tune adds none of its own, which would print at any verbosity.
    """

    def __init__(self, cells: Sequence[Cell], mark: _Mark, stop: Stop, console: Console) -> None:
        super().__init__()
        self._cells, self._mark, self._stop, self._console = cells, mark, stop, console
        self.results = {cell.name: Result("waiting", cell.done or 0) for cell in cells}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks in its records, which are deleted

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._stop.signal is not None:
            self._mark.set()

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
        self.results[cell.name] = Result("failed", _saved(cell), reason)
        say(self._console, f"{cell.name}: failed: {reason}")

    def _cell(self, trial: Trial) -> Cell:
        position: int = trial.config["cell"]
        return self._cells[position]


def _saved(cell: Cell) -> int:
    """The newest iteration of a run that is saved; if storage does not tell, that of before."""
    with suppress(OSError, UserError):
        return max(folders.iterations(cell.run), default=0)
    return cell.done or 0


def _reason(error: Exception) -> str:
    """Why a run failed, on one line."""
    said = one_line(error)
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
