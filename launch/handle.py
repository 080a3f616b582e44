"""A trained run as a Python object: its metrics and policies, and how to measure and film them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from warprl import checkpoint as checkpoints
from warprl.agents.adapted import AdaptedPolicy
from warprl.agents.adapter import Adapter
from warprl.agents.inner import MAX_EPISODES, GradientAdaptation
from warprl.counts import shown
from warprl.envs import TaskFamily, make_family
from warprl.launch.errors import MissingGraphicsError, RunFailedError, UserError, whole_number
from warprl.launch.evaluation.summaries import EvaluationSummary
from warprl.launch.runs import config as configuration
from warprl.launch.runs import folders, stored
from warprl.launch.runs import metrics as recorded
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.stored import StoredRun
from warprl.launch.runs.trust import ALL, Trust
from warprl.launch.training import train as training
from warprl.launch.training.interruption import Interruption
from warprl.launch.training.train import Callback
from warprl.types import Task

ANY_ITERATION = sys.maxsize

TaskLike: TypeAlias = Task | int | Mapping[str, Any]
"""A task; its position among the held-out tasks; or its numbers by name."""


def load(run: str | Path, checkpoint: int | None = None, *, trust: bool = False) -> Run:
    """A run that was trained before, by any means.

    Args:
        run: its name, its path, or its URI in storage.
        checkpoint: the iteration to read; None is the newest.
        trust: use it even if its task family is none of this package and it was not begun on this
            machine. That runs the code of the family's module.

    Raises:
        UserError: if there is no such run, if its configuration or its checkpoints are broken, or
            if its task family is not trusted.

    >>> load("example").config.agent
    'warpgrad'
    """
    return load_trusted(run, Trust(trust), checkpoint)


def load_trusted(run: str | Path, trust: Trust, checkpoint: int | None = None) -> Run:
    """The same, with another kind of trust."""
    if checkpoint is not None:
        checkpoint = whole_number("checkpoint", checkpoint, 0)
    folder = folders.find(str(run), checkpoint)
    found = Run(folder, configuration.load(folder / "config.yaml", trust), checkpoint)
    if checkpoint is not None or checkpoints.iterations(folder / "checkpoints"):
        return replace(found, checkpoint=found.stored.iteration)
    return found  # killed before its first checkpoint: it can be resumed


@dataclass(frozen=True)
class Run:
    """A trained run at one of its checkpoints; later training does not change this object.

    Whoever has this object has trusted the run: :func:`load` refuses others.

    Args:
        folder: the folder of the run; of a run in storage, a copy that lasts as long as the
            process.
        config: its resolved configuration.
        checkpoint: the iteration; None if there was no checkpoint when it was loaded.

    >>> run = load("example")
    >>> policy = run.adapt(run.tasks[0], steps=1)
    >>> policy.act([0.0, 0.0]).shape
    (2,)
    """

    folder: Path
    config: RunConfig = field(repr=False)
    checkpoint: int | None = None

    @cached_property
    def stored(self) -> StoredRun:
        """Configuration and learned parameters as evaluation reads them.

        Raises:
            UserError: if there is no intact checkpoint.
        """
        return stored.open_run(self.folder, self.checkpoint, ALL)

    @property
    def iteration(self) -> int:
        """The iteration of the checkpoint."""
        return self.stored.iteration

    @property
    def family(self) -> TaskFamily:
        """The task family that it was trained on."""
        return make_family(self.config.family)

    @property
    def tasks(self) -> list[Task]:
        """The held-out tasks of the family, or all tasks of a family that has few."""
        return self.family.held_out_tasks()

    @property
    def metrics(self) -> Any:
        """The metrics of every iteration: a pandas DataFrame, or a list of dicts without pandas.

        >>> metrics = load("example").metrics
        >>> int(metrics["env_steps"][0])
        1600
        """
        rows = [dict(row) for row in recorded.read(self.folder / "metrics.jsonl", ANY_ITERATION)]
        try:
            import pandas
        except ModuleNotFoundError:
            return rows
        return pandas.DataFrame(rows)

    @property
    def policy(self) -> AdaptedPolicy:
        """The policy before adaptation, under theta_0.

        >>> load("example").policy.predict([[0.0, 0.0]], deterministic=True)[0].shape
        (1, 2)
        """
        return self.stored.start

    def adapt(
        self,
        task: TaskLike,
        steps: int | None = None,
        episodes: int | None = None,
        seed: int | None = None,
    ) -> AdaptedPolicy:
        """The policy adapted to one task of the family, phi frozen.

        Args:
            task: a task, its position among :attr:`tasks`, or its numbers by name.
            steps: inner steps, which may exceed those of training; for an agent that adapts by
                memory, the episodes of a trial. None means as in training.
            episodes: episodes of each step; None means as in training. An agent that adapts by
                memory plays one trial and does not take this argument.
            seed: keys the random numbers of the episodes; None is the run's.

        Returns:
            The policy; its ``returns`` are the mean returns after 0, 1, ..., ``steps`` inner steps.

        Raises:
            UserError: for an impossible task or number.
            RunFailedError: if the adaptation diverges.

        >>> run = load("example")
        >>> len(run.adapt({"x": 0.2, "y": 0.1}, steps=2, episodes=4).returns)
        3
        """
        config = self.config.adaptation
        seed = whole_number("seed", self.config.seed if seed is None else seed, 0)
        steps = config.steps if steps is None else whole_number("steps", steps, 0, MAX_EPISODES)
        if isinstance(config, GradientAdaptation):
            episodes = config.episodes if episodes is None else episodes
            episodes = whole_number("episodes", episodes, 1, MAX_EPISODES)
        elif episodes is not None:
            raise UserError(
                f"episodes = {shown(episodes)}: {self.config.agent} adapts by memory, and a trial "
                "has one episode a step: give steps"
            )
        wanted = replace(config, steps=steps, episodes=episodes or 1)
        return self.stored.adapt(self._task(task), wanted, seed)

    def adapter(self, seed: int | None = None, episodes: int | None = None) -> Adapter:
        """An adapter, which adapts the policy in your own loop, on a robot or in any simulator.

        Args:
            seed: keys the random numbers of exploration; None is the run's.
            episodes: the number of episodes of an update; None means as in training.

        Raises:
            UserError: for a number out of range.

        >>> adapter = load("example").adapter(episodes=1)
        >>> action = adapter.act([0.0, 0.0])
        >>> adapter.observe(reward=-0.5, terminated=False, truncated=True)
        >>> adapter.update()
        True
        """
        seed = self.config.seed if seed is None else seed
        try:
            return Adapter(self.policy, self.config.adaptation, seed, episodes)
        except ValueError as error:
            raise UserError(str(error)) from error

    def evaluate(
        self,
        steps: int | None = None,
        episodes: int | None = None,
        *,
        against: Run | str | Path | None = None,
        untrained: bool = False,
        seed: int | None = None,
    ) -> EvaluationSummary:
        """Measure returns on held-out tasks after 0, 1, ... inner steps, as ``warprl evaluate``.

        Args:
            steps: inner steps, which may exceed those of training; None means as in training, but
                at least 3.
            episodes: episodes of each task at each step; None means as in training.
            against: a second run of the same family.
            untrained: whether to measure the policy before training as well.
            seed: keys the random numbers of the episodes; None is the run's.

        Returns:
            The content of the evaluation's ``summary.json``: an adaptation curve of the run and of
            each policy beside it; ``folder`` is where it was written.

        Raises:
            UserError: for runs that cannot be compared, or a number out of range.

        >>> summary = load("example").evaluate(steps=1, episodes=2)
        >>> len(summary.curves[0].curve)
        2
        """
        from warprl.launch.evaluation import evaluate as evaluation

        other = None if against is None else find(against).folder
        return evaluation.evaluate(
            self.folder,
            steps=steps,
            episodes=episodes,
            against=other,
            untrained=untrained,
            checkpoint=self.checkpoint,
            seed=seed,
            trust=ALL,
            console=console(False),
        ).summary

    def render(self, task: int = 0, steps: int | None = None) -> Path:
        """Film a held-out task before and after inner steps, as ``warprl render`` does.

        Another process draws it, because the graphics must be chosen before MuJoCo is imported.

        Args:
            task: its position among :attr:`tasks`.
            steps: inner steps; None means as in training.

        Returns:
            The video file.

        Raises:
            MissingGraphicsError: if this machine cannot draw; it says what to install.
            UserError: for a task or a number of steps that is out of range.
        """
        whole_number("task", task, 0)
        if steps is not None:
            whole_number("steps", steps, 1)
        options = {"--task": task, "--steps": steps, "--checkpoint": self.checkpoint}
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        program = [sys.executable, "-P", "-m", "warprl.launch.cli"]
        command = [*program, "render", str(self.folder), "--trust", *given]
        paths = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            [*command, "--json"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        if done.returncode:
            kinds = {2: UserError, 3: MissingGraphicsError}
            lines = done.stderr.strip().splitlines() or ["the drawing process gave no reason"]
            raise kinds.get(done.returncode, RunFailedError)(lines[-1].removeprefix("warprl: "))
        return self.folder / "videos" / Path(json.loads(done.stdout)["video"]).name

    def export(
        self,
        out: str | Path,
        task: TaskLike = 0,
        steps: int | None = None,
        seed: int | None = None,
    ) -> Path:
        """Adapt to a task and save the policy for Stable-Baselines3's ``PPO.load``.

        :meth:`AdaptedPolicy.save` needs no Stable-Baselines3, and no pickle.

        Args:
            out: a new file that ends in ``.zip``.
            task: a task, its position among :attr:`tasks`, or its numbers by name.
            steps: inner steps; 0 exports the initialisation; None means as in training.
            seed: keys the random numbers of the episodes; None is the run's.

        Returns:
            The file.

        Raises:
            UserError: for a policy with memory, a family without a Gymnasium id, or bad input.
            RunFailedError: if the adaptation diverges.
        """
        from warprl.launch.evaluation import sb3

        sb3.export(self.stored, self._task(task), steps, out, seed)
        return Path(out)

    def resume(
        self,
        iterations: int | None = None,
        *,
        callback: Callback | None = None,
        verbose: bool = False,
        changed: bool = False,
    ) -> Run:
        """Continue training from the newest checkpoint, with the same result as without a stop.

        Args:
            iterations: how many more; None continues to the planned end.
            callback: as that of :func:`train`.
            verbose: show progress as the command does.
            changed: continue, as another experiment, although config.yaml was edited since the
                checkpoint was saved.

        Returns:
            The run at its newest checkpoint; this object stays at its own.

        Raises:
            UserError: if the run cannot be continued.
            KeyboardInterrupt: after Ctrl-C, as in :func:`train`.

        >>> load("example").resume(1).iteration
        3
        """
        require_callback(callback)
        interruption = Interruption()
        outcome = training.resume(
            self.folder,
            iterations,
            console(verbose),
            stopping=interruption.stopping,
            callback=callback,
            trust=ALL,
            changed=changed,
        )
        interruption.check(outcome.summary.run)
        return load_trusted(self.folder, ALL)

    def _task(self, task: TaskLike) -> Task:
        """A task of the family. Raises UserError for anything else."""
        values = asdict(task) if isinstance(task, Task) else task
        if not isinstance(values, Mapping):
            return self.stored.held_out_task(values)
        try:
            return self.family.parse_task(values)
        except ValueError as error:
            raise UserError(f"task: {error}") from error


def find(run: Run | str | Path) -> Run:
    """The run itself, or the run with this name or path."""
    return run if isinstance(run, Run) else load(run)


def require_callback(callback: object) -> None:
    """Raise UserError unless this can be called, or is None."""
    if callback is not None and not callable(callback):
        raise UserError(f"callback = {shown(callback)}: must be a function of metrics and state")


def console(verbose: bool) -> Console:
    """Where progress is shown: on the terminal, or nowhere."""
    return Console() if verbose else Console(file=io.StringIO(), quiet=True)
