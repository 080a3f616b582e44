"""The ``warprl`` command.

Everything heavy is imported inside the verbs, so that ``warprl --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from warprl import __version__
from warprl.launch.errors import UserError, one_line
from warprl.launch.outcome import Outcome, to_json

if TYPE_CHECKING:
    from rich.console import Console

FAMILY_HELP = (
    "A name that 'warprl envs' lists, package.module:FAMILY for your own, or Meta-World's "
    "ml1-<task>, ml10 and ml45 (docs/metaworld.md)."
)
# typer brings its own copy of click and names the base of its usage errors only as a base.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="warprl",
    help="Meta-train policies with Warped Gradient Descent, and see how they adapt.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


Family = Annotated[
    str,
    typer.Argument(
        metavar="FAMILY",
        help=FAMILY_HELP,
    ),
]
Agent = Annotated[str, typer.Option(metavar="PRESET", help="Named agent, see 'warprl agents'.")]
EpisodeSeed = Annotated[
    int | None,
    typer.Option(
        parser=_whole, metavar="N", help="Seed of the episodes.", show_default="the run's"
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else.")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A name under runs/, or a path.")]
Checkpoint = Annotated[
    int | None,
    typer.Option(
        parser=_whole,
        metavar="N",
        help="Iteration of the checkpoint to use.",
        show_default="the newest",
    ),
]


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


@app.command()
def train(
    family: Family,
    agent: Agent = "warpgrad",
    iterations: Annotated[
        int | None,
        typer.Option(parser=_whole, metavar="N", help="Meta-iterations.", show_default="200"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            parser=_whole,
            metavar="N",
            help="Ray workers; 0 samples in this process.",
            show_default="one a core",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(parser=_whole, metavar="N", help="Seed of every random number.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run folder: a new name or path.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of config.yaml."),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="FILE.zip", help="Begin with this Stable-Baselines3 PPO model."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load --init-from although it may run code.")
    ] = False,
    json: Json = False,
) -> int:
    """Meta-train an agent on a task family. Prints the run folder last."""

    def work() -> Outcome:
        from warprl.launch.runs import config
        from warprl.launch.training import train

        options = {"iterations": iterations, "workers": workers, "seed": seed}
        resolved = config.resolve(family, agent, options, settings or ())
        if init_from is None:
            if trust:
                raise UserError("--trust: nothing to trust: give the file with --init-from")
            return train.start(resolved, run, _console(json))
        from warprl.launch.evaluation import sb3

        imported = sb3.read(init_from, trust, resolved)
        return train.start(resolved, run, _console(json), imported)

    return _finish(work, json)


@app.command()
def resume(
    run: Run,
    iterations: Annotated[
        int | None,
        typer.Option(
            parser=_whole,
            metavar="N",
            help="Go on for this many.",
            show_default="to the planned end",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Continue a run exactly where its newest checkpoint left it."""

    def work() -> Outcome:
        from warprl.launch.runs import folders
        from warprl.launch.training import train

        return train.resume(folders.find(run), iterations, _console(json))

    return _finish(work, json)


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The grid, as YAML.")],
    json: Json = False,
) -> int:
    """Train a grid of families x agents x seeds with Ray Tune; the same command again goes on.

    Each cell is a run FAMILY-AGENT-sSEED on one core. What is finished is skipped, and what was
    interrupted is resumed exactly. A file, of which the last three keys may be left out:

    \b
    families:
      - half-cheetah-dir-v1
      - half-cheetah-vel-v1
    agents:
      - warpgrad
      - promp
    seeds:
      - 1
      - 2
    env_steps: 4_000_000     # for all alike; or iterations: 200
    settings:                # for all alike, as with --set
      - tasks=20
    concurrent: 2            # runs at a time; default: one a core
    folder: runs/comparison  # default: where all runs are
    """

    def work() -> Outcome:
        from pathlib import Path

        from warprl.launch.training import sweep

        return sweep.sweep(Path(file), _console(json))

    return _finish(work, json)


@app.command()
def evaluate(
    run: Run,
    steps: Annotated[
        int | None,
        typer.Option(
            parser=_whole,
            metavar="N",
            help="Inner steps; may exceed training.",
            show_default="as in training, 3 at least",
        ),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            parser=_whole,
            metavar="N",
            help="Episodes a task and step.",
            show_default="as in training",
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="A second run of the same family.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Compare with the policy before training.")
    ] = False,
    protocol: Annotated[
        Literal["curve", "metaworld"],
        typer.Option(help="Adaptation curve, or Meta-World's evaluator with its defaults."),
    ] = "curve",
    checkpoint: Checkpoint = None,
    seed: EpisodeSeed = None,
    json: Json = False,
) -> int:
    """Measure how a run adapts to held-out tasks: returns after 0..N inner steps.

    With --protocol metaworld: success rates by Meta-World's own evaluator, for runs on its families
    (docs/metaworld.md).
    """

    def work() -> Outcome:
        from warprl.launch.evaluation import evaluate
        from warprl.launch.runs import folders

        if protocol == "metaworld":
            from warprl.launch.evaluation import meta_world

            if against is not None or untrained:
                raise UserError("--protocol metaworld evaluates one run: no --against, --untrained")
            return meta_world.evaluate(
                folders.find(run), steps=steps, episodes=episodes, checkpoint=checkpoint, seed=seed,
                console=_console(json),
            )  # fmt: skip
        folder, other = folders.find(run), None if against is None else folders.find(against)
        return evaluate.evaluate(
            folder, steps=steps, episodes=episodes, against=other, untrained=untrained,
            checkpoint=checkpoint, seed=seed, console=_console(json),
        )  # fmt: skip

    return _finish(work, json)


