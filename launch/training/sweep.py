"""A sweep trains a grid of runs; a repeated call continues it until all are finished.

Each cell of the grid (see :mod:`warprl.launch.training.cells`) is an ordinary run, trained on one
core in a trial of Ray Tune (see :mod:`warprl.launch.training.trials`). The run folder decides what
is left to do, so Tune's own records are not kept.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from warprl.launch.cluster.address import DEFAULTS, ClusterOptions, named
from warprl.launch.errors import UserError, os_errors
from warprl.launch.outcome import Document, Outcome
from warprl.launch.runs import config as configuration
from warprl.launch.runs import folders
from warprl.launch.runs.storage import is_uri
from warprl.launch.training.cells import Cell, Result, plan, read
from warprl.launch.training.train import say


@dataclass(frozen=True, kw_only=True)
class SweepRun(Document):
    """One run of the grid, and how a sweep left it; see :class:`Result`."""

    run: str
    family: str
    agent: str
    label: str
    seed: int
    iterations: int
    state: str
    iteration: int
    error: str | None


@dataclass(frozen=True, kw_only=True)
class SweepSummary(Document):
    """All runs of a grid, and the signal that stopped the sweep, if one did."""

    folder: str
    stopped_by: str | None
    runs: Sequence[SweepRun]


def sweep(
    path: Path, storage: str | None, console: Console, cluster: ClusterOptions = DEFAULTS
) -> Outcome[SweepSummary]:
    """Train the unfinished runs of a grid. If one fails, it is named and the others continue.

    The runs lie in ``storage`` if that is given. Raises UserError, before Ray starts, for a bad
    file, for a cell that cannot be configured and for a run that was trained with settings other
    than the file's; and before anything is written for a cluster that cannot be used.
    """
    grid = read(path, storage)
    place = grid.place
    if is_uri(place):
        folders.require_mounted(place)
    cells = plan(grid, path)
    for cell in cells:  # here as well, for trials may train on other machines
        configuration.note_begun(cell.config)

    # Finished runs need no work, and no Ray.
    results = {c.name: Result("skipped", c.done or 0) for c in cells if c.finished}
    for name in results:
        say(console, f"{name}: finished before")

    # The others go through Ray, which is not loaded before everything has been checked.
    waiting = [cell for cell in cells if not cell.finished]
    stopped = None
    if waiting:
        from warprl.launch.training import trials

        trials.prepare(waiting, grid.concurrent, cluster, console)
        _make(place)
        trained, stopped = trials.train(waiting, place, grid.concurrent, console)
        results |= trained
    return _outcome(cells, results, place, stopped)


def _make(place: str) -> None:
    """Make the folder of the runs. Raises UserError if a node of a cluster does not see it."""
    folder = None if is_uri(place) or os.path.isdir(place) else Path(place)
    if folder:
        with os_errors(UserError, f"cannot make the folder {place}"):
            folder.mkdir(parents=True)
    if named() is None:
        return
    from warprl.launch.cluster.places import require_shared

    try:
        require_shared(place)
    except UserError:
        if folder:
            with suppress(OSError):
                folder.rmdir()
        raise


def _outcome(
    cells: Sequence[Cell], results: Mapping[str, Result], place: str, stopped: int | None
) -> Outcome[SweepSummary]:
    runs = [
        SweepRun(
            run=cell.run,
            family=cell.config.family,
            agent=cell.config.agent,
            label=cell.label,
            seed=cell.config.seed,
            iterations=cell.config.iterations,
            **results[cell.name]._asdict(),
        )
        for cell in cells
    ]

    # For people: the number of cells in each state, and each failure.
    counts = Counter(run.state for run in runs)
    failed = [cell.name for cell in cells if results[cell.name].state == "failed"]
    lines = [f"{len(cells)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items())]
    lines += [f"failed: {name}: {results[name].error}" for name in failed]
    name_of_signal = signal.Signals(stopped).name if stopped else None
    if stopped:
        lines.append(f"stopped by {name_of_signal}: the same command continues it")

    summary = SweepSummary(folder=place, stopped_by=name_of_signal, runs=runs)
    status = 128 + stopped if stopped else int(bool(failed))
    return Outcome(summary, "\n".join([*lines, place]), status)
