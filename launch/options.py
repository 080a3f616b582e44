"""The kinds of options that the verbs of the command line are made of."""

from __future__ import annotations

from typing import Annotated, Any

import typer

FAMILY_HELP = (
    "A name that 'warprl envs' lists, package.module:FAMILY for your own, or Meta-World's "
    "ml1-<task>, ml10 and ml45 (docs/metaworld.md)."
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


Family = Annotated[str, typer.Argument(metavar="FAMILY", help=FAMILY_HELP)]
Agent = Annotated[str, text("PRESET", "Named agent, see 'warprl agents'.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A name under runs/, or a path.")]
Checkpoint = Annotated[int | None, number("Iteration of the checkpoint to use.", "the newest")]
EpisodeSeed = Annotated[int | None, number("Seed of the episodes.", "the run's")]
