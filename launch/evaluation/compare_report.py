"""The files and the text of a comparison, from its summary alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import starmap
from pathlib import Path

from warprl.launch.evaluation import report
from warprl.launch.evaluation.references import WORDS as REFERENCES
from warprl.launch.evaluation.summaries import ComparisonSummary, Estimate, GroupSummary
from warprl.launch.outcome import duration, table
from warprl.types import Floats

# The range of n values holds the true median with probability 1 - 2^(1 - n): 95 % takes 6 of them,
# and a bootstrap interval never leaves that range.
ENOUGH_SEEDS = 6


def write_table(path: Path, summary: ComparisonSummary) -> None:
    """One line for each group."""
    bounds = ("mean", "stderr", "low", "high")
    ahead = ("group", "agent", "iteration", "seeds", "tasks", "repeats", "inner_steps")
    area = [f"area_{key}" for key in (*bounds, "iqm")]
    gain = [f"gain_{key}" for key in bounds]
    behind = ("worse", "interval_over", "env_steps", "wall_s")

    # The values, in the order of these columns.
    rows = []
    for group in summary.groups:
        named = [group.group, group.agent, group.iteration, group.seeds]
        protocol = [summary.tasks, summary.repeats, summary.inner_steps]
        last = [*_bounds(group.curve[-1]), group.curve[-1].iqm]
        whole = [*_bounds(group.area), group.area.iqm, *_bounds(group.gain)]
        rest = [group.worse, group.interval_over, group.env_steps, group.wall_s]
        rows.append([*named, *protocol, *last, *whole, *rest])
    report.write_csv(path, [*ahead, *bounds, "iqm", *area, *gain, *behind], rows)


def _bounds(estimate: Estimate) -> list[float]:
    return [estimate.mean, estimate.stderr, estimate.low, estimate.high]


def write_curves(path: Path, summary: ComparisonSummary) -> None:
    """One line for each group and number of inner steps, with what the last of them did."""
    report.write_points(path, "group", [(group.group, group) for group in summary.groups])


def plot(path: Path, summary: ComparisonSummary, training: Sequence[Sequence[Floats]]) -> None:
    """Draw the adaptation curves and, if any run has one, the training curves beside them.

    ``training`` holds (environment steps, return) ``[2, iterations]`` of the seeds of each group;
    some may have none.
    """
    # The object interface needs no display and leaves matplotlib's global state alone.
    from matplotlib.figure import Figure

    panels = 2 if any(curve.size for curves in training for curve in curves) else 1
    figure = Figure(figsize=(6.0 * panels + 2.5, 4.5), layout="constrained")
    left, *right = figure.subplots(1, panels, squeeze=False)[0]

    # A colour for each group. After the tenth, lines are dashed.
    for number, group in enumerate(summary.groups):
        colour, dashes = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]
        label = textwrap.fill(f"{group.group}, {report.count(group.seeds, 'seed')}", 30)
        report.draw_curve(left, group.curve, label, colour, dashes)
        for axes in right:
            for env_steps, returns in training[number]:
                axes.plot(env_steps, returns, dashes, color=colour, linewidth=1, alpha=0.7)

    # The legend stands outside the panels, where many agents hide no curve.
    for axes in right:
        axes.set(xlabel="environment steps", ylabel="return after adaptation in training, a seed")
    figure.legend(loc="outside right center", fontsize="small")
    figure.suptitle(_heading(summary), fontsize="medium")
    report.save_figure(path, figure)


def text(summary: ComparisonSummary) -> str:
    """What a terminal shows: the table, the curves, notes on the numbers, and the folder."""
    header, rows = _cells(summary)
    steps = [f"step {k}" for k in range(summary.inner_steps + 1)]
    curves = [
        [group.group, *(f"{point.mean:.1f}" for point in group.curve)] for group in summary.groups
    ]
    parts = [
        _heading(summary),
        table(header, rows),
        table(["mean return after", *steps], curves),
        *(table(*found) for found in _step_cells(summary)),
        "\n".join(_notes(summary)),
        f"written to {summary.folder}",
    ]
    return "\n\n".join(parts)


def markdown(summary: ComparisonSummary) -> str:
    """The tables, with notes on their numbers."""
    tables = [_cells(summary), *_step_cells(summary)]
    notes = [f"- {note}" for note in _notes(summary)]
    return "\n".join([f"# {_heading(summary)}", "", *starmap(markdown_table, tables), *notes, ""])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ruler, *rows))


def _heading(summary: ComparisonSummary) -> str:
    return (
        f"{summary.family}: {report.tasks_and_repeats(summary)}, "
        f"{report.count(summary.episodes, 'episode')} each at every step"
    )


def _cells(summary: ComparisonSummary) -> tuple[list[str], list[list[str]]]:
    """The header and a row for each group."""
    last = f"return after {summary.inner_steps}"
    header = ["agent", "seeds", "tasks", "K", last, "IQM", "area", "worse"]
    header += ["env steps", "training"]
    rows = [
        [
            group.group,
            str(group.seeds),
            str(summary.tasks),
            str(group.trained_inner_steps),
            interval(group.curve[-1]),
            f"{group.curve[-1].iqm:.1f}",
            interval(group.area),
            f"{group.worse:.0%}",
            "-" if group.env_steps is None else f"{group.env_steps:,.0f}",
            "-" if group.wall_s is None else duration(group.wall_s),
        ]
        for group in summary.groups
    ]
    return header, rows


def _step_cells(summary: ComparisonSummary) -> list[tuple[list[str], list[list[str]]]]:
    """What the first and the last inner step did: one table, or none if no group took steps."""
    shown = sorted({1, summary.inner_steps})
    rows = [
        [group.group]
        + [_number(group.steps[k - 1].get(name)) for name in report.WORDS for k in shown]
        for group in summary.groups
        if any(group.steps)
    ]
    columns = [f"{word}, step {k}" for word in report.WORDS.values() for k in shown]
    return [(["inner steps", *columns], rows)] if rows else []


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"


def interval(estimate: Estimate) -> str:
    """An estimate as ``mean [low, high]``."""
    return f"{estimate.mean:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def _notes(summary: ComparisonSummary) -> list[str]:
    """Notes on the columns, and on single groups where a reader must know more."""
    columns = [
        "mean over seeds and tasks, with the 95 % two-stage bootstrap interval over both, for "
        "comparing on these tasks; IQM: mean of the middle half of all adaptations; K: inner steps "
        "in training",
        f"area: mean of the {summary.inner_steps + 1} points of the adaptation curve; worse: "
        "share of adaptations that end below the return that they began with",
        "env steps and training (wall time) are means over seeds; an episode that ends early "
        "counts as its whole horizon",
    ]
    if _step_cells(summary):
        columns.append(
            "inner steps: mean KL between the policies before and after the step, mean cosine "
            "between the task's gradients with and without the warps, median condition number of "
            "the warps' Jacobian"
        )
    used = {group.reference for group in summary.groups}
    kinds = [f"{word}: {what}" for word, what in REFERENCES.items() if word in used]
    return [*columns, *kinds, *_seed_notes(summary.groups), *_loss_notes(summary.groups)]


def _seed_notes(groups: Sequence[GroupSummary]) -> list[str]:
    """Which groups have too few seeds for their interval to mean what it says."""
    notes = []
    for seeds in sorted({group.seeds for group in groups if group.seeds < ENOUGH_SEEDS}):
        alike = ", ".join(group.group for group in groups if group.seeds == seeds)
        if seeds == 1:
            notes.append(
                f"{alike}: one seed (n = 1), so the interval is over tasks alone and says "
                "nothing about other seeds"
            )
        else:
            notes.append(
                f"{alike}: {seeds} seeds; with fewer than {ENOUGH_SEEDS}, the "
                "interval is too narrow for 95 %"
            )
    return notes


def _loss_notes(groups: Sequence[GroupSummary]) -> list[str]:
    """How many adaptations diverged or were left out."""
    notes = []
    for group in groups:
        diverged = sum(run.diverged for run in group.runs)
        left_out = sum(run.left_out for run in group.runs)
        for number, what in ((diverged, "diverged"), (left_out, "were left out")):
            if number:
                notes.append(f"{group.group}: {number} of {group.adaptations} {what}")
    return notes
