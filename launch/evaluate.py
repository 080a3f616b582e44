"""Adaptation curves: returns on held-out tasks after 0, 1, ..., N inner steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from warprl.agents.inner import AdaptationConfig, adapt
from warprl.agents.policy import GaussianPolicy
from warprl.envs import TaskFamily, make_family
from warprl.launch import report, runs, stored
from warprl.launch.errors import RunFailedError, UserError
from warprl.launch.outcome import Outcome, to_json
from warprl.launch.statistics import estimate
from warprl.seeding import generator
from warprl.types import Params, Task

STEPS = 3  # inner steps shown if training took fewer
ADAPTATIONS = 20  # at least so many, repeating the tasks of a family that has few
CHUNK = 10  # adaptations simulated together


@dataclass(frozen=True)
class Subject:
    """A policy under evaluation: how it starts, and how it adapts."""

    label: str
    policy: GaussianPolicy
    theta: Params
    phi: Params
    adaptation: AdaptationConfig


@dataclass(frozen=True)
class Protocol:
    """What every subject is put through: the same tasks, episodes and random numbers."""

    family: TaskFamily
    tasks: Sequence[Task]
    repeats: int
    steps: int
    episodes: int
    seed: int

    @property
    def rows(self) -> list[tuple[int, Task]]:
        """(position of the task, task) of every adaptation; each has its own random streams."""
        return [pair for _ in range(self.repeats) for pair in enumerate(self.tasks)]


@dataclass(frozen=True)
class Curve:
    """What one subject returned, ``[n, N+1]``, and which adaptations stayed finite, ``[n]``."""

    label: str
    returns: NDArray[np.float64]
    finite: NDArray[np.bool_]


def evaluate(
    folder: Path,
    *,
    steps: int | None,
    episodes: int | None,
    against: Path | None,
    untrained: bool,
    checkpoint: int | None,
    seed: int | None,
    console: Console,
) -> Outcome:
    """Measure adaptation curves and write them to a new folder under ``RUN/evaluation``.

    ``untrained`` and ``against`` add curves of the same tasks under the same random numbers. Raises
    UserError for runs that cannot be compared or values out of range.
    """
    run = stored.open_run(folder, checkpoint)
    config = run.config
    others = [] if against is None else [stored.open_run(against, None)]
    for other in others:
        if other.config.family != config.family:
            raise UserError(
                f"cannot compare: {folder} is of family {config.family} "
                f"and {other.folder} of {other.config.family}"
            )
    protocol = _protocol(
        config.family,
        max(config.adaptation.steps, STEPS) if steps is None else steps,
        config.adaptation.episodes if episodes is None else episodes,
        config.seed if seed is None else seed,
    )
    runs.require_writable(folder, "evaluation")
    subjects = [_subject(run, "trained", run.theta, run.phi)]
    if untrained:
        subjects.append(_subject(run, "untrained", *stored.initial(folder, config)))
    subjects += [_subject(other, str(other.folder), other.theta, other.phi) for other in others]
    curves = [measure(subject, protocol, console) for subject in subjects]
    return _write(run, protocol, curves)


def measure(subject: Subject, protocol: Protocol, console: Console) -> Curve:
    """The subject's returns on every adaptation of the protocol, some adaptations at a time."""
    torch.set_num_threads(1)
    config = replace(subject.adaptation, steps=protocol.steps, episodes=protocol.episodes)
    returns, finite = [], []
    with console.status("") as status:
        for first in range(0, len(protocol.rows), CHUNK):
            rows = protocol.rows[first : first + CHUNK]
            status.update(f"{subject.label}: {first} of {len(protocol.rows)} adaptations done")
            trajectory, _ = adapt(
                protocol.family.make_batch(len(rows) * protocol.episodes),
                subject.policy, subject.theta, subject.phi,
                [task for _, task in rows], range(first, first + len(rows)),
                config, protocol.seed, 0,
            )  # fmt: skip
            returns.append(trajectory.returns.double().numpy())
            finite.append(trajectory.finite.numpy())
    return Curve(subject.label, np.concatenate(returns), np.concatenate(finite))


def _protocol(name: str, steps: int, episodes: int, seed: int) -> Protocol:
    for option, value, least in (("steps", steps, 1), ("episodes", episodes, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{option} {value}: must be {least} or more")
    family = make_family(name)
    tasks = family.held_out_tasks()
    return Protocol(family, tasks, -(-ADAPTATIONS // len(tasks)), steps, episodes, seed)


def _subject(run: stored.StoredRun, label: str, theta: Params, phi: Params) -> Subject:
    return Subject(label, run.policy, theta, phi, run.config.adaptation)


def _summary(run: stored.StoredRun, protocol: Protocol, curves: Sequence[Curve]) -> dict[str, Any]:
    return {
        "run": str(run.folder),
        "family": run.config.family,
        "agent": run.config.agent,
        "checkpoint": run.iteration,
        "seed": protocol.seed,
        "tasks": len(protocol.tasks),
        "repeats": protocol.repeats,
        "adaptations": len(protocol.rows),
        "episodes": protocol.episodes,
        "inner_steps": protocol.steps,
        "trained_inner_steps": run.config.adaptation.steps,
        "curves": [_estimates(curve, protocol) for curve in curves],
    }


def _estimates(curve: Curve, protocol: Protocol) -> dict[str, Any]:
    """The curve point by point, and the paired gain from its first to its last point."""
    usable = np.isfinite(curve.returns).all(axis=1)
    returns = curve.returns[usable]
    # Few tasks, all of them present: chance is in the repeats alone, so resample within each task.
    position = np.array([task for task, _ in protocol.rows])
    stratum = (position if protocol.repeats > 1 else np.zeros_like(position))[usable]
    if not usable.any():
        raise RunFailedError(f"{curve.label}: not one adaptation has a finite return")

    def over_tasks(values: NDArray[np.float64]) -> dict[str, float]:
        return asdict(estimate(values, stratum, generator(protocol.seed, "bootstrap")))

    return {
        "policy": curve.label,
        "curve": [over_tasks(column) for column in returns.T],
        "gain": over_tasks(returns[:, -1] - returns[:, 0]),
        "diverged": np.flatnonzero(~curve.finite).tolist(),
        "left_out": np.flatnonzero(~usable).tolist(),
        "adaptations": [
            {
                "task": position,
                "parameters": asdict(task),
                "repeat": row // len(protocol.tasks),
                "finite": bool(curve.finite[row]),
                "returns": curve.returns[row].tolist(),
            }
            for row, (position, task) in enumerate(protocol.rows)
        ],
    }


def _write(run: stored.StoredRun, protocol: Protocol, curves: Sequence[Curve]) -> Outcome:
    summary = _summary(run, protocol, curves)
    folder = run.folder / "evaluation" / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
    try:
        folder.mkdir(parents=True)
        report.write_curve(folder / "curve.csv", summary)
        report.write_tasks(folder / "tasks.csv", summary)
        report.plot(folder / "curve.png", summary)
        summary["folder"] = str(folder)
        (folder / "summary.json").write_text(to_json(summary) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunFailedError(f"cannot write to {folder}: {error.strerror}") from error
    return Outcome(summary, report.text(summary))
