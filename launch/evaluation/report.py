"""The files and the text of an evaluation, from its summary alone."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from warprl.launch.outcome import parameters, table, tasks_and_repeats

Summary = Mapping[str, Any]

DIAGNOSTICS = {"kl": "KL", "cosine": "cosine", "condition": "condition"}


def write_curve(path: Path, summary: Summary) -> None:
    """One line for each policy and number of inner steps, with what the last of them did."""
    write_points(path, "policy", summary["curves"])


def write_points(path: Path, name: str, curves: Sequence[Mapping[str, Any]]) -> None:
    """The points and steps of curves, whose key and column ``name`` tells them apart."""
    with path.open("w", newline="", encoding="utf-8") as file:
        points = ("mean", "stderr", "low", "high", "iqm", "n")
        writer = csv.DictWriter(file, [name, "inner_step", *points, *DIAGNOSTICS])
        writer.writeheader()
        for curve in curves:
            steps = chain([{}], curve["steps"])
            for step, (point, last) in enumerate(zip(curve["curve"], steps, strict=True)):
                writer.writerow({name: curve[name], "inner_step": step, **point, **last})


def write_tasks(path: Path, summary: Summary) -> None:
    """One line for each policy and adaptation."""
    with path.open("w", newline="", encoding="utf-8") as file:
        number = summary["inner_steps"]
        steps = [f"return_step_{k}" for k in range(number + 1)]
        steps += [f"{name}_step_{k}" for name in DIAGNOSTICS for k in range(1, number + 1)]
        writer = csv.writer(file)
        writer.writerow(
            ["policy", "task", "parameters", "repeat", "finite", "area", "worse", *steps]
        )
        for curve in summary["curves"]:
            for row in curve["adaptations"]:
                # Without warps there are no cosines and no condition numbers.
                found = chain(*(row.get(name, [None] * number) for name in DIAGNOSTICS))
                writer.writerow([
                    curve["policy"], row["task"], parameters(row["parameters"]), row["repeat"],
                    row["finite"], row["area"], row["worse"], *row["returns"], *found,
                ])  # fmt: skip


def plot(path: Path, summary: Summary) -> None:
    """Draw all curves with their intervals."""
    # The object interface needs no display and leaves matplotlib's global state alone.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for curve in summary["curves"]:
        points = curve["curve"]
        mean, low, high = ([point[key] for point in points] for key in ("mean", "low", "high"))
        axes.plot(range(len(points)), mean, marker="o", label=curve["policy"])
        axes.fill_between(range(len(points)), low, high, alpha=0.2)
    axes.axvline(
        summary["trained_inner_steps"], color="grey", linestyle=":", label="steps in training"
    )
    axes.set_xticks(range(summary["inner_steps"] + 1))
    axes.set_xlabel("steps of adaptation")
    axes.set_ylabel("mean return, 95 % interval")
    axes.set_title(
        f"{summary['family']}, {summary['agent']}, iteration {summary['checkpoint']}, "
        f"n = {summary['adaptations']}",
        fontsize="medium",
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def text(summary: Summary) -> str:
    """What a terminal shows: returns task by task, then every curve, then where the files are."""
    parts = [
        _task_table(summary),
        f"{summary['family']}, {summary['agent']}, iteration {summary['checkpoint']}: "
        f"{tasks_and_repeats(summary)}, n = {summary['adaptations']}, "
        f"{summary['episodes']} episodes each at every step",
        *map(_curve_table, summary["curves"]),
        f"written to {summary['folder']}",
    ]
    return "\n\n".join(parts)


def _task_table(summary: Summary) -> str:
    """Mean returns of each task over its repeats."""
    adaptations = summary["curves"][0]["adaptations"]
    rows = []
    for number in range(summary["tasks"]):
        same = [row for row in adaptations if row["task"] == number]
        means = np.mean([row["returns"] for row in same], axis=0)
        label = f"{number}: {parameters(same[0]['parameters'])}"
        rows.append([label, *(f"{value:.1f}" for value in means)])
    header = ["return by task", *(f"step {k}" for k in range(summary["inner_steps"] + 1))]
    return table(header, rows)


def _curve_table(curve: Mapping[str, Any]) -> str:
    measured = [name for name in DIAGNOSTICS if name in curve["steps"][0]]
    steps = chain([dict.fromkeys(measured, "")], map(_step_cells, curve["steps"]))
    rows = [
        [
            f"step {step}",
            f"{p['mean']:.1f}",
            f"{p['stderr']:.1f}",
            f"{p['low']:.1f} to {p['high']:.1f}",
            f"{p['iqm']:.1f}",
            *(cells[name] for name in measured),
        ]
        for step, (p, cells) in enumerate(zip(curve["curve"], steps, strict=True))
    ]
    header = [curve["policy"], "mean", "std error", "95 % interval", "IQM"]
    lines = [table([*header, *(DIAGNOSTICS[name] for name in measured)], rows)]
    gain, area = curve["gain"], curve["area"]
    lines += [
        f"gain of {len(rows) - 1} steps: {gain['mean']:+.1f}, "
        f"95 % interval {gain['low']:+.1f} to {gain['high']:+.1f}; "
        f"{curve['worse']:.0%} of the adaptations end below their start",
        f"area under the curve (mean of its {len(rows)} points): {area['mean']:.1f}, "
        f"95 % interval {area['low']:.1f} to {area['high']:.1f}",
    ]
    for word, numbers in (("diverged", curve["diverged"]), ("left out", curve["left_out"])):
        if numbers:
            lines.append(f"{word}: adaptations {', '.join(map(str, numbers))}")
    return "\n".join(lines)


def _step_cells(step: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.3g}" for name, value in step.items()}
