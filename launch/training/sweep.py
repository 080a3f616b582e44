"""A grid of runs, task families x agents x seeds, brought to its end in as many calls as it takes.

The grid is a YAML file, such as::

    families: [half-cheetah-dir-v1, half-cheetah-vel-v1]
    agents: [warpgrad, promp]
    seeds: [1, 2, 3]
    env_steps: 4_000_000      # equal for all, rounded up to whole iterations; or: iterations: 200
    settings: [tasks=20]      # for every run, as with --set
    concurrent: 2             # runs at a time; default: one a core
    folder: runs/comparison   # default: where all runs are

Each cell is an ordinary run, ``<folder>/<family>-<agent>-s<seed>``, trained on one core in a trial
of Ray Tune (see :mod:`warprl.launch.training.trials`). The run folder decides what is left to do,
so Tune's own records are not kept.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Gt, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from warprl import checkpoint as checkpoints
from warprl.launch.errors import UserError
from warprl.launch.outcome import Outcome
from warprl.launch.runs import config as configuration
from warprl.launch.runs import folders, stored
from warprl.launch.runs.config import RunConfig
from warprl.launch.training.train import say

OWN_KEYS = {"seed": "seeds", "iterations": "iterations", "workers": "concurrent"}


class Grid(BaseModel):
    """The file, as it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    families: Annotated[tuple[str, ...], MinLen(1)]
    agents: Annotated[tuple[str, ...], MinLen(1)]
    seeds: Annotated[tuple[int, ...], MinLen(1)]
    iterations: Annotated[int, Gt(0)] | None = None
    env_steps: Annotated[int, Gt(0)] | None = None
    settings: tuple[str, ...] = ()
    concurrent: Annotated[int, Gt(0)] | None = None
    folder: str | None = None


class Cell(NamedTuple):
    """One run of the grid; ``done`` iterations are saved, and it is None if there is no run yet."""

    folder: Path
    config: RunConfig
    done: int | None

    @property
    def name(self) -> str:
        """Of the run."""
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done is not None and self.done >= self.config.iterations


class Result(NamedTuple):
    """How a cell is after this call: finished, skipped, stopped, waiting or failed."""

    state: str
    iteration: int
    error: str | None = None


def sweep(path: Path, console: Console) -> Outcome:
    """Train what is missing of a grid. A cell that fails is named, and the others go on.

    Raises UserError, before Ray starts, for a bad file, for a cell that cannot be configured and
    for a run that was trained with other settings than the file's.
    """
    grid = read(path)
    folder = (Path(grid.folder) if grid.folder else folders.root()).absolute()
    cells = plan(grid, folder, path)
    results = {c.name: Result("skipped", c.done or 0) for c in cells if c.finished}
    for name in results:
        say(console, f"{name}: finished before")
    waiting = [cell for cell in cells if not cell.finished]
    stopped = None
    if waiting:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
        from warprl.launch.training import trials

        trained, stopped = trials.train(waiting, folder, grid.concurrent, console)
        results |= trained
    return _outcome(cells, results, folder, stopped)


def read(path: Path) -> Grid:
    """The grid in a file. Raises UserError, in one line, for an unknown key or a bad value."""
    data = configuration.read_yaml(path, "a sweep: it needs families, agents and seeds")
    try:
        grid = Grid.model_validate_json(json.dumps(data))
    except ValidationError as error:
        message = configuration.explain(error, list(Grid.model_fields))
        raise UserError(f"{path}: {message}") from error
    if (grid.iterations is None) == (grid.env_steps is None):
        raise UserError(f"{path}: give either iterations or env_steps")
    for setting in grid.settings:
        key, separator, _ = setting.partition("=")
        if not separator:
            raise UserError(f"{path}: settings: {setting!r} is not KEY=VALUE")
        if key in OWN_KEYS:
            raise UserError(f"{path}: settings: {key!r} cannot be set: see {OWN_KEYS[key]!r}")
    return grid


def plan(grid: Grid, folder: Path, path: Path) -> list[Cell]:
    """Every cell, seed by seed, so that a stopped grid holds whole comparisons.

    Raises UserError for the first that cannot be configured, or whose folder holds another run.
    """
    cells = []
    for seed, family, agent in product(grid.seeds, grid.families, grid.agents):
        try:
            config = _resolve(grid, family, agent, seed)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        name = f"{family.replace(':', '-')}-{agent}-s{seed}"  # package.module:FAMILY
        if not folders.NAME.fullmatch(name):
            raise UserError(f"{path}: {name!r} is not a run name of up to 100 characters")
        cells.append(Cell(folder / name, config, _done(folder / name, config)))
    name, number = Counter(cell.name for cell in cells).most_common(1)[0]
    if number > 1:
        raise UserError(f"{path}: {name} is in the grid {number} times: name each part of it once")
    return cells


def _resolve(grid: Grid, family: str, agent: str, seed: int) -> RunConfig:
    options = {"workers": 0, "seed": seed, "iterations": grid.iterations}
    config = configuration.resolve(family, agent, options, grid.settings)
    if grid.env_steps is None:
        return config
    return configuration.with_env_steps(config, grid.env_steps)


def _done(folder: Path, wanted: RunConfig) -> int | None:
    """Iterations in the newest sound checkpoint of a run; None if there is no such folder.

    Raises UserError if it holds something else, or a run with other settings.
    """
    if not os.path.lexists(folder):
        return None
    if not os.path.isfile(folder / "config.yaml"):
        raise UserError(f"{folder} is not a run: it holds no config.yaml; move it away")
    found = configuration.load(folder / "config.yaml")
    for key in configuration.differences(found, wanted):
        before, now = (configuration.flat(config)[key] for config in (found, wanted))
        raise UserError(
            f"{folder} was trained with {key} = {before} and is now to have {now}: "
            "move it away or choose another folder"
        )
    if (folder / stored.IMPORTED).is_dir():
        raise UserError(f"{folder} began with an imported policy: move it away")
    if not checkpoints.iterations(folder / "checkpoints"):
        return 0
    return stored.load_checkpoint(folder, found, None).iteration


def _outcome(
    cells: Sequence[Cell], results: Mapping[str, Result], folder: Path, stopped: int | None
) -> Outcome:
    rows: list[dict[str, Any]] = [
        {
            "run": str(cell.folder),
            "family": cell.config.family,
            "agent": cell.config.agent,
            "seed": cell.config.seed,
            "iterations": cell.config.iterations,
            **results[cell.name]._asdict(),
        }
        for cell in cells
    ]
    counts = Counter(row["state"] for row in rows)
    failed = [cell.name for cell in cells if results[cell.name].state == "failed"]
    lines = [f"{len(cells)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items())]
    lines += [f"failed: {name}: {results[name].error}" for name in failed]
    name_of_signal = signal.Signals(stopped).name if stopped else None
    if stopped:
        lines.append(f"stopped by {name_of_signal}: the same command goes on")
    data = {"folder": str(folder), "stopped_by": name_of_signal, "runs": rows}
    status = 128 + stopped if stopped else int(bool(failed))
    return Outcome(data, "\n".join([*lines, str(folder)]), status)
