"""Runs under one protocol, grouped by what they differ in besides the seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from warprl.launch.errors import RunFailedError, UserError
from warprl.launch.evaluation import compare_report as report
from warprl.launch.evaluation import evaluate
from warprl.launch.evaluation.evaluate import Protocol
from warprl.launch.evaluation.report import DIAGNOSTICS
from warprl.launch.evaluation.statistics import estimate_over_seeds
from warprl.launch.outcome import Outcome, to_json
from warprl.launch.runs import config as configuration
from warprl.launch.runs import folders, metrics, stored
from warprl.launch.runs.metrics import Metrics
from warprl.seeding import generator

# Keys of a configuration that do not make a run another kind of run.
NO_SETTINGS = (*configuration.CARRIED_OUT, "family", "seed")


@dataclass(frozen=True)
class Member:
    """One run of a comparison and what it logged up to its checkpoint."""

    run: stored.StoredRun
    history: Sequence[Metrics]

    @property
    def settings(self) -> dict[str, Any]:
        """What may be different between groups and is the same within one."""
        keys = configuration.flat(self.run.config)
        kept = {key: value for key, value in keys.items() if key not in NO_SETTINGS}
        begun = stored.imported_from(self.run.folder)
        # Of the iterations, those done count and not those planned.
        return kept | {"init-from": begun, "iterations": self.run.iteration}


@dataclass(frozen=True)
class Measured:
    """One run under a protocol: what is said about it, and each of its adaptations."""

    about: Mapping[str, Any]
    adaptations: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone, by seed."""

    label: str
    members: Sequence[Member]


def compare(
    paths: Sequence[Path],
    *,
    steps: int,
    episodes: int,
    seed: int,
    out: str | None,
    console: Console,
) -> Outcome:
    """Evaluate every run on the same tasks and random numbers, and write table and figure.

    An evaluation that a run has of its newest checkpoint under the same protocol is used again.
    Raises UserError, before any work, for runs that cannot be compared, values out of range and
    folders that cannot be written.
    """
    members = [open_member(folder) for folder in paths]
    first = members[0].run
    for member in members:
        if member.run.config.family != first.config.family:
            raise UserError(
                f"cannot compare: {first.folder} is of family {first.config.family} "
                f"and {member.run.folder} of {member.run.config.family}"
            )
    groups = group(members)
    protocol = evaluate.make_protocol(first.config.family, steps, episodes, seed)
    known = {member.run.folder: evaluate.recall(member.run, protocol) for member in members}
    for folder, evaluation in known.items():
        if evaluation is None:
            folders.require_writable(folder, "evaluation")
    folder = _create(out)
    try:
        summaries = [
            summarise(
                group.label,
                [measure(m, protocol, known[m.run.folder], console) for m in group.members],
                protocol,
            )
            for group in groups
        ]
        found = document(first.config.family, protocol, summaries) | {"folder": str(folder)}
        _write(folder, found, groups)
    except BaseException:
        with suppress(OSError):  # what has been written stays
            folder.rmdir()
        raise
    return Outcome(found, report.text(found))


def group(members: Iterable[Member]) -> list[Group]:
    """Groups in the order of their first runs, each labelled with its agent.

    If an agent has several groups, the keys that they differ in are part of the label. Raises
    UserError for runs that do not differ even in their seed.
    """
    found: dict[str, dict[int, Member]] = {}
    for member in members:
        alike = found.setdefault(json.dumps(member.settings), {})
        twin = alike.setdefault(member.run.config.seed, member)
        if twin is not member:
            raise UserError(
                f"{twin.run.folder} and {member.run.folder} have the same settings and seed "
                f"{member.run.config.seed}: name one of them"
            )
    settings = [json.loads(key) for key in found]
    return [
        Group(
            _label(own, [other for other in settings if other["agent"] == own["agent"]]),
            [alike[seed] for seed in sorted(alike)],
        )
        for own, alike in zip(settings, found.values(), strict=True)
    ]


def training_curve(member: Member) -> NDArray[np.float64]:
    """(environment steps, return after the last inner step) ``[2, iterations]``, as logged."""
    points = [(m.get("env_steps"), metrics.adaptation(m)[-1:]) for m in member.history]
    whole = [(steps, last[0]) for steps, last in points if steps is not None and last]
    return np.array(whole, dtype=np.float64).reshape(-1, 2).T


def open_member(folder: Path) -> Member:
    """A run at its newest checkpoint. Raises UserError for one that cannot be read."""
    run = stored.open_run(folder, None)
    return Member(run, metrics.read(folder / "metrics.jsonl", run.iteration))


