"""Means over tasks and seeds, with their standard errors and intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warprl.launch.evaluation.summaries import Estimate
from warprl.types import Floats

RESAMPLES = 2000
LEVEL = 0.95


def estimate(values: Floats, stratum: NDArray[np.int64], rng: np.random.Generator) -> Estimate:
    """The mean of ``values [n]`` with a percentile-bootstrap interval (Efron, 1979).

    Values of one ``stratum [n]`` are resampled among themselves. Give all values the same stratum
    when they are a sample of one population (tasks drawn from a distribution). Give each task a
    stratum of its own when a family has few tasks and all are measured: then only the repeats of
    a task differ by chance. Raises ValueError if there are no values.
    """
    if not len(values):
        raise ValueError("an estimate needs at least one value")
    means = _resampled(values[:, None], stratum, RESAMPLES, rng)[:, 0]
    groups = [values[stratum == label] for label in np.unique(stratum)]
    variance = sum(len(group) * float(group.var(ddof=1)) for group in groups if len(group) > 1)
    n = len(values)
    return _estimate(float(values.mean()), float(np.sqrt(variance)) / n, means, values)


def estimate_over_seeds(
    values: Sequence[Floats], strata: Sequence[NDArray[np.int64]], rng: np.random.Generator
) -> list[Estimate]:
    """Estimates of C quantities from ``values [n_s, C]`` and ``strata [n_s]`` of each of S seeds.

    The mean is that over seeds of each seed's mean. The interval is a two-stage percentile
    bootstrap (Davison & Hinkley, 1997, section 3.8): seeds are drawn with replacement and, anew in
    each seed drawn, its values as in :func:`estimate`; the standard error is the deviation of those
    draws. All quantities share the draws. The interquartile mean is over the values of all seeds
    together.

    The interval is for comparing methods on these tasks. It is rather wide for that, because all
    seeds saw the same tasks, while each resampled seed draws tasks of its own. It is too narrow for
    the mean over all tasks that might have been drawn, whose spread does not shrink with more
    seeds. With a single seed it says nothing about other seeds. Raises ValueError if a seed has no
    values.
    """
    if not values or not all(map(len, values)):
        raise ValueError("an estimate needs at least one value of every seed")
    means = np.zeros((RESAMPLES, values[0].shape[1]))
    for drawn in rng.integers(len(values), size=(len(values), RESAMPLES)):
        for seed, (own, stratum) in enumerate(zip(values, strata, strict=True)):
            chosen = np.flatnonzero(drawn == seed)
            means[chosen] += _resampled(own, stratum, len(chosen), rng) / len(values)
    mean = np.mean([own.mean(axis=0) for own in values], axis=0)
    stderr = means.std(axis=0, ddof=1)
    together = np.concatenate(values)
    return [
        _estimate(float(mean[c]), float(stderr[c]), means[:, c], together[:, c])
        for c in range(len(mean))
    ]


def interquartile_mean(values: Floats) -> float:
    """Mean of the middle half of ``values [n]``: without the lowest and the highest ``n // 4``.

    Recommended for returns by Agarwal et al. ("Deep reinforcement learning at the edge of the
    statistical precipice", NeurIPS 2021): outliers move it less than they move the mean, and it
    uses more of the data than the median.
    """
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def _resampled(
    values: Floats, stratum: NDArray[np.int64], size: int, rng: np.random.Generator
) -> Floats:
    """Means ``[size, C]`` of ``values [n, C]`` resampled within each stratum."""
    sums = np.zeros((size, values.shape[1]))
    for label in np.unique(stratum):
        group = values[stratum == label]
        sums += group[rng.integers(len(group), size=(size, len(group)))].sum(axis=1)
    return sums / len(values)


def _estimate(mean: float, stderr: float, means: Floats, values: Floats) -> Estimate:
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return Estimate(mean, stderr, float(low), float(high), interquartile_mean(values), len(values))
