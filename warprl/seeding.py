"""One counter-based tree of random generators, so that results never depend on who draws when.

Every random number of a run comes from a generator keyed ``(seed, iteration, task, k, purpose)``.
Neither the number of workers, nor their order, nor a shard that was lost and recomputed can change
it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Purpose = Literal["init", "tasks", "reset", "action", "minibatch", "bootstrap"]

_PURPOSES: dict[Purpose, int] = {
    "init": 0,
    "tasks": 1,
    "reset": 2,
    "action": 3,
    "minibatch": 4,
    "bootstrap": 5,
}


def generator(
    seed: int, purpose: Purpose, *, iteration: int = 0, task: int = 0, k: int = 0
) -> np.random.Generator:
    """The generator of one key: equal keys give equal streams, others independent ones.

    Args:
        seed: of the run.
        purpose: what is drawn.
        iteration: of the meta-training; 0 outside of it.
        task: position in the meta-batch.
        k: inner steps taken so far.

    Returns:
        A counter-based generator (Philox).

    Raises:
        ValueError: if a key is negative.
    """
    key = (seed, iteration, task, k, _PURPOSES[purpose])
    if min(key) < 0:
        raise ValueError(f"random keys are non-negative integers, got {key}")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
