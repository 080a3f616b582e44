"""What a verb of the command line returns, and how values read in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """A result as data for programs and as text for people, with the exit status."""

    data: Mapping[str, Any]
    text: str
    status: int = 0


def to_json(value: Any) -> str:
    """One line of strict JSON, in which numbers that are not finite become null."""
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
    """A plain text table: the first column is aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """``"1:02:03"``, or ``"2:03"`` under an hour."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def parameters(task: Mapping[str, Any]) -> str:
    """A task's numbers on one line; a list is shown by its mean: ``"direction=-1 mass~1.46"``."""

    def show(key: str, value: Any) -> str:
        if isinstance(value, list | tuple):
            return f"{key}~{fmean(value):.3g}"
        return f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"

    return " ".join(show(key, value) for key, value in task.items())
