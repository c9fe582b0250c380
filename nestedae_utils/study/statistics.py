"""Numbers about results: intervals, comparisons, the fewest, the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


def interval(
    values: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the mean.

    Parameters
    ----------
    values
        Shape (n,): errors of rows, say, or their differences between two
        models.
    groups
        Shape (n,): rows of one group are drawn together, because they are
        no independent evidence; each row by itself where none are given.

    Returns
    -------
    tuple of float
        Lower and upper end, percentiles of 2000 resamples (scipy's
        ``bootstrap``, always the same draws).

    """
    values = np.asarray(values, dtype=float)
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    names, place = np.unique(groups, return_inverse=True)
    sums = np.bincount(place, values)
    counts = np.bincount(place)
    drawn = stats.bootstrap(
        (sums, counts),
        lambda total, rows, axis=-1: total.sum(axis) / rows.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        batch=200,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = drawn.confidence_interval
    return float(low), float(high)


def fewest(sizes: Sequence[int], errors: np.ndarray) -> int:
    """Return the smallest size that is as good as the best one.

    Parameters
    ----------
    sizes
        Numbers of latents, say, in any order.
    errors
        Shape (sizes, folds), at least two folds.

    Returns
    -------
    int
        The smallest size whose mean error lies within one standard error of
        the lowest mean error.
    """
    errors = np.asarray(errors, dtype=float)
    means = errors.mean(1)
    best = means.argmin()
    error = errors[best].std(ddof=1) / np.sqrt(errors.shape[1])
    return min(
        size
        for size, mean in zip(sizes, means, strict=True)
        if mean <= means[best] + error
    )


def pareto(values: np.ndarray) -> np.ndarray:
    """Tell which points no other one beats.

    Parameters
    ----------
    values
        Shape (n, aims), the larger the better in each; give minus a value
        that is to be low.

    Returns
    -------
    numpy.ndarray
        Shape (n,): true where no other point is at least as good in all
        aims and better in one.

    """
    values = np.asarray(values, dtype=float)
    ahead = (values[:, None] >= values).all(-1)
    return ~(ahead & ~ahead.T).any(0)


@dataclass(frozen=True)
class Paired:
    """A paired comparison of two models over the same seeds or folds.

    ``difference`` is the mean of first minus second with its 95 %
    interval ``low`` to ``high`` (Student's t); ``p_t`` and ``p_wilcoxon``
    are two-sided; ``wins`` counts the pairs in which the first is lower.
    """

    difference: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float
    wins: int
    pairs: int


def paired(first: np.ndarray, second: np.ndarray) -> Paired:
    """Compare two models whose values (at least two) belong together."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    if (first == second).all():
        return Paired(0.0, 0.0, 0.0, 1.0, 1.0, 0, len(first))
    student = stats.ttest_rel(first, second)
    interval = student.confidence_interval(0.95)
    return Paired(
        difference=float(np.mean(first - second)),
        low=float(interval.low),
        high=float(interval.high),
        p_t=float(student.pvalue),
        p_wilcoxon=float(stats.wilcoxon(first, second).pvalue),
        wins=int(np.sum(first < second)),
        pairs=len(first),
    )
