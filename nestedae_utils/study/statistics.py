"""Numbers about results: intervals, the fewest latents, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


def interval(
    values: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the mean, its lower and upper end.

    Of ``values`` (n,), errors of rows, say, or their differences between two
    models. Rows of one of the ``groups`` (n,) are drawn together, because they
    are no independent evidence; where there are none, each row by itself.
    Percentiles of 2000 resamples (scipy's ``bootstrap``, always the same draws).
    """
    values = np.asarray(values, dtype=float)
    if groups is None:
        groups = np.arange(len(values))
    _, group = np.unique(groups, return_inverse=True)
    drawn = stats.bootstrap(
        (np.bincount(group, values), np.bincount(group)),
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

    Of ``errors`` (sizes, folds), at least two folds, the mean lies within one
    standard error of the lowest mean. The ``sizes``, numbers of latents, say,
    are in any order.
    """
    errors = np.asarray(errors, dtype=float)
    means = errors.mean(1)
    best = means.argmin()
    limit = means[best] + stats.sem(errors[best])
    return min(s for s, mean in zip(sizes, means, strict=True) if mean <= limit)


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
