"""Lists of what a user can choose from: the task families and the named agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from warprl.agents.presets import PRESETS
from warprl.envs import family_names, make_family
from warprl.launch.outcome import Entries, Outcome
from warprl.launch.runs.config import require_family

META_WORLD = "and, with an extra, Meta-World's ml1-<task>, ml10 and ml45 (docs/metaworld.md)"


def families() -> Outcome[Entries]:
    """All registered task families, each with one line about its tasks."""
    summaries = {name: make_family(name).definition().tasks for name in family_names()}
    return Outcome(Entries(summaries), f"{_aligned(summaries)}\n{META_WORLD}")


def family(name: str) -> Outcome[Entries]:
    """The definition card of one task family. Raises UserError if no family has this name."""
    require_family(name)
    definition = make_family(name).definition()
    return Outcome(Entries(asdict(definition)), definition.render())


def agents() -> Outcome[Entries]:
    """All named agents, each with one line about how it learns."""
    summaries = {name: preset.summary for name, preset in PRESETS.items()}
    return Outcome(Entries(summaries), _aligned(summaries))


def _aligned(summaries: Mapping[str, str]) -> str:
    width = max(map(len, summaries))
    return "\n".join(f"{name:{width}}  {line}" for name, line in summaries.items())
