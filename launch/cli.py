"""The ``warprl`` command: its verbs, their options and their help.

Everything heavy is imported inside the verbs, so that ``warprl --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from warprl import __version__
from warprl.launch import lists, options, terminal
from warprl.launch.cluster import address
from warprl.launch.cluster import verbs as machines
from warprl.launch.errors import UserError
from warprl.launch.options import flag, number, set_key, text
from warprl.launch.outcome import Outcome, Summary

app = typer.Typer(
    name="warprl",
    help="Meta-train policies with Warped Gradient Descent, and see how they adapt.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def verb(work: Callable[..., Outcome[Summary]], help: str | None = None) -> Callable[..., int]:
    """Make a function a verb of the command, which prints its outcome and takes ``--json``."""
    return app.command(help=help)(terminal.printed(work))


def find(run: str, checkpoint: int | None = None) -> Path:
    """The folder of a run; see :func:`warprl.launch.runs.folders.find`."""
    from warprl.launch.runs import folders

    return folders.find(run, checkpoint)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"warprl {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@verb
def train(
    family: options.Family,
    agent: options.Agent = "warpgrad",
    iterations: Annotated[int | None, number("Meta-iterations.", "200")] = None,
    workers: Annotated[
        int | None, number("Ray workers; 0 samples in this process.", "one per core")
    ] = None,
    seed: Annotated[int | None, number("Seed of every random number.")] = None,
    run: Annotated[str | None, text("NAME", "Run folder: a new name, path or URI.")] = None,
    storage: options.Storage = None,
    settings: Annotated[list[str] | None, set_key("Override a key of config.yaml.")] = None,
    init_from: Annotated[
        str | None, text("FILE.zip", "Begin with this Stable-Baselines3 PPO model.")
    ] = None,
    trust: Annotated[
        bool, flag("--trust", "Load --init-from although the file may run code.")
    ] = False,
    again: Annotated[
        bool, flag("--resume", "Continue the run if it exists, as a job that starts again must.")
    ] = False,
    wait_for_nodes: options.WaitForNodes = None,
    insecure: options.Insecure = False,
) -> Outcome[Summary]:
    """Meta-train an agent on a task family. Prints the run folder last."""
    from warprl.launch.runs import config
    from warprl.launch.training import train

    given = {"iterations": iterations, "workers": workers, "seed": seed}
    cluster = address.options(wait_for_nodes, insecure)
    resolved = config.resolve(family, agent, given, settings or (), address.usable_cores)

    # A run that may be there already.
    if again:
        if run is None or init_from is not None:
            raise UserError("--resume: needs --run, and takes no --init-from")
        return train.start_or_resume(resolved, run, terminal.console(), storage, cluster)

    # From random parameters, or from those of a file.
    if init_from is None and trust:
        raise UserError("--trust: nothing to trust: give the file with --init-from")
    imported = None
    if init_from is not None:
        from warprl.launch.evaluation import sb3

        imported = sb3.read(init_from, trust, resolved)
    console = terminal.console()
    return train.start(resolved, run, console, imported, storage=storage, cluster=cluster)


@verb
def resume(
    run: options.Run,
    iterations: Annotated[
        int | None, number("Continue for this many.", "to the planned end")
    ] = None,
    changed: Annotated[
        bool, flag("--changed", "Continue although config.yaml was edited: another experiment.")
    ] = False,
    wait_for_nodes: options.WaitForNodes = None,
    insecure: options.Insecure = False,
    trust: options.Trust = False,
) -> Outcome[Summary]:
    """Continue a run exactly where its newest checkpoint left it."""
    from warprl.launch.runs.trust import Trust
    from warprl.launch.training import train

    cluster, console = address.options(wait_for_nodes, insecure), terminal.console()
    trusted = Trust(trust)
    return train.resume(
        find(run), iterations, console, cluster=cluster, trust=trusted, changed=changed
    )


@partial(verb, help=options.SWEEP)
def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The grid, as YAML.")],
    storage: options.Storage = None,
    wait_for_nodes: options.WaitForNodes = None,
    insecure: options.Insecure = False,
) -> Outcome[Summary]:
    """Train the runs of a file; see :data:`warprl.launch.options.SWEEP`."""
    from warprl.launch.training import sweep

    cluster = address.options(wait_for_nodes, insecure)
    return sweep.sweep(Path(file), storage, terminal.console(), cluster)


@verb
def evaluate(
    run: options.Run,
    steps: Annotated[
        int | None, number("Inner steps; may exceed training.", "as in training, 3 at least")
    ] = None,
    episodes: Annotated[int | None, number("Episodes per task and step.", "as in training")] = None,
    against: Annotated[str | None, text("RUN", "A second run of the same family.")] = None,
    untrained: Annotated[
        bool, flag("--untrained", "Compare with the policy before training.")
    ] = False,
    protocol: Annotated[
        Literal["curve", "metaworld"],
        typer.Option(help="Adaptation curve, or Meta-World's evaluator with its defaults."),
    ] = "curve",
    checkpoint: options.Checkpoint = None,
    seed: options.EpisodeSeed = None,
    trust: options.Trust = False,
) -> Outcome[Summary]:
    """Measure how a run adapts to held-out tasks: returns after 0..N inner steps.

    With --protocol metaworld: success rates by Meta-World's own evaluator, for runs on its families
    (docs/metaworld.md).
    """
    from warprl.launch.runs.trust import Trust

    folder, console = find(run, checkpoint), terminal.console()
    numbers = {"steps": steps, "episodes": episodes, "checkpoint": checkpoint, "seed": seed}
    asked: dict[str, Any] = {**numbers, "trust": Trust(trust)}

    # By Meta-World's evaluator.
    if protocol == "metaworld":
        from warprl.launch.evaluation import meta_world

        if against is not None or untrained:
            raise UserError("--protocol metaworld evaluates one run: no --against, --untrained")
        return meta_world.evaluate(folder, **asked, console=console)

    # By our own adaptation curve.
    from warprl.launch.evaluation import evaluate

    other = None if against is None else find(against)
    return evaluate.evaluate(folder, **asked, against=other, untrained=untrained, console=console)


@verb
def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Runs of one family: names, paths, URIs."),
    ],
    steps: Annotated[int, number("Inner steps; may exceed training.")] = 10,
    episodes: Annotated[int, number("Episodes per task and step.")] = 20,
    seed: Annotated[int, number("Seed of the episodes.")] = 0,
    beside: Annotated[
        str | None, text("WORD,...", "References: untrained, scratch, finetuned, oracle.", "--with")
    ] = None,
    out: Annotated[
        str | None, text("FOLDER", "A new folder, or a URI.", default="runs/comparisons/<time>")
    ] = None,
    trust: options.Trust = False,
) -> Outcome[Summary]:
    """Compare runs on the same held-out tasks; runs that differ only in their seed count as one.

    Evaluations that a run already has under the same protocol are reused. References are the policy
    before training, and Stable-Baselines3's PPO on as many environment steps: from scratch on each
    task, trained on all tasks beforehand and then fine-tuned, or seeing the task (oracle).
    """
    from warprl.launch.evaluation import compare
    from warprl.launch.runs.trust import Trust

    # The runs have to be there before anything else is looked at.
    runs, console = [find(name) for name in names], terminal.console()
    asked: dict[str, Any] = {"steps": steps, "episodes": episodes, "seed": seed}
    asked |= {"beside": beside, "out": out, "trust": Trust(trust)}
    return compare.compare(runs, **asked, console=console)


@verb
def render(
    run: options.Run,
    task: Annotated[int, number("Position among the held-out tasks.")] = 0,
    steps: Annotated[int | None, number("Inner steps.", "as in training")] = None,
    checkpoint: options.Checkpoint = None,
    trust: options.Trust = False,
) -> Outcome[Summary]:
    """Film one task before and after 1..K inner steps, side by side."""
    from warprl.launch.evaluation import render
    from warprl.launch.runs.trust import Trust

    folder, console = find(run, checkpoint), terminal.console()
    return render.render(folder, task, steps, checkpoint, console, Trust(trust))


@verb
def export(
    run: options.Run,
    out: Annotated[str, text("FILE.zip", "A new file.")],
    task: options.TaskSettings = None,
    steps: Annotated[
        int | None, number("Inner steps; 0 exports the initialisation.", "as in training")
    ] = None,
    checkpoint: options.Checkpoint = None,
    seed: options.EpisodeSeed = None,
    trust: options.Trust = False,
) -> Outcome[Summary]:
    """Adapt to one task and save the policy for Stable-Baselines3's PPO.load."""
    from warprl.launch.evaluation import sb3
    from warprl.launch.runs import stored
    from warprl.launch.runs.trust import Trust

    found = stored.open_run(find(run, checkpoint), checkpoint, Trust(trust))
    return sb3.export(found, sb3.parse_task(found, task or ()), steps, out, seed)


for work in (*lists.VERBS, *machines.VERBS):
    verb(work)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for bad input, in one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with terminal.warnings_on_stderr():
            return app(arguments, standalone_mode=False) or 0
    except terminal.USAGE_ERROR as error:
        return terminal.complain(error, json="--json" in arguments)


if __name__ == "__main__":
    sys.exit(main())