@app.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Runs of one family: names under runs/, or paths."),
    ],
    steps: Annotated[
        int, typer.Option(parser=_whole, metavar="N", help="Inner steps; may exceed training.")
    ] = 10,
    episodes: Annotated[
        int, typer.Option(parser=_whole, metavar="N", help="Episodes a task and step.")
    ] = 20,
    seed: Annotated[
        int, typer.Option(parser=_whole, metavar="N", help="Seed of the episodes.")
    ] = 0,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="A new folder.", show_default="runs/comparisons/<time>"
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Compare runs on the same held-out tasks; runs that differ in their seed alone count as one.

    Evaluations that a run already has under the same protocol are used again.
    """

    def work() -> Outcome:
        from warprl.launch.evaluation import compare
        from warprl.launch.runs import folders

        return compare.compare(
            [folders.find(name) for name in names], steps=steps, episodes=episodes, seed=seed,
            out=out, console=_console(json),
        )  # fmt: skip

    return _finish(work, json)


@app.command()
def render(
    run: Run,
    task: Annotated[
        int, typer.Option(parser=_whole, metavar="N", help="Position among the held-out tasks.")
    ] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            parser=_whole, metavar="N", help="Inner steps.", show_default="as in training"
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    json: Json = False,
) -> int:
    """Film one task before and after 1..K inner steps, side by side."""

    def work() -> Outcome:
        from warprl.launch.evaluation import render
        from warprl.launch.runs import folders

        return render.render(folders.find(run), task, steps, checkpoint, _console(json))

    return _finish(work, json)


@app.command()
def export(
    run: Run,
    out: Annotated[str, typer.Option(metavar="FILE.zip", help="A new file.")],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A number of the task, or a list [1,2,...]; one option for each. "
            "Or alone N: the position among the held-out tasks.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            parser=_whole,
            metavar="N",
            help="Inner steps; 0 exports the initialisation.",
            show_default="as in training",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    seed: EpisodeSeed = None,
    json: Json = False,
) -> int:
    """Adapt to one task and save the policy for Stable-Baselines3's PPO.load."""

    def work() -> Outcome:
        from warprl.launch.evaluation import sb3
        from warprl.launch.runs import folders

        return sb3.export(folders.find(run), task or (), steps, out, checkpoint, seed)

    return _finish(work, json)


@app.command()
def envs(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help=FAMILY_HELP)] = None,
    json: Json = False,
) -> int:
    """List the task families, or print the definition card of one."""

    def work() -> Outcome:
        return _families() if name is None else _family(name)

    return _finish(work, json)


@app.command()
def agents(json: Json = False) -> int:
    """List the named agents; 'warprl config FAMILY --agent NAME' shows all that one sets."""

    def work() -> Outcome:
        from warprl.agents.presets import PRESETS

        return _listing({name: preset.summary for name, preset in PRESETS.items()})

    return _finish(work, json)


@app.command()
def config(
    family: Family,
    agent: Agent = "warpgrad",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as for train."),
    ] = None,
    json: Json = False,
) -> int:
    """Print the configuration that train would use, and so every key that --set takes."""

    def work() -> Outcome:
        from warprl.launch.runs import config

        resolved = config.resolve(family, agent, {}, settings or ())
        return Outcome(resolved.model_dump(mode="json"), config.dump(resolved).rstrip())

    return _finish(work, json)


@app.command()
def doctor(json: Json = False) -> int:
    """Check this machine: each part is OK, or what to do."""

    def work() -> Outcome:
        from warprl.launch import doctor

        return doctor.examine()

    return _finish(work, json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for bad input, in one line on stderr."""
    try:
        status = app(None if arguments is None else list(arguments), standalone_mode=False)
    except UserError as error:
        return _complain(one_line(error), error.status)
    except USAGE_ERROR as error:
        message = getattr(error, "format_message", error.__str__)()
        return _complain(" ".join(message.split()), 2)
    except MemoryError as error:
        return _complain(f"not enough memory: {one_line(error)}", 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return status or 0


def _families() -> Outcome:
    from warprl.envs import family_names, make_family

    listing = _listing({name: make_family(name).definition().tasks for name in family_names()})
    more = "and Meta-World's, an extra: ml1-<task>, ml10, ml45 (docs/metaworld.md)"
    return Outcome(listing.data, f"{listing.text}\n{more}")


def _listing(summaries: dict[str, str]) -> Outcome:
    width = max(map(len, summaries))
    return Outcome(
        summaries, "\n".join(f"{name:{width}}  {line}" for name, line in summaries.items())
    )


def _family(name: str) -> Outcome:
    from dataclasses import asdict

    from warprl.envs import make_family
    from warprl.launch.runs.config import require_family

    require_family(name)
    definition = make_family(name).definition()
    return Outcome(asdict(definition), definition.render())


def _finish(work: Callable[[], Outcome], json: bool) -> int:
    with _reserved_stdout() if json else contextlib.nullcontext():
        outcome = work()
    typer.echo(to_json(outcome.data) if json else outcome.text)
    return outcome.status


def _console(json: bool) -> Console:
    from rich.console import Console

    return Console(stderr=json)


@contextlib.contextmanager
def _reserved_stdout() -> Iterator[None]:
    """Send to stderr what anything prints, native libraries and child processes included."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _complain(message: str, status: int) -> int:
    print(f"warprl: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
