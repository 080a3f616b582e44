"""Estimates against textbook formulas, numbers by hand and independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import trim_mean

from warprl.launch.evaluation.statistics import (
    estimate,
    estimate_over_seeds,
    interquartile_mean,
)
from warprl.launch.evaluation.summaries import Estimate


def test_an_estimate_is_the_textbook_mean_and_standard_error() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0])
    result = estimate(values, np.zeros(4, dtype=np.int64), np.random.default_rng(0))
    assert result.mean == 3.0
    assert result.stderr == pytest.approx(np.std(values, ddof=1) / 2.0)
    assert 1.0 <= result.low < 3.0 < result.high <= 6.0
    assert result.n == 4


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        result = estimate(rng.normal(size=40), np.zeros(40, dtype=np.int64), rng)
        hits += result.low <= 0.0 <= result.high
    assert 0.91 <= hits / 300 <= 0.98


def test_differences_between_all_tasks_of_a_family_are_not_chance() -> None:
    values = np.array([0.0, 0.0, 0.0, 10.0, 10.0, 10.0])
    stratum = np.array([0, 0, 0, 1, 1, 1])
    result = estimate(values, stratum, np.random.default_rng(0))
    assert (result.mean, result.stderr, result.low, result.high) == (5.0, 0.0, 5.0, 5.0)


def test_an_estimate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate(np.zeros(0), np.zeros(0, dtype=np.int64), np.random.default_rng(0))


# --- the interquartile mean ---------------------------------------------------------------------


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert interquartile_mean(np.array([8.0, 1, 7, 2, 6, 3, 5, 4])) == 4.5  # of 3, 4, 5, 6
    assert interquartile_mean(np.array([100.0, 2, -50, 1, 3])) == 2.0  # of 1, 2, 3
    assert interquartile_mean(np.array([1.0, 2, 6])) == 3.0  # too few to leave any out


@pytest.mark.parametrize("n", [1, 4, 7, 40, 59])
def test_the_interquartile_mean_is_the_trimmed_mean_of_scipy(n: int) -> None:
    values = np.random.default_rng(n).standard_normal(n) ** 3
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))
    whole = estimate(values, np.zeros(n, dtype=np.int64), np.random.default_rng(0))
    assert whole.iqm == interquartile_mean(values)


# --- seeds and tasks ----------------------------------------------------------------------------


def over_seeds(*values: NDArray[np.float64], seed: int = 0) -> list[Estimate]:
    strata = [np.zeros(len(own), dtype=np.int64) for own in values]
    return estimate_over_seeds(values, strata, np.random.default_rng(seed))


def column(*values: float) -> NDArray[np.float64]:
    return np.array(values)[:, None]


def test_seeds_weigh_the_same_however_many_values_they_have() -> None:
    (found,) = over_seeds(column(0, 0, 0, 6), column(9))
    assert found.mean == (1.5 + 9) / 2
    assert found.n == 5
    assert found.iqm == 2.0  # of 0, 0, 6 of all five together


def test_seeds_are_resampled() -> None:
    """Two seeds of constant 0 and 10: draws give 0, 5 and 10 with probabilities 1/4, 1/2, 1/4."""
    (found,) = over_seeds(column(0, 0, 0), column(10, 10, 10))
    assert (found.mean, found.low, found.high) == (5.0, 0.0, 10.0)
    assert found.stderr == pytest.approx(5 / 2**0.5, rel=0.05)


def test_the_standard_error_is_that_of_the_two_stage_bootstrap_worked_out() -> None:
    """One draw of a seed varies by the spread of seed means and by the mean spread within, / n."""
    rng = np.random.default_rng(5)
    values = [rng.normal(centre, 4.0, (8, 2)) for centre in (0.0, 2.0, 3.0, 7.0)]
    between = np.var([own.mean(axis=0) for own in values], axis=0)
    within = np.mean([own.var(axis=0) / len(own) for own in values], axis=0)
    expected = np.sqrt((between + within) / len(values))
    found = over_seeds(*values)
    assert [one.stderr for one in found] == pytest.approx(expected.tolist(), rel=0.06)


def test_one_seed_has_the_interval_over_its_values() -> None:
    values = np.random.default_rng(1).normal(size=30)
    (found,) = over_seeds(values[:, None])
    alone = estimate(values, np.zeros(30, dtype=np.int64), np.random.default_rng(9))
    assert found.mean == pytest.approx(alone.mean)
    assert found.iqm == alone.iqm
    width = alone.high - alone.low
    assert [found.low, found.high] == pytest.approx([alone.low, alone.high], abs=0.1 * width)


def test_within_a_seed_only_draws_of_one_stratum_are_chance() -> None:
    values, stratum = column(0, 0, 0, 10, 10, 10), np.array([0, 0, 0, 1, 1, 1])
    (found,) = estimate_over_seeds([values] * 2, [stratum] * 2, np.random.default_rng(0))
    assert (found.mean, found.stderr, found.low, found.high) == (5.0, 0.0, 5.0, 5.0)


def test_quantities_share_the_draws() -> None:
    rng = np.random.default_rng(2)
    values = [np.repeat(rng.normal(size=(6, 1)), 2, axis=1) for _ in range(3)]
    first, second = over_seeds(*values)
    assert first == second


def test_a_seed_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="of every seed"):
        over_seeds(column(1, 2), np.zeros((0, 1)))
