"""Write the held-out tasks of every continuous family: ``python -m warprl.envs.manifest``.

It writes the very files that are committed. Another seed, number of tasks or distribution would
give other tasks than those of every evaluation before, and so a new version of the family.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from warprl.envs.held_out import NUM_HELD_OUT
from warprl.envs.registry import family_names, make_family
from warprl.envs.tasks import TaskDistribution
from warprl.seeding import generator

_SEED = 2026


def manifest_text(name: str, distribution: TaskDistribution[Any]) -> str:
    """Draw the held-out tasks of a family.

    Args:
        name: the name of the family.
        distribution: what its tasks are drawn from.

    Returns:
        The manifest as JSON, with one task on each line.
    """
    tasks = distribution.sample(generator(_SEED, "tasks"), NUM_HELD_OUT)
    rows = ",\n".join(f"    {json.dumps(asdict(task))}" for task in tasks)
    return f'{{\n  "family": "{name}",\n  "seed": {_SEED},\n  "tasks": [\n{rows}\n  ]\n}}\n'


def main() -> None:
    """Write the manifest of every continuous family beside this file."""
    folder = Path(__file__).parent / "manifests"
    folder.mkdir(exist_ok=True)
    for name in family_names():
        distribution = make_family(name).distribution
        if distribution.all_tasks() is None:
            path = folder / f"{name}.json"
            path.write_text(manifest_text(name, distribution), encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
