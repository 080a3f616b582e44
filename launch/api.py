"""WarpRL from Python: what ``import warprl`` offers; see docs/python.md.

These functions do what the commands do, and write the same files. They raise a :class:`UserError`
where a command prints its one line. They print nothing unless ``verbose`` is set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warprl.agents.presets import PRESETS
from warprl.counts import shown
from warprl.envs import family_names, make_family
from warprl.launch.errors import UserError, whole_number
from warprl.launch.evaluation.summaries import ComparisonSummary, EvaluationSummary
from warprl.launch.handle import Run, console, find, load_trusted, require_callback
from warprl.launch.runs import config as configuration
from warprl.launch.runs.trust import ALL, Trust
from warprl.launch.settings import setting
from warprl.launch.training import train as training
from warprl.launch.training.interruption import Interruption
from warprl.launch.training.train import Callback


def train(
    family: str,
    agent: str = "warpgrad",
    *,
    iterations: int | None = None,
    workers: int = 0,
    seed: int | None = None,
    run: str | Path | None = None,
    storage: str | None = None,
    set: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    verbose: bool = False,
) -> Run:
    """Meta-train an agent on a task family, as ``warprl train`` does.

    Ctrl-C ends training after the current iteration, saves it, and then raises KeyboardInterrupt;
    a second one interrupts at once, and what was saved before stays. This works in the main thread
    only, and only if the program has no handler of its own for that signal.

    Args:
        family: a name of :func:`families`, or ``package.module:FAMILY`` for your own.
        agent: a name of :func:`presets`.
        iterations: meta-iterations; None is the default of the configuration.
        workers: Ray workers; 0 samples in threads of this process, without Ray.
        seed: keys every random number; None is 0.
        run: a new name in the folder of runs, a path, or a URI in storage; None makes a name.
        storage: the URI below which the name stands, such as ``"s3://bucket/runs"``.
        set: keys of the configuration, such as ``{"adaptation.steps": 1}``.
        callback: called after each iteration with its metrics and the learner's state, which it
            must not change. Training is saved and ends if it returns True or raises
            :class:`StopTraining`. Any other exception is raised here, after that iteration was
            saved.
        verbose: show progress as the command does.

    Returns:
        The run, at its newest checkpoint.

    Raises:
        UserError: in one line, before anything starts, for bad input; and while training if it
            cannot continue.
        KeyboardInterrupt: after Ctrl-C; the run can be resumed.

    >>> small = {"tasks": 2, "adaptation.episodes": 2, "policy.hidden": [8]}
    >>> run = train("point-navigation-v1", iterations=2, run="first", set=small)
    >>> run.iteration, run.folder.name
    (2, 'first')
    """
    # Whatever is no such thing is refused here, before anything starts.
    _require("family", family, str, "the name of a task family")
    _require("agent", agent, str, "the name of an agent")
    _require("set", {} if set is None else set, Mapping, 'a mapping such as {"tasks": 2}')
    require_callback(callback)
    options = {
        "iterations": None if iterations is None else whole_number("iterations", iterations, 1),
        "workers": whole_number("workers", workers, 0),
        "seed": None if seed is None else whole_number("seed", seed, 0),
    }
    settings = [setting(key, value) for key, value in (set or {}).items()]
    config = configuration.resolve(family, agent, options, settings)

    # Train, and open what was saved.
    name = None if run is None else str(run)
    interruption = Interruption()
    outcome = training.start(
        config,
        name,
        console(verbose),
        stopping=interruption.stopping,
        callback=callback,
        storage=storage,
    )
    interruption.check(outcome.summary.run)
    return load_trusted(outcome.summary.run, Trust(family=family))


def evaluate(run: Run | str | Path, **options: Any) -> EvaluationSummary:
    """The adaptation curve of a run on held-out tasks: :meth:`Run.evaluate` by name."""
    return find(run).evaluate(**options)


def render(run: Run | str | Path, **options: Any) -> Path:
    """A film of a run: :meth:`Run.render` by name."""
    return find(run).render(**options)


def compare(
    runs: Sequence[Run | str | Path],
    *,
    steps: int = 10,
    episodes: int = 20,
    seed: int = 0,
    beside: Sequence[str] = (),
    out: str | Path | None = None,
) -> ComparisonSummary:
    """Compare runs of one family on the same held-out tasks, as ``warprl compare`` does.

    Args:
        runs: the runs; those that differ only in their seed count as one agent.
        steps: inner steps, which may exceed those of training.
        episodes: episodes of each task at each step.
        seed: keys the random numbers of the episodes.
        beside: references under the same protocol, as ``--with`` takes them: ``"untrained"``,
            ``"scratch"``, ``"finetuned"``, ``"oracle"``.
        out: a new folder for tables and figure; None makes one.

    Returns:
        The content of ``summary.json``: a group for each agent, with its adaptation curve;
        ``folder`` is where it was written.

    Raises:
        UserError: for runs that cannot be compared, or a number out of range.
    """
    from warprl.launch.evaluation import compare as comparison

    if isinstance(runs, str) or not isinstance(runs, Sequence):
        raise UserError(f"runs = {shown(runs)}: must be a list of runs")
    folders = [find(run).folder for run in runs]
    return comparison.compare(
        folders,
        steps=steps,
        episodes=episodes,
        seed=seed,
        beside=",".join(map(str, beside)) or None,
        out=None if out is None else str(out),
        trust=ALL,  # whoever is not trusted was not loaded
        console=console(False),
    ).summary


def families() -> dict[str, str]:
    """The task families of this package, each with one line about its tasks.

    >>> families()["half-cheetah-dir-v1"]
    'direction d in {-1, +1}, half of the meta-batch each, in random order'
    """
    return {name: make_family(name).definition().tasks for name in family_names()}


def presets() -> dict[str, str]:
    """The named agents, each with one line about how it learns.

    >>> presets()["maml-trpo"]
    'maml by one trust-region step an update, as in its paper'
    """
    return {name: preset.summary for name, preset in PRESETS.items()}


def _require(name: str, value: object, kind: type, what: str) -> None:
    """Raise UserError unless an argument is of a kind."""
    if not isinstance(value, kind):
        raise UserError(f"{name} = {shown(value)}: must be {what}")
