"""Held-out tasks: they were drawn once, are saved in the package, and are never trained on."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from warprl.types import Task

NUM_HELD_OUT = 40


@functools.cache
def load_manifest(name: str, parse: Callable[[Mapping[str, Any]], Task]) -> tuple[Task, ...]:
    """Read the held-out tasks of a continuous family.

    Args:
        name: the name of the family.
        parse: what makes a task from the values of its fields, and checks it.

    Returns:
        The tasks, in the order of the file.

    Raises:
        ValueError: the file has too few tasks, repeats one or holds one that ``parse`` refuses.
    """
    path = files("warprl.envs") / "manifests" / f"{name}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    try:
        tasks = tuple(parse(values) for values in manifest["tasks"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(set(tasks)) != NUM_HELD_OUT:
        raise ValueError(f"{path}: must hold {NUM_HELD_OUT} different tasks, got {len(set(tasks))}")
    return tasks
