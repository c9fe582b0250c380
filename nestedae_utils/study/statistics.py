"""Numbers about results: over folds, over seeds, on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from nestedae_utils.errors import ParameterError
from nestedae_utils.model.chain import FittedScale
from nestedae_utils.model.training import Split


def at_end(fitted: FittedScale, kind: str, metric: str) -> np.ndarray:
    """Return a history's value at each replica's last epoch, shape (R,)."""
    values = fitted.history[kind][metric]
    return values[np.arange(len(values)), fitted.last_epoch].astype(float)


def over_folds(values: np.ndarray, folds: int) -> tuple[float, float]:
    """Return mean and standard deviation (``ddof=1``) over the folds.

    Parameters
    ----------
    values
        Shape (R,), seeds within folds: the first R / folds belong to fold
        0.  Seeds are averaged first.
    folds
        Number of folds; with one, the deviation is that over its seeds.

    Raises
    ------
    ParameterError
        If R is no multiple of ``folds``.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or folds < 1 or len(values) % folds:
        raise ParameterError(
            f"folds: {folds} given for {values.shape} values, a divisor of "
            "their number is allowed."
        )
    by_fold = values.reshape(folds, -1)
    spread = by_fold.mean(1) if folds > 1 else by_fold[0]
    deviation = spread.std(ddof=1) if len(spread) > 1 else np.nan
    return float(by_fold.mean()), float(deviation)


def out_of_fold(predicted: np.ndarray, splits: Sequence[Split]) -> np.ndarray:
    """Gather for every row the mean of the predictions that held it out.

    Parameters
    ----------
    predicted
        Shape (R, n, width).
    splits
        For every replica its (training, validation) rows.

    Returns
    -------
    numpy.ndarray
        Shape (n, width); NaN for a row that no replica held out.
    """
    total = np.zeros(predicted.shape[1:])
    count = np.zeros((predicted.shape[1], 1))
    for values, (_, held_out) in zip(predicted, splits, strict=True):
        total[held_out] += values[held_out]
        count[held_out] += 1
    with np.errstate(invalid="ignore"):
        return total / count


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

    Raises
    ------
    ParameterError
        If the shapes differ, a value is not finite, or there are fewer than
        two groups.
    """
    values = np.asarray(values, dtype=float)
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    names, place = np.unique(groups, return_inverse=True)
    if values.ndim != 1 or groups.shape != values.shape or len(names) < 2:
        raise ParameterError(
            f"interval: values of shape {values.shape} in {len(names)} "
            f"groups, shape {groups.shape}, given; one group for each value "
            "and at least two groups are allowed."
        )
    if not np.isfinite(values).all():
        raise ParameterError("interval: a value is not finite; leave it out.")
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

    Raises
    ------
    ParameterError
        If a value is not finite or the shape is another.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ParameterError(
            f"pareto: shape {values.shape} given, finite values of shape "
            "(points, aims) are allowed."
        )
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
    """Compare two models whose values, shape (pairs,), belong together.

    Raises
    ------
    ParameterError
        If the shapes differ or there are fewer than two pairs.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ParameterError(
            f"paired: shapes {first.shape} and {second.shape} given, two "
            "equal ones of at least two values are allowed."
        )
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
