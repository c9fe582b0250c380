"""Numbers about results: intervals, the fewest latents, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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


class Fewest(NamedTuple):
    """The fewest latents that lose nothing that matters; 95 % of resamples."""

    value: int
    low: int
    high: int


def fewest(
    sizes: Sequence[int], errors: np.ndarray, loss: float, resamples: int = 2000
) -> Fewest:
    """Return the smallest size whose mean error is within a loss of the lowest.

    Of ``errors`` (sizes, draws), folds or seeds, the same for every size; the
    ``loss`` is the smallest that matters, in their unit, named in advance: a
    rule that asks which of two means is lower hangs on a machine's last bits.
    The ends are percentiles over draws resampled for all sizes alike.
    """
    errors, ordered = np.asarray(errors, float), np.sort(sizes)
    errors = errors[np.argsort(sizes)]
    random, draws = np.random.default_rng(0), errors.shape[1]
    some = random.integers(0, draws, (resamples, draws))
    means = np.vstack([errors.mean(1), errors[:, some].mean(2).T])
    good = means <= means.min(1, keepdims=True) + loss
    found = ordered[good.argmax(1)]
    low, high = np.percentile(found[1:], [2.5, 97.5], method="nearest")
    return Fewest(int(found[0]), int(low), int(high))


class Paired(NamedTuple):
    """A paired comparison: the mean difference with its 95 % interval.

    ``wins`` counts the pairs in which the first is lower.
    """

    difference: float
    low: float
    high: float
    wins: int
    pairs: int


def paired(first: np.ndarray, second: np.ndarray, share: float = 0.0) -> Paired:
    """Compare two models whose values (at least two) belong together.

    The interval is Student's t of the differences. Of splits that were drawn
    again and again, whose training rows hence overlap, ``share`` is the number
    of held-out over that of training rows: by Nadeau and Bengio (2003,
    doi:10.1023/A:1024068626366) the variance of the mean is then not s2 / k
    but s2 (1 / k + share). The folds of one cross-validation hold out every
    row once; they, and seeds on the same rows, have none.
    """
    away = np.asarray(first, float) - np.asarray(second, float)
    count, wins = len(away), int(np.sum(away < 0))
    error = away.std(ddof=1) * np.sqrt(1 / count + share)
    reach = stats.t.ppf(0.975, count - 1) * error
    mean = float(away.mean())
    return Paired(mean, mean - float(reach), mean + float(reach), wins, count)
