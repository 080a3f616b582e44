"""The metrics of a run's iterations: reads and truncates metrics.jsonl, and shows returns."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from warprl.launch.errors import UserError, reading
from warprl.launch.runs.copies import address

FILE = "metrics.jsonl"  # in a run folder
Metrics = Mapping[str, Any]


def truncate(path: Path, iteration: int) -> None:
    """Drop the lines of iterations after ``iteration``, and a last line that is incomplete.

    Raises UserError if another line is damaged.
    """
    if not path.exists():
        return
    kept = [line for line, _ in _lines(path, iteration)]
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)  # whatever it is, it may be a link to another file
    with temporary.open("x", encoding="utf-8") as file:
        file.writelines(kept)
    os.replace(temporary, path)


def read(path: Path, iteration: int) -> list[Metrics]:
    """The metrics up to ``iteration``; an empty list if there is no such file.

    Raises UserError if the file cannot be read or a line of it is damaged.
    """
    with reading(path):
        return [metrics for _, metrics in _lines(path, iteration)] if path.exists() else []


def _lines(path: Path, iteration: int) -> list[tuple[str, Metrics]]:
    """The complete lines of iterations up to this one, as text and as metrics."""
    found: list[tuple[str, Metrics]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        try:
            metrics: Metrics = json.loads(line)
            if metrics["iteration"] > iteration:
                break
        except (ValueError, KeyError, TypeError) as error:
            number = len(found) + 1
            raise UserError(
                f"{address(path)}, line {number}, is damaged: remove that line"
            ) from error
        found.append((line, metrics))
    return found


def adaptation(metrics: Metrics) -> list[float]:
    """Mean returns after 0, 1, ..., K inner steps."""
    returns: list[float] = []
    while f"return_step_{len(returns)}" in metrics:
        returns.append(metrics[f"return_step_{len(returns)}"])
    return returns


def returns_text(metrics: Metrics) -> str:
    """``"-46.1 > -29.0 > -17.2"``, or that there is no return because every task diverged."""
    returns = adaptation(metrics)
    if not all(map(math.isfinite, returns)):
        return "none (every task diverged)"
    return " > ".join(f"{value:.1f}" for value in returns)
