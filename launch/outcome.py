"""What a verb of the command line hands back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """The same result for machines and for people, and the exit status."""

    data: Mapping[str, Any]
    text: str
    status: int = 0


def to_json(value: Any) -> str:
    """One line of strict JSON: numbers that are not finite become null."""
    return json.dumps(_strict(value), allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(header: list[str], rows: list[list[str]]) -> str:
    """Plain text with the first column left- and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def tasks_and_repeats(summary: Mapping[str, Any]) -> str:
    """``"40 held-out tasks"``, or ``"all 2 tasks x 10 repeats"`` where training has them, too."""
    tasks, repeats = summary["tasks"], summary["repeats"]
    named = f"all {tasks} tasks" if summary["trained_on"] else f"{tasks} held-out tasks"
    return named + (f" x {repeats} repeats" if repeats > 1 else "")


def parameters(task: Mapping[str, Any]) -> str:
    """A task's numbers on one line, of a list their mean: ``"direction=-1 body_mass~1.46"``."""

    def show(key: str, value: Any) -> str:
        if isinstance(value, list | tuple):
            return f"{key}~{fmean(value):.3g}"
        return f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"

    return " ".join(show(key, value) for key, value in task.items())
