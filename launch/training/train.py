"""The training loop: starts and resumes runs, saves them, and stops them cleanly."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from warprl.agents.inner import AdaptationConfig, GradientAdaptation, MemoryAdaptation
from warprl.checkpoint import Checkpoint
from warprl.launch.cluster.address import DEFAULTS, ClusterOptions, named
from warprl.launch.errors import UserError, WorkersLostError, whole_number
from warprl.launch.machine import available_cores
from warprl.launch.outcome import Document, Outcome
from warprl.launch.runs import config as configuration
from warprl.launch.runs import copies, folders, stored
from warprl.launch.runs.config import RunConfig
from warprl.launch.runs.copies import CHECKPOINTS, LAST, address
from warprl.launch.runs.lease import Lease
from warprl.launch.runs.log import RunLog
from warprl.launch.runs.metrics import MAX_ITERATIONS, adaptation, read, restore, returns_text
from warprl.launch.runs.stored import Imported
from warprl.launch.runs.trust import OURS, Trust
from warprl.launch.training.interruption import Stop, stoppable
from warprl.launch.training.loop import Progress, experiment_of, iterations, sampling
from warprl.launch.training.saving import Saver, last_words, writing_run
from warprl.learner import LearnerState

FRUITLESS = 3  # iterations in a row in which every task diverges end a run

log = logging.getLogger(__name__)


Stopping = Callable[[Console], Stop]
Callback = Callable[[Mapping[str, Any], LearnerState], bool | None]
"""Called with the metrics of each iteration and the learner's state after it. Training is saved and
ends if it returns True or raises :class:`StopTraining`."""


class StopTraining(Exception):
    """Raised by a callback to end training after the current iteration."""


@dataclass(frozen=True, kw_only=True)
class TrainingSummary(Document):
    """Where a run stands after training, with its mean returns after 0, 1, ..., K inner steps."""

    run: str
    iteration: int
    env_steps: int
    returns: Sequence[float]
    stopped_by: str | None


def start(
    config: RunConfig,
    name: str | None,
    console: Console,
    imported: Imported | None = None,
    stopping: Stopping | None = None,
    callback: Callback | None = None,
    storage: str | None = None,
    cluster: ClusterOptions = DEFAULTS,
) -> Outcome[TrainingSummary]:
    """Train a new run, from random parameters or from an imported theta_0.

    ``name`` is a name, which may stand below the URI ``storage``, a path or a URI. Training stops
    early if ``stopping`` (by default, a signal) or ``callback`` asks for it.
    Raises UserError, before anything is written, if its workers cannot start or its folder cannot
    be made.
    """
    if name is None:
        name = folders.default_name(config.family, config.agent, config.seed)
    folders.require_new(name, storage)
    _prepare(config, cluster, console)

    def fill(folder: Path) -> None:
        if imported is not None:
            stored.save_imported(folder, imported)
        configuration.save(folder / "config.yaml", config)

    folder = folders.create(name, storage, fill)
    with copies.lasting(folder), folders.hold(folder, config.output.keep, new=True) as lease:
        plan = _Plan(folder, config, config.iterations, callback, lease)
        return _run(plan, None, console, stopping)


def resume(
    folder: Path,
    iterations: int | None,
    console: Console,
    stopping: Stopping | None = None,
    callback: Callback | None = None,
    cluster: ClusterOptions = DEFAULTS,
    trust: Trust = OURS,
    changed: bool = False,
) -> Outcome[TrainingSummary]:
    """Continue a run to its end or for ``iterations`` more, with the same result as without a stop.

    It stops early if ``stopping`` (by default, a signal) or ``callback`` asks for it. With
    ``changed`` it continues although somebody has edited what config.yaml says of the experiment.
    Raises UserError, before anything starts, if the run cannot be continued.
    """
    if iterations is not None:
        iterations = whole_number("iterations", iterations, 1, MAX_ITERATIONS)
    config = configuration.load(folder / "config.yaml", trust)
    configuration.require_device(config)
    folders.require_writable(folder, "checkpoints")
    with folders.hold(folder, config.output.keep) as lease:
        saved = stored.newest(folder, config)
        if saved is None:
            stored.initial(folder, config)  # so that damage is found here, before Ray starts
        elif not changed:
            stored.require_unchanged(saved, config)
        done = saved.iteration if saved else 0
        with writing_run(folder):
            restore(folder / "metrics.jsonl", done, stored.logged(saved) if saved else None)
        total = config.iterations if iterations is None else done + iterations
        if done >= total:
            advice = "give iterations to continue"
            raise UserError(f"{address(folder)} is complete at iteration {done}: {advice}")
        _prepare(config, cluster, console)
        if saved:
            said = f"restored parameters, optimiser and counters of iteration {done}"
        else:
            said = "there is no checkpoint yet, so training starts from the beginning"
        say(console, f"resuming {address(folder)}: {said}")
        return _run(_Plan(folder, config, total, callback, lease), saved, console, stopping)


def start_or_resume(
    config: RunConfig,
    name: str,
    console: Console,
    storage: str | None = None,
    cluster: ClusterOptions = DEFAULTS,
) -> Outcome[TrainingSummary]:
    """Train a run, or continue it to its end if it exists, as a job that starts again has to.

    A run that is complete stays as it is, which is no error. Raises UserError, before anything
    starts, if the run that exists is another one.
    """
    try:
        folder = folders.find(name if storage is None else folders.below(storage, name))
    except UserError:
        return start(config, name, console, storage=storage, cluster=cluster)

    # The run has to be the one that is asked for.
    trust = Trust(family=config.family)
    found = configuration.load(folder / "config.yaml", trust)
    for key in configuration.differences(found, config):
        before, now = (configuration.flat(each).get(key) for each in (found, config))
        place = address(folder)
        raise UserError(f"{place} exists with {key} = {before}, not {now}: choose another name")
    configuration.note_begun(found)

    # Whatever is left of it is trained.
    saved = stored.newest(folder, found)
    done = saved.iteration if saved else 0
    if done >= config.iterations:
        assert saved is not None
        rows = read(folder / "metrics.jsonl", done)  # some or all may be lost
        env_steps = saved.document["counters"]["env_steps"]
        last = {**(rows[-1] if rows else {}), "iteration": done, "env_steps": env_steps}
        return _outcome(folder, config, last)
    remaining = config.iterations - done
    return resume(folder, remaining, console, cluster=cluster, trust=trust)


def _prepare(config: RunConfig, cluster: ClusterOptions, console: Console) -> None:
    """Connect to Ray if the run has workers. Raises UserError if they cannot all start."""
    if not config.compute.workers:
        if cluster != DEFAULTS:
            raise UserError(
                "--wait-for-nodes and --insecure: a run without workers uses no cluster"
            )
        return
    from warprl.launch.cluster import connection

    say_it = partial(say, console)
    connection.prepare(config.compute.workers, [config.family], cluster, say_it)


def warn_about_cores(config: RunConfig) -> None:
    """Warn if there are more workers than cores, which works but is slow."""
    cores, workers = available_cores(), config.compute.workers
    if workers > cores:
        log.warning("%d workers share %d cores", workers, cores)


class _Plan(NamedTuple):
    """A run, the iteration at which it ends, the callback for each, and the right to write."""

    folder: Path
    config: RunConfig
    total: int
    callback: Callback | None
    lease: Lease


def _run(
    plan: _Plan, saved: Checkpoint | None, console: Console, stopping: Stopping | None
) -> Outcome[TrainingSummary]:
    folder, config = plan.folder, plan.config
    if named() is None:
        warn_about_cores(config)
    workers = f"{config.compute.workers} worker{'s' * (config.compute.workers != 1)}"
    place = address(folder)
    say(console, f"training {config.family} with {config.agent} and {workers} in {place}")
    experiment = experiment_of(config)
    if saved is not None:
        progress = Progress.load(saved)
        if saved.path.parent.name == LAST:  # which the next iteration replaces
            with writing_run(folder):
                progress.save(folder / CHECKPOINTS, config, stored.logged(saved))
    else:
        progress = Progress.begin(experiment, stored.initial(folder, config))
    stop = (stopping or stoppable)(console)
    with sampling(config, experiment, lambda: stop.signal is not None) as sampler:
        with writing_run(folder):
            done, writers = progress.learner.iteration, config.output.writers
            run_log = RunLog(folder, console, done, plan.total, writers)
        steps = iterations(experiment, sampler, progress, config.compute.device)
        with run_log, stop.caught(), last_words(folder):
            last = _loop(steps, plan, run_log, stop)
    return _outcome(folder, config, last, stop.signal)


def _loop(
    steps: Iterator[tuple[Progress, dict[str, Any]]], plan: _Plan, run_log: RunLog, stop: Stop
) -> dict[str, Any]:
    """Iterate to the end or until asked to stop; returns the metrics of the last iteration.

    However it ends, the last whole iteration is saved. Raises UserError after FRUITLESS iterations
    in a row in which every task diverged: they changed no parameter, so the next iteration would
    diverge as well.
    """
    fruitless, last = 0, None
    try:
        with Saver(plan.folder, plan.config, plan.lease, run_log) as saver:
            for progress, metrics in steps:
                # The log comes first, so that it is never behind a checkpoint.
                plan.lease.check()
                with writing_run(plan.folder):
                    run_log.write(metrics)
                saver.keep(progress)
                last = metrics

                # Whether there is another iteration.
                diverged = metrics["diverged_tasks"] == plan.config.tasks
                fruitless = fruitless + 1 if diverged else 0
                ends = _asked_to_stop(plan.callback, metrics, progress.learner)
                if fruitless:
                    _tell_of_divergence(plan, metrics["iteration"], fruitless)
                if ends or stop.signal is not None or metrics["iteration"] >= plan.total:
                    break
                saver.save_if_due()
    except WorkersLostError as error:
        # A signal to all processes ends Ray as well: the run has stopped as it was told to.
        if stop.signal is None:
            raise
        if last is None:
            error.status = 128 + stop.signal
            raise
    assert last is not None
    return last


def _tell_of_divergence(plan: _Plan, iteration: int, times: int) -> None:
    """Warn that every task has diverged so many times in a row; UserError after FRUITLESS times."""
    remedy = f"a lower {_likely_cause(plan.config)}"
    if times == FRUITLESS:
        raise UserError(
            f"stopped at iteration {iteration}: every task diverged {FRUITLESS} times in a row; "
            f"the parameters from before are saved in {address(plan.folder)}: begin a new run "
            f"with {remedy}"
        )
    log.warning(
        "iteration %d learned nothing: every task diverged; a new run needs %s", iteration, remedy
    )


def _asked_to_stop(
    callback: Callback | None, metrics: Mapping[str, Any], state: LearnerState
) -> bool:
    """Whether the callback asks to end training after this iteration."""
    try:
        return callback is not None and bool(callback(metrics, state))
    except StopTraining:
        return True


def _likely_cause(config: RunConfig) -> str:
    """The step size that is too large if every task diverges, with its value."""
    if isinstance(config.adaptation, GradientAdaptation) and config.adaptation.steps:
        return f"adaptation.inner_lr than {config.adaptation.inner_lr:g}"
    key = config.outer.step_key
    return f"outer.{key} than {getattr(config.outer, key):g}"


def _outcome(
    folder: Path, config: RunConfig, last: Mapping[str, Any], stopped: int | None = None
) -> Outcome[TrainingSummary]:
    summary = TrainingSummary(
        run=address(folder),
        iteration=last["iteration"],
        env_steps=last["env_steps"],
        returns=adaptation(last),
        stopped_by=signal.Signals(stopped).name if stopped else None,
    )
    end = f"stopped by {summary.stopped_by} and saved" if stopped else "finished"
    text = (
        f"{end} at iteration {summary.iteration}, {summary.env_steps:,} environment steps; "
        f"{_last_returns(config.adaptation)}: {returns_text(last)}\n"
        f"{summary.run}"
    )
    return Outcome(summary, text, 128 + stopped if stopped else 0)


def _last_returns(adaptation: AdaptationConfig) -> str:
    if isinstance(adaptation, MemoryAdaptation):
        return f"last returns of the {adaptation.steps + 1} episodes of a trial"
    if not adaptation.steps:
        return "last return"
    return f"last returns after 0 to {adaptation.steps} inner steps"


def say(console: Console, line: str) -> None:
    """Print one plain line, whatever is in it."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
