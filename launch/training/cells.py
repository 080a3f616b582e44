"""The grid of a sweep: its file, and the runs that follow from it.

A grid is a YAML file, such as::

    families: [half-cheetah-dir-v1, half-cheetah-vel-v1]
    agents: [warpgrad, promp]
    variants:                 # agents with settings of their own, each under a name of its own
      online: {agent: warpgrad, settings: [outer.epochs=1]}
      random: {agent: random, iterations: 1}    # in place of env_steps
    vary:                     # each combination of these values is a run of its own
      policy.warp: [gate, linear, none]
      adaptation.steps: [1, 3]
    seeds: [1, 2, 3]
    env_steps: 4_000_000      # equal for all, rounded up to whole iterations; or: iterations: 200
    settings: [tasks=20]      # for every run, as with --set
    concurrent: 2             # runs at a time; default: one a core
    folder: runs/comparison   # a path or a URI; default: where all runs are

Families, seeds, agents or variants (or both), and env_steps or iterations are needed; the rest may
be left out. Each run is named ``<family>-<agent or variant>-s<seed>``, with the varied values in
between: ``half-cheetah-dir-v1-online-warp_gate-steps_3-s1``.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from annotated_types import Gt, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError

from warprl.launch.errors import UserError
from warprl.launch.runs import config as configuration
from warprl.launch.runs import copies, folders, stored
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.key_table import text
from warprl.launch.runs.storage import is_uri, require_uri
from warprl.launch.runs.trust import Trust

MAX_CELLS = 10_000

# Keys of a run that a sweep file gives under names of its own.
OWN_KEYS = {
    "family": "families",
    "agent": "agents",
    "seed": "seeds",
    "iterations": "iterations",
    "compute.workers": "concurrent",
}


class Strict(BaseModel):
    """A part of the file: every key is known, every value has its type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Variant(Strict):
    """An agent with settings that the others do not share."""

    agent: str
    settings: tuple[str, ...] = ()
    iterations: Annotated[int, Gt(0)] | None = None


class Grid(Strict):
    """The file, as it is written."""

    families: Annotated[tuple[str, ...], MinLen(1)]
    agents: Annotated[tuple[str, ...], MinLen(1)] = ()
    variants: dict[str, Variant] = {}
    vary: dict[str, Annotated[tuple[Any, ...], MinLen(1)]] = {}
    seeds: Annotated[tuple[int, ...], MinLen(1)]
    iterations: Annotated[int, Gt(0)] | None = None
    env_steps: Annotated[int, Gt(0)] | None = None
    settings: tuple[str, ...] = ()
    concurrent: Annotated[int, Gt(0)] | None = None
    folder: str | None = None

    @property
    def members(self) -> list[tuple[str, Variant]]:
        """Agents and then variants, each with its name, in the order of the file."""
        return [(agent, Variant(agent=agent)) for agent in self.agents] + [*self.variants.items()]

    @property
    def combinations(self) -> list[tuple[str, ...]]:
        """The settings of each combination of varied values; a single empty one without axes."""
        axes = [[f"{key}={text(value)}" for value in values] for key, values in self.vary.items()]
        return list(product(*axes))

    @property
    def size(self) -> int:
        """How many cells there are, found without making them."""
        axes = (self.families, self.members, self.seeds, *self.vary.values())
        return prod(map(len, axes))

    @property
    def place(self) -> str:
        """The folder of the runs: an absolute path, or a URI."""
        place = self.folder or folders.in_root()
        return require_uri(place, "folder") if is_uri(place) else os.path.abspath(place)


class Cell(NamedTuple):
    """One run of the grid.

    ``run`` is its path or its URI, and ``label`` the agent or variant with the varied values;
    ``done`` iterations are saved, and it is None if there is no run yet.
    """

    run: str
    label: str
    config: RunConfig
    done: int | None

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.rpartition("/")[2]

    @property
    def folder(self) -> Path:
        """The folder of a run that is not in storage."""
        return Path(self.run)

    @property
    def finished(self) -> bool:
        """Whether the run has all its iterations."""
        return self.done is not None and self.done >= self.config.iterations


class Result(NamedTuple):
    """The state of a cell after a sweep: finished, skipped, stopped, waiting or failed."""

    state: str
    iteration: int
    error: str | None = None


def read(path: Path, storage: str | None = None) -> Grid:
    """The grid in a file, with its runs in ``storage`` if that is given.

    Raises UserError, in one line, for an unknown key or a bad value.
    """
    data = configuration.read_yaml(path, "a sweep: it needs families, agents and seeds")
    try:
        grid = Grid.model_validate_json(json.dumps(data))
        _require_consistent(grid)
        if storage is not None:
            grid = _moved(grid, storage)
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return grid


def plan(grid: Grid, path: Path) -> list[Cell]:
    """Every cell, seed by seed, so that a stopped grid holds whole comparisons.

    Raises UserError for the first cell that cannot be configured or whose folder holds another
    run, and for two cells that are the same.
    """
    cells = []
    for seed, family, (member, variant), varied in product(
        grid.seeds, grid.families, grid.members, grid.combinations
    ):
        # An error names the cell if the settings are its own: the other cells may be valid.
        own = [*variant.settings, *varied]
        where = f"{path}: {' '.join([member, *own])}" if own else path
        try:
            config = _resolve(grid, family, variant, varied, seed)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

        # A family may be written package.module:FAMILY.
        label = "-".join([member, *_varied(grid.vary, config)])
        name = f"{family.replace(':', '-')}-{label}-s{seed}"
        if not folders.NAME.fullmatch(name):
            raise UserError(
                f"{path}: {name!r} is not a run name of up to 100 characters"
                + (": list the combinations under variants, with short names" if varied else "")
            )
        run = f"{grid.place}/{name}"
        cells.append(Cell(run, label, config, _done(run, config)))
    _require_distinct(cells, path)
    return cells


