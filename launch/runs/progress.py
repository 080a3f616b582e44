"""How a run shows its progress: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from warprl.launch.outcome import duration
from warprl.launch.runs.metrics import Metrics, returns_text


class Display(Protocol):
    """Shows the progress of a run."""

    def show(self, metrics: Metrics) -> None:
        """Show one iteration."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def display(console: Console, iteration: int, total: int) -> Display:
    """The display that suits a console, for a run that has done ``iteration`` of ``total``."""
    return (_Bar if console.is_terminal else _Lines)(console, iteration, total)


class _Clock:
    """The time left, estimated from the pace of this process."""

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
        """Do nothing: lines leave the terminal as it was."""


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