def _label(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    keys = [key for key in own if any(other[key] != own[key] for other in others)]
    return " ".join([own["agent"], *(f"{key}={_value(own[key])}" for key in keys)])


def _value(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _create(out: str | None) -> Path:
    stamp = f"{datetime.now():%Y%m%d-%H%M%S-%f}"
    folder = folders.root() / "comparisons" / stamp if out is None else Path(out)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{folder} exists: choose another --out") from None
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


def measure(
    member: Member, protocol: Protocol, known: dict[str, Any] | None, console: Console
) -> Measured:
    """What is ``known`` of a run under this protocol; without that, what an evaluation finds."""
    evaluation = known or evaluate.record(member.run, protocol, console)
    curve, config = evaluation["curves"][0], member.run.config
    last = member.history[-1] if member.history else {}
    about = {
        "run": str(member.run.folder),
        "seed": config.seed,
        "agent": config.agent,
        "iteration": member.run.iteration,
        "trained_inner_steps": config.adaptation.steps,
        "evaluation": evaluation["folder"],
        "reused": known is not None,
        "diverged": len(curve["diverged"]),
        "left_out": len(curve["left_out"]),
        "env_steps": last.get("env_steps"),
        "wall_s": last.get("wall_s"),
    }
    return Measured(about, curve["adaptations"])


def summarise(label: str, seeds: Sequence[Measured], protocol: Protocol) -> dict[str, Any]:
    """Estimates over the seeds and tasks of a group."""
    adaptations = [row for seed in seeds for row in seed.adaptations]
    rows, values, strata = [], [], []
    for seed in seeds:
        returns = np.array([row["returns"] for row in seed.adaptations], dtype=np.float64)
        usable = np.isfinite(returns).all(axis=1)
        values.append(_quantities(returns[usable]))
        strata.append(protocol.strata[usable])
        rows.append({**seed.about, "mean": float(returns[usable, -1].mean())})
    found = estimate_over_seeds(values, strata, generator(protocol.seed, "bootstrap"))
    *curve, area, gain, worse = map(asdict, found)
    return {
        "group": label,
        **{key: rows[0][key] for key in ("agent", "iteration", "trained_inner_steps")},
        "seeds": len(rows),
        "interval_over": "seeds and tasks" if len(rows) > 1 else "tasks of one seed",
        "adaptations": len(rows) * len(protocol.rows),
        "curve": curve,
        "area": area,
        "gain": gain,
        "worse": worse["mean"],
        "steps": evaluate.over_steps(_diagnostics(adaptations, protocol.steps), protocol.steps),
        "env_steps": _mean([row["env_steps"] for row in rows]),
        "wall_s": _mean([row["wall_s"] for row in rows]),
        "runs": rows,
    }


def document(
    family: str, protocol: Protocol, groups: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The comparison of groups that :func:`summarise` made, as the report wants it."""
    return {
        "family": family,
        **protocol.summary(),
        "groups": groups,
    }


def _diagnostics(
    adaptations: Sequence[Mapping[str, Any]], steps: int
) -> dict[str, NDArray[np.float64]]:
    """What was found of every step of the finite adaptations, ``[n, N]``; not all have all."""
    names = [name for name in DIAGNOSTICS if any(name in row for row in adaptations)]
    finite = [row for row in adaptations if row["finite"]]
    found = {
        name: np.array([row[name] for row in finite], dtype=np.float64).reshape(-1, steps)
        for name in names
    }
    if "condition" in found:  # infinite if a warp is singular, and JSON knows no infinity
        found["condition"] = np.nan_to_num(found["condition"], nan=np.inf, posinf=np.inf)
    return found


def _quantities(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is estimated of curves ``[n, N+1]``: each point, area, gain and whether it got worse."""
    gain = returns[:, -1] - returns[:, 0]
    return np.column_stack([returns, evaluate.area(returns), gain, evaluate.got_worse(returns)])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _write(folder: Path, summary: Mapping[str, Any], groups: Sequence[Group]) -> None:
    try:
        report.write_table(folder / "comparison.csv", summary)
        report.write_curves(folder / "curve.csv", summary)
        report.plot(
            folder / "comparison.png",
            summary,
            [[training_curve(member) for member in group.members] for group in groups],
        )
        (folder / "comparison.md").write_text(report.markdown(summary), encoding="utf-8")
        (folder / "summary.json").write_text(to_json(summary) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunFailedError(f"cannot write to {folder}: {error.strerror}") from error
