"""The runs of a comparison, grouped by what they differ in besides the seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from warprl.launch.errors import UserError
from warprl.launch.evaluation.curves import Curves
from warprl.launch.evaluation.summaries import Measurement
from warprl.launch.runs import config as configuration
from warprl.launch.runs import metrics, stored
from warprl.launch.runs.key_table import text
from warprl.launch.runs.metrics import Metrics
from warprl.launch.runs.trust import OURS, Trust
from warprl.types import Floats

# Keys and sections in which the runs of a group may differ.
NO_SETTINGS = (*configuration.CARRIED_OUT, "family", "seed")


@dataclass(frozen=True)
class Member:
    """One run of a comparison and what it logged up to its checkpoint."""

    run: stored.StoredRun
    history: Sequence[Metrics]

    @classmethod
    def open(cls, folder: Path, trust: Trust = OURS) -> Member:
        """A run at its newest checkpoint. Raises UserError for one that cannot be used."""
        run = stored.open_run(folder, None, trust)
        return cls(run, metrics.read(folder / "metrics.jsonl", run.iteration))

    @property
    def training_curve(self) -> Floats:
        """(environment steps, return after the last inner step) ``[2, iterations]``, as logged."""
        points = [(m.get("env_steps"), metrics.adaptation(m)[-1:]) for m in self.history]
        whole = [(steps, last[0]) for steps, last in points if steps is not None and last]
        return np.array(whole, dtype=np.float64).reshape(-1, 2).T

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are equal within a group and may differ between groups."""
        keys = configuration.flat(self.run.config)
        kept = {k: value for k, value in keys.items() if k.partition(".")[0] not in NO_SETTINGS}
        begun = stored.imported_from(self.run.folder)
        # The iterations that were done count, and not those that were planned.
        return kept | {"init-from": begun, "iterations": self.run.iteration}


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, by seed."""

    label: str
    members: Sequence[Member]


@dataclass(frozen=True)
class Measured:
    """One run under a protocol: how it was trained, and its adaptation curves."""

    about: Measurement
    curves: Curves

    @classmethod
    def of(cls, curves: Curves, **about: Any) -> Measured:
        """The curves, with how many of them diverged or are left out, and what else is known."""
        diverged, left_out = (int((~kept).sum()) for kept in (curves.finite, curves.usable))
        return cls(Measurement(diverged=diverged, left_out=left_out, **about), curves)


def require_one_family(runs: Sequence[stored.StoredRun]) -> None:
    """Raise UserError unless all runs are of the same task family."""
    first = runs[0]
    for run in runs:
        if run.config.family != first.config.family:
            raise UserError(
                f"cannot compare: {first.address} is of family {first.config.family} "
                f"and {run.address} of {run.config.family}"
            )


def grouped(members: Iterable[Member]) -> list[Group]:
    """Groups in the order of their first runs, each labelled with its agent.

    If an agent has several groups, the keys that they differ in are part of the label. Raises
    UserError for two runs with the same settings and seed.
    """
    # Groups by settings, and within a group the runs by seed.
    found: dict[str, dict[int, Member]] = {}
    for member in members:
        alike = found.setdefault(json.dumps(member.settings), {})
        twin = alike.setdefault(member.run.config.seed, member)
        if twin is not member:
            raise UserError(
                f"{twin.run.address} and {member.run.address} have the same settings and seed "
                f"{member.run.config.seed}: name one of them"
            )

    # A label tells a group from the others of the same agent.
    settings = [json.loads(key) for key in found]
    return [
        Group(
            _label(own, [other for other in settings if other["agent"] == own["agent"]]),
            [alike[seed] for seed in sorted(alike)],
        )
        for own, alike in zip(settings, found.values(), strict=True)
    ]


def _label(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    # A key that the others do not have is left out: the type of its section tells them apart.
    keys = [key for key in own if any(key in o and o[key] != own[key] for o in others)]
    return " ".join([own["agent"], *(f"{key}={text(own[key])}" for key in keys)])
