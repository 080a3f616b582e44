"""The kinds of options that the verbs of the command line are made of."""

from __future__ import annotations

from typing import Annotated, Any

import typer

FAMILY_HELP = (
    "A name that 'warprl envs' lists, package.module:FAMILY for your own, or Meta-World's "
    "ml1-<task>, ml10 and ml45 (docs/metaworld.md)."
)
TASK_HELP = (
    "A number of the task, or a list [1,2,...]; repeat the option for each. Or N alone: the "
    "position among the held-out tasks."
)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(help: str, default: str | bool = True) -> Any:
    """An option that takes a whole number; ``default`` is what the help shows as the default."""
    return typer.Option(parser=_whole, metavar="N", help=help, show_default=default)


def flag(name: str, help: str) -> Any:
    """An option that is given or not."""
    return typer.Option(name, help=help)


def text(metavar: str, help: str, name: str | None = None, default: str | bool = True) -> Any:
    """An option that takes text; one of a list may be repeated."""
    names = () if name is None else (name,)
    return typer.Option(*names, metavar=metavar, help=help, show_default=default)


def set_key(help: str) -> Any:
    """The option ``--set``, which may be repeated."""
    return text("KEY=VALUE", help, "--set")


Family = Annotated[str, typer.Argument(metavar="FAMILY", help=FAMILY_HELP)]
Agent = Annotated[str, text("PRESET", "Named agent, see 'warprl agents'.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A name under runs/, a path or a URI.")]
Storage = Annotated[
    str | None,
    text(
        "URI",
        "Where runs live: s3://bucket/runs, gs://bucket/runs, file:///shared/runs, /shared.",
        default="$WARPRL_STORAGE, or else runs/",
    ),
]
Checkpoint = Annotated[int | None, number("Iteration of the checkpoint to use.", "the newest")]
Trust = Annotated[
    bool, flag("--trust", "Use a run from elsewhere although its task family runs code of its own.")
]
TaskSettings = Annotated[list[str] | None, text("KEY=VALUE", TASK_HELP)]
Job = Annotated[str, typer.Argument(metavar="JOB", help="As 'warprl status' lists them.")]
Server = Annotated[
    str | None,
    text("URL", "Of the cluster: http://HOST:8265.", "--address", "RAY_ADDRESS"),
]
EpisodeSeed = Annotated[int | None, number("Seed of the episodes.", "the run's")]
WaitForNodes = Annotated[
    float | None,
    typer.Option(
        "--wait-for-nodes",
        metavar="SECONDS",
        min=0,
        help="Wait so long for CPUs that the cluster lacks.",
        show_default="do not wait",
    ),
]
Insecure = Annotated[
    bool, flag("--insecure", "Use a cluster of other machines that demands no token.")
]

SWEEP = """Train a grid of families x agents x seeds with Ray Tune; the same command continues it.

Each run of the grid is named FAMILY-AGENT-sSEED and uses one core. Finished runs are skipped,
and interrupted ones are resumed exactly. A file needs families, seeds, agents or variants, and
env_steps or iterations:

\b
families:
  - half-cheetah-dir-v1
  - half-cheetah-vel-v1
seeds:
  - 1
  - 2
agents:
  - warpgrad
  - promp
env_steps: 4_000_000     # for every run; or iterations: 200
variants:                # agents with settings of their own, by name
  online:
    agent: warpgrad
    settings:
      - outer.epochs=1
    iterations: 100      # for this one alone
vary:                    # one run for each combination of values
  policy.warp:
    - gate
    - none
settings:                # for every run, as with --set
  - tasks=20
concurrent: 2            # runs at a time; default: one per core
folder: runs/comparison  # a path or a URI; default: where all runs are

Runs have the varied values in their names: half-cheetah-dir-v1-online-warp_gate-s1.
"""
