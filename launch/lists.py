"""The verbs that show what there is to choose from: task families, agents, and every key.

Everything heavy is imported inside the verbs, as in :mod:`warprl.launch.cli`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from warprl.launch import options
from warprl.launch.cluster import address
from warprl.launch.options import flag, set_key
from warprl.launch.outcome import Entries, Outcome, Summary


def envs(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help=options.FAMILY_HELP)] = None,
) -> Outcome[Summary]:
    """List the task families, or print the definition card of one."""
    from warprl.launch import catalogue

    return catalogue.families() if name is None else catalogue.family(name)


def agents() -> Outcome[Summary]:
    """List the named agents; 'warprl config FAMILY --agent NAME' shows everything that one sets."""
    from warprl.launch import catalogue

    return catalogue.agents()


def config(
    family: options.Family,
    agent: options.Agent = "warpgrad",
    settings: Annotated[list[str] | None, set_key("Override a key, as for train.")] = None,
    explain: Annotated[bool, flag("--explain", "Say what each key means and takes.")] = False,
) -> Outcome[Summary]:
    """Print the configuration that train would use, and so every key that --set takes."""
    from warprl.launch.runs import config

    resolved = config.resolve(family, agent, {}, settings or (), address.usable_cores)
    if explain:
        from warprl.launch.runs import reference

        return reference.explain(resolved)
    return Outcome(Entries(config.plain(resolved)), config.dump(resolved).rstrip())


VERBS = envs, agents, config
