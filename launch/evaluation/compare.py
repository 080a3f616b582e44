"""Compares runs, and references, under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from warprl.launch.errors import UserError, os_errors, writing
from warprl.launch.evaluation import compare_report as report
from warprl.launch.evaluation import evaluate, references, summaries
from warprl.launch.evaluation.curves import Curves
from warprl.launch.evaluation.evaluate import Protocol
from warprl.launch.evaluation.groups import Group, Measured, Member, grouped, require_one_family
from warprl.launch.evaluation.references import Reference
from warprl.launch.evaluation.report import write_summary, write_tasks
from warprl.launch.evaluation.statistics import estimate_over_seeds
from warprl.launch.evaluation.summaries import ComparisonSummary, GroupSummary, RunSummary
from warprl.launch.outcome import Outcome
from warprl.launch.runs import copies, files, folders
from warprl.launch.runs.copies import address
from warprl.launch.runs.storage import is_uri
from warprl.launch.runs.trust import OURS, Trust
from warprl.seeding import generator


def compare(
    paths: Sequence[Path],
    *,
    steps: int,
    episodes: int,
    seed: int,
    beside: str | None = None,
    out: str | None,
    trust: Trust = OURS,
    console: Console,
) -> Outcome[ComparisonSummary]:
    """Evaluate every run on the same tasks and random numbers, and write tables and figure.

    If a run's newest checkpoint was evaluated under the same protocol before, that is reused.
    ``beside`` names references of :data:`warprl.launch.evaluation.references.WORDS`, separated by
    commas.
    Raises UserError, before any work, for runs that cannot be compared, values out of range,
    unknown words and folders that cannot be written.
    """
    # Refuse what cannot be done before any work.
    if not paths:
        raise UserError("compare: give one run or more")
    words = references.parse(beside)
    members = [Member.open(folder, trust) for folder in paths]
    require_one_family([member.run for member in members])
    groups = grouped(members)
    family = members[0].run.config.family
    protocol = evaluate.make_protocol(family, steps, episodes, seed)
    known = {member.run.folder: evaluate.recall(member.run, protocol) for member in members}
    for folder, evaluation in known.items():
        if evaluation is None:
            folders.require_writable(folder, "evaluation")

    # Each run, then the references beside them.
    folder = _create(out)
    try:
        rows = []
        for group in groups:
            seeds = [measure(m, protocol, known[m.run.folder], console) for m in group.members]
            rows.append(summarise(group.label, seeds, protocol))
        others = references.measure(words, groups, protocol, console)
        rows += [summarise(other.label, other.seeds, protocol, other.word) for other in others]
        found = ComparisonSummary(
            family=family, **protocol.conditions(), groups=rows, folder=address(folder)
        )
        _write(folder, found, groups, others, protocol)
    except BaseException:
        with suppress(OSError):  # what has been written stays
            folder.rmdir()
        raise
    return Outcome(found, report.text(found))


def measure(
    member: Member, protocol: Protocol, known: summaries.EvaluationSummary | None, console: Console
) -> Measured:
    """The ``known`` evaluation of a run under this protocol, or a new one if that is None."""
    evaluation = known or evaluate.record(member.run, protocol, console)
    curve, config = evaluation.curves[0], member.run.config
    last = member.history[-1] if member.history else {}
    return Measured.of(
        Curves.of(curve.adaptations),
        run=member.run.address,
        seed=config.seed,
        agent=config.agent,
        iteration=member.run.iteration,
        trained_inner_steps=config.adaptation.steps,
        evaluation=evaluation.folder,
        reused=known is not None,
        env_steps=last.get("env_steps"),
        wall_s=last.get("wall_s"),
    )


def summarise(
    label: str, seeds: Sequence[Measured], protocol: Protocol, reference: str | None = None
) -> GroupSummary:
    """Estimates over the seeds and tasks of a group, which may be a ``reference`` of this name.

    Raises RunFailedError if a seed has no adaptation with finite returns.
    """
    # Each seed by itself.
    runs, values, strata = [], [], []
    for seed in seeds:
        kept, stratum = protocol.usable(label, seed.curves)
        values.append(np.column_stack([kept.returns, kept.area, kept.gain, kept.worse]))
        strata.append(stratum)
        runs.append(RunSummary(**vars(seed.about), mean=float(kept.returns[:, -1].mean())))

    # All seeds together.
    found = estimate_over_seeds(values, strata, generator(protocol.seed, "bootstrap"))
    *curve, area, gain, worse = found
    together = _with_infinite_conditions(Curves.joined([seed.curves for seed in seeds]))
    return GroupSummary(
        group=label,
        reference=reference,
        agent=runs[0].agent,
        iteration=runs[0].iteration,
        trained_inner_steps=runs[0].trained_inner_steps,
        seeds=len(runs),
        interval_over="seeds and tasks" if len(runs) > 1 else "tasks of one seed",
        adaptations=len(runs) * len(protocol.rows),
        curve=curve,
        area=area,
        gain=gain,
        worse=worse.mean,
        steps=together.over_adaptations(),
        env_steps=_mean([run.env_steps for run in runs]),
        wall_s=_mean([run.wall_s for run in runs]),
        runs=runs,
    )


def _with_infinite_conditions(curves: Curves) -> Curves:
    """Put infinity where a stored evaluation has null for the condition of a singular warp."""
    if "condition" not in curves.steps:
        return curves
    condition = np.nan_to_num(curves.steps["condition"], nan=np.inf, posinf=np.inf)
    return replace(curves, steps={**curves.steps, "condition": condition})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def _create(out: str | None) -> Path:
    """Make the new folder of a comparison. Raises UserError if that cannot be done."""
    place = folders.in_root("comparisons", folders.stamp()) if out is None else out
    if is_uri(place):
        folders.require_new_in_storage(place)
        return copies.new(place)
    folder = Path(place)
    with os_errors(UserError, f"cannot make the folder {folder}"):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"{folder} exists: choose another folder") from None
    return folder


def _write(
    folder: Path,
    summary: ComparisonSummary,
    groups: Sequence[Group],
    others: Sequence[Reference],
    protocol: Protocol,
) -> None:
    """Write all files of a comparison. Raises RunFailedError if that fails."""
    # References have no training curve and no run folder that could hold their adaptations.
    training = [[member.training_curve for member in group.members] for group in groups]
    training += [[] for _ in others]
    with writing(folder):
        report.write_table(folder / "comparison.csv", summary)
        report.write_curves(folder / "curve.csv", summary)
        report.plot(folder / "comparison.png", summary, training)
        files.write(folder / "comparison.md", report.markdown(summary))
        write_summary(folder, summary)

        # The adaptations of the runs are in the runs.
        if others:
            rows = [
                ((other.label, seed.about.seed), evaluate.adaptations(seed.curves, protocol))
                for other in others
                for seed in other.seeds
            ]
            write_tasks(folder / "references.csv", ("group", "seed"), protocol.steps, rows)
    copies.publish(folder)
