"""Means over tasks and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n values, its standard error and its 95 % bootstrap interval."""

    mean: float
    stderr: float
    low: float
    high: float
    n: int


def estimate(
    values: NDArray[np.float64], stratum: NDArray[np.int64], rng: np.random.Generator
) -> Estimate:
    """The mean of ``values [n]`` with a percentile-bootstrap interval (Efron, 1979).

    Values of one ``stratum [n]`` are resampled among themselves. Give all values the same stratum
    when they are a sample of one population (tasks drawn from a distribution), and one stratum a
    task when there are few tasks and all are there: then only the draws within a task are chance.
    Raises ValueError if there are no values.
    """
    if not len(values):
        raise ValueError("an estimate needs at least one value")
    groups = [values[stratum == label] for label in np.unique(stratum)]
    sums = np.zeros(RESAMPLES)
    variance = 0.0
    for group in groups:
        drawn = rng.integers(len(group), size=(RESAMPLES, len(group)))
        sums += group[drawn].sum(axis=1)
        if len(group) > 1:
            variance += len(group) * float(group.var(ddof=1))
    n = len(values)
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(sums / n, [tail, 100.0 - tail])
    return Estimate(float(values.mean()), float(np.sqrt(variance)) / n, float(low), float(high), n)
