"""The files and the text of an evaluation, from its summary alone."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from warprl.launch.evaluation.summaries import (
    DIAGNOSTICS,
    Adaptation,
    ComparisonSummary,
    CurveSummary,
    Diagnostic,
    Estimate,
    EvaluationSummary,
    GroupSummary,
    Step,
)
from warprl.launch.outcome import parameters, table, to_json
from warprl.launch.runs import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS: dict[Diagnostic, str] = {"kl": "KL", "cosine": "cosine", "condition": "condition"}


def write_curve(path: Path, summary: EvaluationSummary) -> None:
    """One line for each policy and number of inner steps, with what the last of them did."""
    write_points(path, "policy", [(curve.policy, curve) for curve in summary.curves])


def write_points(
    path: Path, column: str, curves: Iterable[tuple[str, CurveSummary | GroupSummary]]
) -> None:
    """The points and steps of named curves; their names are in this ``column``."""
    header = [column, "inner_step", "mean", "stderr", "low", "high", "iqm", "n", *DIAGNOSTICS]
    rows = [
        [name, k, *vars(point).values(), *(step.get(diagnostic) for diagnostic in DIAGNOSTICS)]
        for name, curve in curves
        for k, (point, step) in enumerate(_points(curve))
    ]
    write_csv(path, header, rows)


def _points(curve: CurveSummary | GroupSummary) -> Iterable[tuple[Estimate, Step]]:
    """Each point with the inner step that led to it; the first point has none."""
    before: Step = {}
    return zip(curve.curve, [before, *curve.steps], strict=True)


def write_tasks(
    path: Path,
    columns: Sequence[str],
    inner_steps: int,
    found: Iterable[tuple[Sequence[object], Sequence[Adaptation]]],
) -> None:
    """One line for each adaptation, after the ``columns`` that name its policy."""
    returns = [f"return_step_{k}" for k in range(inner_steps + 1)]
    steps = [f"{name}_step_{k}" for name in DIAGNOSTICS for k in range(1, inner_steps + 1)]
    ahead = ("task", "parameters", "repeat", "finite", "area", "worse")

    # A policy without warps has no cosines and no condition numbers: those cells stay empty.
    rows = []
    missing = [None] * inner_steps
    for names, adaptations in found:
        for row in adaptations:
            task = [row.task, parameters(row.parameters), row.repeat]
            judged = [row.finite, row.area, row.worse]
            diagnosed = chain(*(row.steps.get(name, missing) for name in DIAGNOSTICS))
            rows.append([*names, *task, *judged, *row.returns, *diagnosed])
    write_csv(path, [*columns, *ahead, *returns, *steps], rows)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table as a file."""
    with files.whole(path) as temporary:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])


def write_summary(folder: Path, summary: EvaluationSummary | ComparisonSummary) -> None:
    """The whole summary as ``summary.json``, for programs."""
    text = to_json(summary.to_json())
    files.write(folder / "summary.json", f"{text}\n")


def plot(path: Path, summary: EvaluationSummary) -> None:
    """Draw all curves with their intervals."""
    # The object interface needs no display and leaves matplotlib's global state alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()

    # The curves, and where training stopped adapting.
    for number, curve in enumerate(summary.curves):
        draw_curve(axes, curve.curve, curve.policy, f"C{number}")
    axes.axvline(
        summary.trained_inner_steps, color="grey", linestyle=":", label="steps in training"
    )

    # Labels and legend.
    axes.set_xticks(range(summary.inner_steps + 1))
    axes.set_title(f"{_subject(summary)}, n = {summary.adaptations}", fontsize="medium")
    axes.legend()
    save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> None:
    """A figure as a file."""
    with files.whole(path) as temporary:
        figure.savefig(temporary, dpi=120)


def draw_curve(
    axes: Axes, curve: Sequence[Estimate], label: str, colour: str, dashes: str = "-"
) -> None:
    """Draw one adaptation curve with its interval, and name the axes."""
    steps = range(len(curve))
    low, high = [point.low for point in curve], [point.high for point in curve]
    axes.plot(steps, [p.mean for p in curve], dashes, marker="o", color=colour, label=label)
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="steps of adaptation", ylabel="mean return, 95 % interval")


def _subject(summary: EvaluationSummary) -> str:
    return f"{summary.family}, {summary.agent}, iteration {summary.checkpoint}"


def text(summary: EvaluationSummary) -> str:
    """What a terminal shows: returns task by task, then every curve, then where the files are."""
    parts = [
        _task_table(summary),
        f"{_subject(summary)}: {tasks_and_repeats(summary)}, n = {summary.adaptations}, "
        f"{count(summary.episodes, 'episode')} each at every step",
        *map(_curve_table, summary.curves),
        f"written to {summary.folder}",
    ]
    return "\n\n".join(parts)


def tasks_and_repeats(summary: EvaluationSummary | ComparisonSummary) -> str:
    """``"40 held-out tasks"``, or ``"all 2 tasks x 10 repeats"`` if training has the same ones."""
    named = f"all {summary.tasks}" if summary.trained_on else f"{summary.tasks} held-out"
    return f"{named} tasks" + (f" x {summary.repeats} repeats" if summary.repeats > 1 else "")


def count(number: int, what: str) -> str:
    """``"1 seed"``, ``"2 seeds"``."""
    return f"{number} {what}{'s' * (number != 1)}"


def _task_table(summary: EvaluationSummary) -> str:
    """Mean returns of each task over its repeats."""
    adaptations = summary.curves[0].adaptations
    rows = []
    for number in range(summary.tasks):
        same = [row for row in adaptations if row.task == number]
        means = np.mean([row.returns for row in same], axis=0)
        label = f"{number}: {parameters(same[0].parameters)}"
        rows.append([label, *(f"{value:.1f}" for value in means)])
    header = ["return by task", *(f"step {k}" for k in range(summary.inner_steps + 1))]
    return table(header, rows)


def _curve_table(curve: CurveSummary) -> str:
    """A line for each point of a curve, and below them what the curve says as a whole."""
    # The points, each with the inner step that led to it.
    measured = list(curve.steps[0])
    rows = [
        [
            f"step {k}",
            f"{point.mean:.1f}",
            f"{point.stderr:.1f}",
            f"{point.low:.1f} to {point.high:.1f}",
            f"{point.iqm:.1f}",
            *(f"{step[name]:.3g}" if name in step else "" for name in measured),
        ]
        for k, (point, step) in enumerate(_points(curve))
    ]
    header = [curve.policy, "mean", "std error", "95 % interval", "IQM"]
    lines = [table([*header, *(WORDS[name] for name in measured)], rows)]

    # The curve as a whole.
    gain, area = curve.gain, curve.area
    lines += [
        f"gain of {count(len(rows) - 1, 'step')}: {gain.mean:+.1f}, "
        f"95 % interval {gain.low:+.1f} to {gain.high:+.1f}; "
        f"{curve.worse:.0%} of the adaptations end below their start",
        f"area under the curve (mean of its {len(rows)} points): {area.mean:.1f}, "
        f"95 % interval {area.low:.1f} to {area.high:.1f}",
    ]
    for word, numbers in (("diverged", curve.diverged), ("left out", curve.left_out)):
        if numbers:
            lines.append(f"{word}: adaptations {', '.join(map(str, numbers))}")
    return "\n".join(lines)
