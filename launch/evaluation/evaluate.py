"""Adaptation curves: returns on held-out tasks after 0, 1, ..., N inner steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from warprl import __version__
from warprl.agents.diagnostics import diagnose
from warprl.agents.inner import MAX_EPISODES, AdaptationConfig, Shard, adapt
from warprl.agents.policy import Policy
from warprl.envs import Definition, TaskFamily, make_family
from warprl.launch.errors import RunFailedError, UserError
from warprl.launch.evaluation import report
from warprl.launch.evaluation.statistics import estimate
from warprl.launch.outcome import Outcome, to_json
from warprl.launch.runs import folders, stored
from warprl.seeding import generator
from warprl.types import Params, Task

STEPS = 3  # inner steps shown if training took fewer
ADAPTATIONS = 20  # at least so many, repeating the tasks of a family that has few
CHUNK = 10  # adaptations simulated together
FORMAT = 2  # of summary.json; another one is not read back
MEASURED_BY = ("gymnasium", "mujoco", "torch")  # packages whose version may change a return


@dataclass(frozen=True)
class Subject:
    """A policy under evaluation: how it starts, and how it adapts."""

    label: str
    policy: Policy
    theta: Params
    phi: Params
    adaptation: AdaptationConfig

    def digest(self) -> str:
        """A checksum of all that its numbers depend on besides the protocol."""
        adapted = replace(self.adaptation, steps=1, episodes=1)  # those are the protocol's
        found = hashlib.sha256(repr((self.policy, adapted)).encode())
        for parameters in (self.theta, self.phi):
            for name in sorted(parameters):
                found.update(name.encode() + parameters[name].numpy().tobytes())
        return found.hexdigest()


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

    @property
    def trained_on(self) -> bool:
        """Whether training has these tasks, too: where there are few, none is held out."""
        return not set(self.tasks).isdisjoint(self.family.distribution.all_tasks() or ())

    @property
    def strata(self) -> NDArray[np.int64]:
        """Which adaptations ``[n]`` differ by chance alone, for the intervals.

        Few tasks are all there, so that chance is in the repeats of each; others are a sample.
        """
        position = np.array([task for task, _ in self.rows])
        return position if self.repeats > 1 else np.zeros_like(position)

    def describe(self) -> dict[str, Any]:
        """All that the numbers of a subject depend on besides the subject, as plain values."""
        return {
            "format": FORMAT,
            "versions": {"warprl": __version__} | {name: version(name) for name in MEASURED_BY},
            "family": _numbers_of(self.family.definition()),
            "tasks": [asdict(task) for task in self.tasks],
            "repeats": self.repeats,
            "steps": self.steps,
            "episodes": self.episodes,
            "seed": self.seed,
        }

    def summary(self) -> dict[str, Any]:
        """What every report of a measurement begins with."""
        return {
            "protocol": self.describe(),
            "tasks": len(self.tasks),
            "trained_on": self.trained_on,
            "repeats": self.repeats,
            "inner_steps": self.steps,
            "episodes": self.episodes,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Curve:
    """What one subject returned, ``[n, N+1]``, and which adaptations stayed finite, ``[n]``.

    ``steps`` holds what :func:`warprl.agents.diagnostics.diagnose` finds of each step, ``[n, N]``.
    """

    subject: Subject
    returns: NDArray[np.float64]
    finite: NDArray[np.bool_]
    steps: Mapping[str, NDArray[np.float64]]


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
    protocol = protocol_of(run, steps, episodes, seed)
    folders.require_writable(folder, "evaluation")
    subjects = [_trained(run)]
    if untrained:
        subjects.append(_subject(run, "untrained", *stored.initial(folder, config)))
    subjects += [_subject(other, str(other.folder), other.theta, other.phi) for other in others]
    curves = [measure(subject, protocol, console) for subject in subjects]
    summary = _write(run, protocol, curves)
    return Outcome(summary, report.text(summary))


def recall(run: stored.StoredRun, protocol: Protocol) -> dict[str, Any] | None:
    """The newest stored evaluation of this very policy under exactly this protocol, if any."""
    known = json.loads(to_json(protocol.describe()))
    for path in sorted((run.folder / "evaluation").glob("*/summary.json"), reverse=True):
        try:
            summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if summary["protocol"] != known:
                continue
            if summary["curves"][0]["digest"] == _trained(run).digest():
                return summary | {"folder": str(path.parent)}  # it may have moved with its run
        except (OSError, ValueError, LookupError, TypeError):
            continue  # of another version, or damaged: measured anew
    return None


def record(run: stored.StoredRun, protocol: Protocol, console: Console) -> dict[str, Any]:
    """Measure the trained policy of a run and write that to a new folder in the run."""
    return _write(run, protocol, [measure(_trained(run), protocol, console)])


def measure(subject: Subject, protocol: Protocol, console: Console) -> Curve:
    """The subject's returns on every adaptation of the protocol, some adaptations at a time."""
    torch.set_num_threads(1)
    config = replace(subject.adaptation, steps=protocol.steps, episodes=protocol.episodes)
    returns, finite = [], []
    steps: dict[str, list[NDArray[np.float64]]] = {}
    with console.status("") as status:
        for first in range(0, len(protocol.rows), CHUNK):
            rows = protocol.rows[first : first + CHUNK]
            status.update(f"{subject.label}: {first} of {len(protocol.rows)} adaptations done")
            shard = Shard(
                [task for _, task in rows], range(first, first + len(rows)), protocol.seed, 0
            )
            env = protocol.family.make_batch(len(rows) * protocol.episodes)
            trajectory, _ = adapt(env, subject.policy, subject.theta, subject.phi, shard, config)
            returns.append(trajectory.returns.double().numpy())
            finite.append(trajectory.finite.numpy())
            for name, found in diagnose(subject.policy, subject.phi, trajectory).items():
                steps.setdefault(name, []).append(found.double().numpy())
    return Curve(
        subject,
        np.concatenate(returns),
        np.concatenate(finite),
        {name: np.concatenate(found) for name, found in steps.items()},
    )


