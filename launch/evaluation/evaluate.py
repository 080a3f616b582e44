"""Adaptation curves: returns on held-out tasks after 0, 1, ..., N inner steps."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from warprl import __version__
from warprl.agents.diagnostics import diagnose, diagnostics_of
from warprl.agents.inner import MAX_EPISODES, AdaptationConfig, MemoryAdaptation, Shard, adapt
from warprl.agents.policy import Policy
from warprl.envs import TaskFamily, make_family
from warprl.launch.errors import RunFailedError, whole_number, writing
from warprl.launch.evaluation import report, summaries
from warprl.launch.evaluation.curves import Curves
from warprl.launch.evaluation.groups import require_one_family
from warprl.launch.evaluation.statistics import estimate
from warprl.launch.evaluation.summaries import DIAGNOSTICS, CurveSummary, EvaluationSummary
from warprl.launch.outcome import Outcome, to_json
from warprl.launch.runs import copies, files, folders, ledger, stored
from warprl.launch.runs.canonical import canonical_json
from warprl.launch.runs.copies import address
from warprl.launch.runs.trust import OURS, Trust
from warprl.seeding import generator
from warprl.threads import one_thread
from warprl.types import Floats, Params, Task

STEPS = 3  # the fewest inner steps, by default
ADAPTATIONS = 20  # the fewest adaptations: if a family has fewer tasks, they are repeated
CHUNK = 10  # adaptations simulated together
FORMAT = 2  # of summary.json; other formats are not read back
LEDGER = "evaluation"  # what the ledger calls them
MAX_BYTES = 2**26  # of summary.json
LARGEST = 1e300  # of its numbers, whose sums are still numbers
MEASURED_BY = ("gymnasium", "mujoco", "torch")  # packages whose version may change a return

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A policy under evaluation: how it starts, and how it adapts."""

    label: str
    policy: Policy
    theta: Params
    phi: Params
    adaptation: AdaptationConfig

    def digest(self) -> str:
        """A checksum of everything but the protocol that the results depend on."""
        adaptation = replace(self.adaptation, steps=1, episodes=1)  # the protocol sets these
        found = hashlib.sha256(canonical_json(policy=self.policy, adaptation=adaptation).encode())
        for parameters in (self.theta, self.phi):
            for name in sorted(parameters):
                found.update(name.encode() + parameters[name].numpy().tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Protocol:
    """The conditions that are the same for all: tasks, episodes and random numbers."""

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
        """Whether training uses these tasks too, because there are too few to hold some out."""
        return not set(self.tasks).isdisjoint(self.family.distribution.all_tasks() or ())

    @property
    def strata(self) -> NDArray[np.int64]:
        """The stratum of each adaptation ``[n]``; within a stratum they differ only by chance.

        If a family has few tasks, all are measured, and each task with its repeats is a stratum.
        Otherwise the tasks are a sample of their distribution, which is a single stratum.
        """
        position = np.array([task for task, _ in self.rows])
        return position if self.repeats > 1 else np.zeros_like(position)

    def describe(self) -> dict[str, Any]:
        """Everything but the subject that its results depend on, as plain JSON data."""
        card = asdict(self.family.definition())
        del card["differences"]  # a comparison with others, on which no result depends
        document = {
            "format": FORMAT,
            "versions": {"warprl": __version__} | {name: version(name) for name in MEASURED_BY},
            "family": card,
            "tasks": [asdict(task) for task in self.tasks],
            "repeats": self.repeats,
            "steps": self.steps,
            "episodes": self.episodes,
            "seed": self.seed,
        }
        plain: dict[str, Any] = json.loads(to_json(document))
        return plain

    def conditions(self) -> dict[str, Any]:
        """The fields of a summary that say under which conditions it was measured."""
        return {
            "protocol": self.describe(),
            "tasks": len(self.tasks),
            "trained_on": self.trained_on,
            "repeats": self.repeats,
            "inner_steps": self.steps,
            "episodes": self.episodes,
            "seed": self.seed,
        }

    def usable(self, label: str, curves: Curves) -> tuple[Curves, NDArray[np.int64]]:
        """The adaptations whose returns are all finite, and the stratum of each.

        Raises RunFailedError, naming the ``label`` of the policy, if there is none.
        """
        kept = curves.usable
        if not kept.any():
            raise RunFailedError(f"{label}: no adaptation has a finite return")
        return curves[kept], self.strata[kept]


def evaluate(
    folder: Path,
    *,
    steps: int | None,
    episodes: int | None,
    against: Path | None,
    untrained: bool,
    checkpoint: int | None,
    seed: int | None,
    trust: Trust = OURS,
    console: Console,
) -> Outcome[EvaluationSummary]:
    """Measure adaptation curves and write them to a new folder under ``RUN/evaluation``.

    ``untrained`` and ``against`` add curves of the same tasks under the same random numbers. Raises
    UserError for runs that cannot be compared or values out of range.
    """
    # Refuse what cannot be measured before any work.
    run = stored.open_run(folder, checkpoint, trust)
    others = [] if against is None else [stored.open_run(against, None, trust)]
    require_one_family([run, *others])
    protocol = protocol_of(run, steps, episodes, seed)
    folders.require_writable(folder, "evaluation")

    # The run first, then what it is compared with.
    subjects = [_trained(run)]
    if untrained:
        subjects.append(untrained_subject(run))
    subjects += [_subject(other, other.address, other.theta, other.phi) for other in others]
    found = [
        summarise(subject, measure(subject, protocol, console), protocol) for subject in subjects
    ]
    summary = _write(run, protocol, found)
    return Outcome(summary, report.text(summary))


def recall(run: stored.StoredRun, protocol: Protocol) -> EvaluationSummary | None:
    """The newest stored evaluation of exactly this policy and protocol, if one was made here.

    One from elsewhere could say anything. A warning names it, because measuring takes time.
    """
    copies.fetch_evaluations(run.folder)
    elsewhere = None
    for folder, text, summary in _stored(run, protocol):
        if ledger.knows(LEDGER, text):
            return replace(summary, folder=address(folder))  # it may have moved with its run
        elsewhere = elsewhere or folder
    if elsewhere:
        log.warning("%s was not measured on this machine: measuring anew", address(elsewhere))
    return None


def _stored(
    run: stored.StoredRun, protocol: Protocol
) -> Iterator[tuple[Path, str, EvaluationSummary]]:
    """The stored evaluations of this policy and protocol, the newest first: folder, text, summary.

    Those that are damaged, or were written by another version, are left out.
    """
    known, subject = protocol.describe(), _trained(run)
    digest = subject.digest()
    for path in sorted((run.folder / "evaluation").glob("*/summary.json"), reverse=True):
        try:
            text = files.read(path, MAX_BYTES).decode()
            summary = summaries.from_json(EvaluationSummary, text)
            curve = summary.curves[0]
            curves = Curves.of(curve.adaptations)
        except (OSError, ValueError, IndexError):
            continue
        same = summary.protocol == known and curve.digest == digest
        if same and _possible(curves, subject, protocol):
            yield path.parent, text, summary


def _possible(curves: Curves, subject: Subject, protocol: Protocol) -> bool:
    """Whether stored curves are such as :func:`measure` makes: all numbers, and in their range."""
    remembers = isinstance(subject.adaptation, MemoryAdaptation)
    diagnosed = () if remembers else diagnostics_of(subject.policy)
    returns = curves.returns[~np.isnan(curves.returns)]
    others = [values[~np.isnan(values)] for values in curves.steps.values()]
    return (
        curves.returns.shape == (len(protocol.rows), protocol.steps + 1)
        and bool(curves.usable.any())
        and bool((np.abs(returns) <= np.finfo(np.float32).max).all())
        and tuple(curves.steps) == diagnosed
        and all(bool((np.abs(values) <= LARGEST).all()) for values in others)
    )


def record(run: stored.StoredRun, protocol: Protocol, console: Console) -> EvaluationSummary:
    """Measure the trained policy of a run and write that to a new folder in the run."""
    subject = _trained(run)
    curves = measure(subject, protocol, console)
    return _write(run, protocol, [summarise(subject, curves, protocol)])


def measure(subject: Subject, protocol: Protocol, console: Console) -> Curves:
    """The subject's returns on every adaptation of the protocol, CHUNK adaptations at a time."""
    config = replace(subject.adaptation, steps=protocol.steps, episodes=protocol.episodes)
    parts = []
    with one_thread(), console.status("") as status:
        for first in range(0, len(protocol.rows), CHUNK):
            rows = protocol.rows[first : first + CHUNK]
            status.update(f"{subject.label}: {first} of {len(protocol.rows)} adaptations done")

            # The position among all adaptations keys the random numbers, so that the size of the
            # parts changes nothing.
            shard = Shard(
                [task for _, task in rows], range(first, first + len(rows)), protocol.seed, 0
            )
            env = protocol.family.make_batch(len(rows) * protocol.episodes)
            trajectory, _ = adapt(env, subject.policy, subject.theta, subject.phi, shard, config)

            found = diagnose(subject.policy, subject.phi, trajectory)
            parts.append(
                Curves(
                    trajectory.returns.double().numpy(),
                    trajectory.finite.numpy(),
                    {n: found[n].double().numpy() for n in DIAGNOSTICS if n in found},
                )
            )
    return Curves.joined(parts)


def protocol_of(
    run: stored.StoredRun, steps: int | None, episodes: int | None, seed: int | None
) -> Protocol:
    """The protocol of a run's own evaluation; None means as in its training."""
    config = run.config
    return make_protocol(
        config.family,
        max(config.adaptation.steps, STEPS) if steps is None else steps,
        config.adaptation.episodes if episodes is None else episodes,
        config.seed if seed is None else seed,
    )


def make_protocol(name: str, steps: int, episodes: int, seed: int) -> Protocol:
    """The protocol of a family: its held-out tasks, repeated if there are few.

    Raises UserError for a number out of range.
    """
    steps = whole_number("steps", steps, 1, MAX_EPISODES)
    episodes = whole_number("episodes", episodes, 1, MAX_EPISODES)
    seed = whole_number("seed", seed, 0)
    family = make_family(name)
    tasks = family.held_out_tasks()
    return Protocol(family, tasks, -(-ADAPTATIONS // len(tasks)), steps, episodes, seed)


def untrained_subject(run: stored.StoredRun) -> Subject:
    """The run's policy before training, with the parameters that it began with."""
    return _subject(run, "untrained", *stored.initial(run.folder, run.config))


def _trained(run: stored.StoredRun) -> Subject:
    return _subject(run, "trained", run.theta, run.phi)


def _subject(run: stored.StoredRun, label: str, theta: Params, phi: Params) -> Subject:
    return Subject(label, run.policy, theta, phi, run.config.adaptation)


def summarise(subject: Subject, curves: Curves, protocol: Protocol) -> CurveSummary:
    """The curve point by point, its area, the paired gain from first to last, and each step.

    Raises RunFailedError if no adaptation has finite returns.
    """
    kept, stratum = protocol.usable(subject.label, curves)

    # Each estimate has the same draws.
    def over_tasks(values: Floats) -> summaries.Estimate:
        return estimate(values, stratum, generator(protocol.seed, "bootstrap"))

    return CurveSummary(
        policy=subject.label,
        digest=subject.digest(),
        curve=[over_tasks(column) for column in kept.returns.T],
        area=over_tasks(kept.area),
        gain=over_tasks(kept.gain),
        worse=float(kept.worse.mean()),
        steps=curves.over_adaptations(),
        diverged=np.flatnonzero(~curves.finite).tolist(),
        left_out=np.flatnonzero(~curves.usable).tolist(),
        adaptations=adaptations(curves, protocol),
    )


def adaptations(curves: Curves, protocol: Protocol) -> list[summaries.Adaptation]:
    """Each adaptation of the protocol by itself."""
    area, worse = curves.area, curves.worse
    return [
        summaries.Adaptation(
            task=position,
            parameters=asdict(task),
            repeat=row // len(protocol.tasks),
            finite=bool(curves.finite[row]),
            returns=curves.returns[row].tolist(),
            area=float(area[row]),
            worse=bool(worse[row]),
            **{name: values[row].tolist() for name, values in curves.steps.items()},
        )
        for row, (position, task) in enumerate(protocol.rows)
    ]


def _write(
    run: stored.StoredRun, protocol: Protocol, curves: Sequence[CurveSummary]
) -> EvaluationSummary:
    """Write an evaluation to a new folder in the run. Raises RunFailedError if that fails."""
    # The results, with all that they depend on.
    folder = run.folder / "evaluation" / folders.stamp()
    summary = EvaluationSummary(
        run=run.address,
        family=run.config.family,
        agent=run.config.agent,
        checkpoint=run.iteration,
        **protocol.conditions(),
        adaptations=len(protocol.rows),
        trained_inner_steps=run.config.adaptation.steps,
        curves=curves,
        folder=address(folder),
    )

    # The same as tables, as a figure and as JSON.
    rows = [((curve.policy,), curve.adaptations) for curve in curves]
    with writing(folder):
        folder.mkdir(parents=True)
        report.write_curve(folder / "curve.csv", summary)
        report.write_tasks(folder / "tasks.csv", ("policy",), protocol.steps, rows)
        report.plot(folder / "curve.png", summary)
        report.write_summary(folder, summary)
        ledger.note(LEDGER, (folder / "summary.json").read_text(encoding="utf-8"))
    copies.publish(folder)
    return summary
