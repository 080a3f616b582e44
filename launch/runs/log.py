"""What a run leaves behind and shows while it goes: metrics.jsonl, TensorBoard, progress."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from warprl.launch.errors import UserError, reading
from warprl.launch.outcome import to_json

Metrics = Mapping[str, Any]


class Display(Protocol):
    """Shows how a run is getting on."""

    def show(self, metrics: Metrics) -> None:
        """Show one iteration."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class RunLog:
    """Writes the metrics of every iteration of one run and shows them; a context manager.

    ``metrics.jsonl`` has one JSON object a line and is flushed after each, so that a killed run
    loses nothing. TensorBoard is a copy: if it cannot be written it is given up with a warning.
    """

    def __init__(self, folder: Path, console: Console, iteration: int, total: int) -> None:
        """Log what comes after ``iteration``, dropping what an earlier process wrote of it."""
        # Imported here, for it takes longer than everything else in this module together.
        from torch.utils.tensorboard import SummaryWriter

        self._console = console
        truncate(folder / "metrics.jsonl", iteration)
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board: SummaryWriter | None = SummaryWriter(
            str(folder / "tensorboard"), purge_step=iteration + 1
        )
        shown = _Bar if console.is_terminal else _Lines
        self._display: Display = shown(console, iteration, total)

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files and the display."""
        self._display.close()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, metrics: Metrics) -> None:
        """Record one iteration. Raises OSError if the disk is full."""
        self._file.write(to_json(metrics) + "\n")
        self._file.flush()
        self._copy_to_board(metrics)
        self._display.show(metrics)

    def _copy_to_board(self, metrics: Metrics) -> None:
        if self._board is None:
            return
        try:
            for name, value in metrics.items():
                if isinstance(value, int | float) and name != "iteration":
                    self._board.add_scalar(name.replace(".", "/"), value, metrics["iteration"])
            self._board.flush()
        except OSError as error:
            self._console.print(f"warning: TensorBoard is given up: {error}", markup=False)
            self._board = None


def truncate(path: Path, iteration: int) -> None:
    """Drop the lines of later iterations than ``iteration``, and a half-written last line.

    Raises UserError if another line is not one of ours.
    """
    if not path.exists():
        return
    kept = [line for line, _ in _lines(path, iteration)]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


def read(path: Path, iteration: int) -> list[Metrics]:
    """The metrics up to ``iteration``; none if there is no such file.

    Raises UserError if it cannot be read or a line of it is not one of ours.
    """
    with reading(path):
        return [metrics for _, metrics in _lines(path, iteration)] if path.exists() else []


def _lines(path: Path, iteration: int) -> list[tuple[str, Metrics]]:
    """The whole lines of iterations up to this one, as text and as metrics."""
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
            raise UserError(f"{path}, line {number}, is damaged: take that line out") from error
        found.append((line, metrics))
    return found


def adaptation(metrics: Metrics) -> list[float]:
    """Mean returns after 0, 1, ..., K inner steps."""
    returns: list[float] = []
    while f"return_step_{len(returns)}" in metrics:
        returns.append(metrics[f"return_step_{len(returns)}"])
    return returns


def returns_text(metrics: Metrics) -> str:
    """``"-46.1 > -29.0 > -17.2"``; there is none if every task diverged."""
    returns = adaptation(metrics)
    if not all(map(math.isfinite, returns)):
        return "none (every task diverged)"
    return " > ".join(f"{value:.1f}" for value in returns)


def duration(seconds: float) -> str:
    """``"1:02:03"``, or ``"2:03"`` under an hour."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class _Clock:
    """Time left, from the pace of this process."""

    def __init__(self, iteration: int, total: int) -> None:
        self._began = time.monotonic()
        self._first = iteration
        self._total = total

    def left(self, iteration: int) -> str:
        pace = (time.monotonic() - self._began) / (iteration - self._first)
        return duration(pace * (self._total - iteration))


def _summary(metrics: Metrics) -> str:
    return (
        f"return {returns_text(metrics)}  "
        f"{metrics['steps_per_s']:,.0f} steps/s  physics {metrics['physics_fraction']:.0%}"
    )


class _Lines:
    """One plain line an iteration, for files, pipes and cluster logs."""

    def __init__(self, console: Console, iteration: int, total: int) -> None:
        self._console = console
        self._total = total
        self._clock = _Clock(iteration, total)

    def show(self, metrics: Metrics) -> None:
        iteration = metrics["iteration"]
        self._console.print(
            f"iteration {iteration}/{self._total}  {_summary(metrics)}  "
            f"left {self._clock.left(iteration)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        pass


class _Bar:
    """A live bar with the latest numbers under it, on a terminal."""

    def __init__(self, console: Console, iteration: int, total: int) -> None:
        self._clock = _Clock(iteration, total)
        self._progress = Progress(
            TextColumn("iteration"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
        )
        self._task = self._progress.add_task("", total=total, completed=iteration)
        self._live = Live(self._progress, console=console)
        self._live.start()

    def show(self, metrics: Metrics) -> None:
        iteration = metrics["iteration"]
        left = f"left {self._clock.left(iteration)}"
        self._progress.update(self._task, completed=iteration, description=left)
        self._live.update(Group(self._progress, Text(_summary(metrics))))

    def close(self) -> None:
        self._live.stop()