def protocol_of(
    run: stored.StoredRun, steps: int | None, episodes: int | None, seed: int | None
) -> Protocol:
    """The protocol of a run's own evaluation; what is None is as in its training."""
    config = run.config
    return make_protocol(
        config.family,
        max(config.adaptation.steps, STEPS) if steps is None else steps,
        config.adaptation.episodes if episodes is None else episodes,
        config.seed if seed is None else seed,
    )


def make_protocol(name: str, steps: int, episodes: int, seed: int) -> Protocol:
    """The protocol of a family: its held-out tasks, a few of them several times.

    Raises UserError for a number out of range.
    """
    for option, value, least in (("steps", steps, 1), ("episodes", episodes, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{option} {value}: must be {least} or more")
    for option, value in (("steps", steps), ("episodes", episodes)):
        if value > MAX_EPISODES:
            raise UserError(f"--{option} {value}: must be {MAX_EPISODES} or less")
    family = make_family(name)
    tasks = family.held_out_tasks()
    return Protocol(family, tasks, -(-ADAPTATIONS // len(tasks)), steps, episodes, seed)


def _numbers_of(card: Definition) -> dict[str, Any]:
    """The lines of a definition card that numbers depend on: not what others do."""
    return {key: line for key, line in asdict(card).items() if key != "differences"}


def _trained(run: stored.StoredRun) -> Subject:
    return _subject(run, "trained", run.theta, run.phi)


def _subject(run: stored.StoredRun, label: str, theta: Params, phi: Params) -> Subject:
    return Subject(label, run.policy, theta, phi, run.config.adaptation)


def _summary(run: stored.StoredRun, protocol: Protocol, curves: Sequence[Curve]) -> dict[str, Any]:
    return {
        "run": str(run.folder),
        "family": run.config.family,
        "agent": run.config.agent,
        "checkpoint": run.iteration,
        **protocol.summary(),
        "adaptations": len(protocol.rows),
        "trained_inner_steps": run.config.adaptation.steps,
        "curves": [_estimates(curve, protocol) for curve in curves],
    }


def _estimates(curve: Curve, protocol: Protocol) -> dict[str, Any]:
    """The curve point by point, its area, the paired gain from first to last, and each step."""
    label = curve.subject.label
    usable = np.isfinite(curve.returns).all(axis=1)
    if not usable.any():
        raise RunFailedError(f"{label}: not one adaptation has a finite return")
    areas, worse = area(curve.returns), got_worse(curve.returns)
    returns, stratum = curve.returns[usable], protocol.strata[usable]

    def over_tasks(values: NDArray[np.float64]) -> dict[str, float]:
        return asdict(estimate(values, stratum, generator(protocol.seed, "bootstrap")))

    return {
        "policy": label,
        "digest": curve.subject.digest(),
        "curve": [over_tasks(column) for column in returns.T],
        "area": over_tasks(areas[usable]),
        "gain": over_tasks(returns[:, -1] - returns[:, 0]),
        "worse": float(worse[usable].mean()),
        "steps": over_steps(
            {name: values[curve.finite] for name, values in curve.steps.items()}, protocol.steps
        ),
        "diverged": np.flatnonzero(~curve.finite).tolist(),
        "left_out": np.flatnonzero(~usable).tolist(),
        "adaptations": [
            {
                "task": position,
                "parameters": asdict(task),
                "repeat": row // len(protocol.tasks),
                "finite": bool(curve.finite[row]),
                "returns": curve.returns[row].tolist(),
                "area": float(areas[row]),
                "worse": bool(worse[row]),
                **{name: values[row].tolist() for name, values in curve.steps.items()},
            }
            for row, (position, task) in enumerate(protocol.rows)
        ],
    }


def area(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under each adaptation curve ``[n, N+1]``, as the mean of its N + 1 returns: ``[n]``.

    ``1 / (N + 1) * sum_k return_k`` for k = 0..N: a return, whatever N is.
    """
    mean: NDArray[np.float64] = returns.mean(axis=1)
    return mean


def got_worse(returns: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which adaptations ``[n]`` of curves ``[n, N+1]`` end below the return that they began at."""
    worse: NDArray[np.bool_] = returns[:, -1] < returns[:, 0]
    return worse


def over_steps(found: Mapping[str, NDArray[np.float64]], number: int) -> list[dict[str, float]]:
    """Every step over adaptations ``[n, N]``: mean KL and cosine, median condition.

    The median, because a single warp that is nearly singular would be all that a mean shows. Where
    no episode was rewarded there is no gradient and hence no cosine: the mean is over the others.
    """
    return [
        {name: _middle(name, values[:, k]) for name, values in found.items()} for k in range(number)
    ]


def _middle(name: str, values: NDArray[np.float64]) -> float:
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan")
    return float(np.median(values) if name == "condition" else np.mean(values))


def _write(run: stored.StoredRun, protocol: Protocol, curves: Sequence[Curve]) -> dict[str, Any]:
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
    return summary