def _explain(error: ValidationError) -> str:
    """The first error in one line, with suggestions from the keys of that part of the file."""
    *section, _ = map(str, error.errors()[0]["loc"])
    part = Variant if section[:1] == ["variants"] else Grid
    hints = get_type_hints(part, include_extras=True)
    return configuration.ADVICE.explain(
        error, {".".join([*section, key]): hints[key] for key in part.model_fields}
    )


def _require_consistent(grid: Grid) -> None:
    """Raise UserError for keys that are valid one by one, but not together."""
    if not grid.members:
        raise UserError("give agents, variants or both")
    if (grid.iterations is None) == (grid.env_steps is None):
        raise UserError("give either iterations or env_steps")
    if grid.size > MAX_CELLS:
        raise UserError(f"the grid has {grid.size:,} runs: {MAX_CELLS:,} are the most")
    for key in grid.vary:
        _require_settable(key, "vary")
    for where, setting in _settings(grid):
        key, separator, _ = setting.partition("=")
        if not separator:
            raise UserError(f"{where}: {setting!r} is not KEY=VALUE")
        _require_settable(key, where)
        if key in grid.vary:
            raise UserError(f"{where}: {key!r} is in vary too: name it once")


def _moved(grid: Grid, storage: str) -> Grid:
    """The grid with its runs in storage. Raises UserError if the file names a folder as well."""
    if grid.folder is not None:
        raise UserError(f"folder = {grid.folder!r}: leave it out, or leave --storage out")
    return grid.model_copy(update={"folder": folders.require_place(storage, "--storage")})


def _settings(grid: Grid) -> Iterator[tuple[str, str]]:
    """Each setting of the grid and its variants, with its place in the file before it."""
    for setting in grid.settings:
        yield "settings", setting
    for name, variant in grid.variants.items():
        for setting in variant.settings:
            yield f"variants.{name}.settings", setting


def _require_settable(key: str, where: str) -> None:
    if key in OWN_KEYS:
        raise UserError(f"{where}: {key!r} cannot be set: see {OWN_KEYS[key]!r}")


def _resolve(
    grid: Grid, family: str, variant: Variant, varied: Sequence[str], seed: int
) -> RunConfig:
    iterations = variant.iterations or grid.iterations
    options = {"workers": 0, "seed": seed, "iterations": iterations}
    settings = [*grid.settings, *variant.settings, *varied]
    config = configuration.resolve(family, variant.agent, options, settings)
    if iterations is not None or grid.env_steps is None:
        return config
    return configuration.with_env_steps(config, grid.env_steps)


def _varied(keys: Mapping[str, Any], config: RunConfig) -> list[str]:
    """The varied keys with the values that a configuration has, as a run name can hold them.

    The values are the resolved ones, so that ``1e-3`` and ``0.001`` make the same name.
    """
    flat = configuration.flat(config)
    return [f"{_short(key, flat)}_{_spell(flat[key])}" for key in keys]


def _short(key: str, keys: Mapping[str, Any]) -> str:
    """The last part of a key, or the whole key if another key has the same last part."""
    ends = Counter(other.rpartition(".")[2] for other in keys)
    last = key.rpartition(".")[2]
    return last if ends[last] == 1 else key


def _spell(value: Any) -> str:
    """A value in characters that a run name may have: ``[64, 64]`` becomes ``64x64``."""
    if isinstance(value, list):
        return "x".join(map(_spell, value))
    return re.sub(r"[^A-Za-z0-9._-]", "-", text(value).replace("e+", "e"))


def _require_distinct(cells: Sequence[Cell], path: Path) -> None:
    """Raise UserError if two cells have the same name, or the same configuration."""
    name, number = Counter(cell.name for cell in cells).most_common(1)[0]
    if number > 1:
        raise UserError(f"{path}: {name} is in the grid {number} times: name each part of it once")
    names: dict[RunConfig, str] = {}
    for cell in cells:
        twin = names.setdefault(cell.config, cell.name)
        if twin != cell.name:
            raise UserError(f"{path}: {twin} and {cell.name} are the same run: name one of them")


def _done(run: str, wanted: RunConfig) -> int | None:
    """Iterations in the newest intact checkpoint of a run; None if there is no such folder.

    Raises UserError if the folder holds something else, or a run with other settings.
    """
    with folders.opened(run) as folder:
        if folder is None:
            return None
        found = configuration.load(folder / "config.yaml", Trust(family=wanted.family))
        for key in configuration.differences(found, wanted):
            before, now = (text(configuration.flat(config).get(key)) for config in (found, wanted))
            raise UserError(
                f"{run} was trained with {key} = {before}, and the sweep file says {now}: "
                "move it away or choose another folder"
            )
        if (folder / copies.IMPORTED).is_dir():
            raise UserError(f"{run} was started from an imported policy: move it away")
        saved = stored.newest(folder, found)
        return saved.iteration if saved else 0
