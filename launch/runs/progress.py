"""How a run shows its progress: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from warprl.launch.outcome import duration
from warprl.launch.runs.metrics import Metrics, returns_text


class Display(ABC):
    """Shows the progress of a run, with the time left at the pace of this process."""

    def __init__(self, iteration: int, total: int) -> None:
        """Begin after ``iteration`` of ``total``."""
        self._began = time.monotonic()
        self._first, self._total = iteration, total

    @abstractmethod
    def show(self, metrics: Metrics) -> None:
        """Show one iteration."""

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal as it was."""

    def _left(self, iteration: int) -> str:
        pace = (time.monotonic() - self._began) / (iteration - self._first)
        return f"left {duration(pace * (self._total - iteration))}"


def display(console: Console, iteration: int, total: int) -> Display:
    """The display that suits a console, for a run that has done ``iteration`` of ``total``."""
    return (_Bar if console.is_terminal else _Lines)(console, iteration, total)


def _summary(metrics: Metrics) -> str:
    return (
        f"return {returns_text(metrics)}  "
        f"{metrics['steps_per_s']:,.0f} steps/s  physics {metrics['physics_fraction']:.0%}"
    )


class _Lines(Display):
    """One plain line an iteration, for files, pipes and cluster logs."""

    def __init__(self, console: Console, iteration: int, total: int) -> None:
        super().__init__(iteration, total)
        self._console = console

    def show(self, metrics: Metrics) -> None:
        iteration = metrics["iteration"]
        progress = f"iteration {iteration}/{self._total}"
        line = f"{progress}  {_summary(metrics)}  {self._left(iteration)}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Do nothing: lines leave the terminal as it was."""


class _Bar(Display):
    """A live bar with the latest numbers under it, on a terminal."""

    def __init__(self, console: Console, iteration: int, total: int) -> None:
        super().__init__(iteration, total)
        columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"))
        self._progress = Progress(TextColumn("iteration"), *columns)
        self._task = self._progress.add_task("", total=total, completed=iteration)
        self._live = Live(self._progress, console=console)
        self._live.start()

    def show(self, metrics: Metrics) -> None:
        iteration = metrics["iteration"]
        left = self._left(iteration)
        self._progress.update(self._task, completed=iteration, description=left)
        self._live.update(Group(self._progress, Text(_summary(metrics))))

    def close(self) -> None:
        self._live.stop()
