"""Held-out tasks: drawn once, saved in the package, never trained on."""

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
    """The held-out tasks of the continuous family ``name``, each checked by ``parse``.

    Raises ValueError if the file is short of tasks, repeats one or holds an impossible one.
    """
    path = files("warprl.envs") / "manifests" / f"{name}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    try:
        tasks = tuple(parse(values) for values in manifest["tasks"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(set(tasks)) != NUM_HELD_OUT:
        raise ValueError(f"{path}: not {NUM_HELD_OUT} different tasks but {len(set(tasks))}")
    return tasks
