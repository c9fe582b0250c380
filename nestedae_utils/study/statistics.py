"""Numbers about results: what was drawn, and the interval that follows.

The one place that says how each kind of value is resampled for its 95 %
interval, low to high:

seeds
    A mean over trainings that differ in their seed: Student's t of one mean
    for each seed (`trained`). The folds are then given, as for a number that
    the paper took on the very same folds.
folds
    A mean, or a difference of two models, over the folds of one
    cross-validation: Student's t of one mean for each fold (`paired`, `mean`).
    A fold is a block: its rows share a model. Nor are folds independent of
    each other, since any two trainings share most of their rows; no estimate
    of the variance from one cross-validation is without bias (Bengio and
    Grandvalet 2004, jmlr.org/papers/v5/grandvalet04a.html).
splits
    Seeds that each draw their own held-out rows share training rows: Student's
    t with the variance of Nadeau and Bengio (`paired`, ``share``).
rows
    A mean, or any function, of rows: they are drawn with replacement by groups,
    those of equal inputs together, or of one composition where folds kept
    compositions apart, and with them which of several draws of the training
    rows was used (`interval`, `resampled`).
models
    What one picked model says: where another draw of it would lie (`picked`).

A value that nothing was drawn for, a count in a published table, is exact and
has no interval. With few blocks percentiles are too narrow; they are expanded
as Student's t is against the normal distribution (Hesterberg 2015,
doi:10.1080/00031305.2015.1089789). An interval holds its value: an extreme of
several means, say, is not in the middle of its resamples.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from nestedae_utils.model.replicas import Replicas

RESAMPLES = 1000
Ends = tuple[float, float]


class Estimate(NamedTuple):
    """A value, its spread, how many stand behind it, the ends of its interval.

    The words of `nestedae_utils.book.chapter.Chapter.record`, in their order.
    The ends are NaN where there was one draw only.
    """

    value: float
    spread: float | None
    replicas: int
    ends: Ends


def _reach(draws: np.ndarray, share: float = 0.0) -> float:
    if len(draws) < 2:
        return np.nan
    error = draws.std(ddof=1) * np.sqrt(1 / len(draws) + share)
    return float(stats.t.ppf(0.975, len(draws) - 1) * error)


def _wider(blocks: int) -> float:
    """Return by how much resamples of so many blocks are too narrow."""
    wider = stats.t.ppf(0.975, blocks - 1) / stats.norm.ppf(0.975)
    return float(np.sqrt(blocks / (blocks - 1)) * wider)


def _percentiles(found: np.ndarray, blocks: int, value: float) -> Ends:
    """Return the expanded percentiles of resamples of so many blocks."""
    if blocks < 2:
        return np.nan, np.nan
    tail = stats.norm.cdf(_wider(blocks) * stats.norm.ppf(0.025))
    low, high = np.nanquantile(found, [tail, 1 - tail], method="nearest")
    return float(min(low, value)), float(max(high, value))


def mean(draws: np.ndarray, share: float = 0.0) -> Estimate:
    """Estimate a mean by one value for each fold or split, (k,).

    ``share`` is that of `paired`.
    """
    draws = np.asarray(draws, float)
    value, reach = float(draws.mean()), _reach(draws, share)
    spread = float(draws.std(ddof=1)) if len(draws) > 1 else None
    return Estimate(value, spread, len(draws), (value - reach, value + reach))


def trained(replicas: Replicas, values: np.ndarray) -> Estimate:
    """Estimate a mean over replicas (R,), the folds being given.

    The interval is over seeds, with one seed over folds; the spread over
    folds, as the paper gives it.
    """
    value, spread, count = replicas.summary(values)
    axis = "seed" if len(replicas.levels("seed")) > 1 else "fold"
    reach = _reach(replicas.grid(values, axis))
    return Estimate(value, spread, count, (value - reach, value + reach))


def picked(draws: np.ndarray, place: int) -> Estimate:
    """Estimate what one of several trained models says, of draws (k,).

    The interval is Student's for one more draw, s2 (1 + 1 / k).
    """
    draws = np.asarray(draws, float)
    middle, reach, value = draws.mean(), _reach(draws, 1.0), float(draws[place])
    ends = float(min(middle - reach, value)), float(max(middle + reach, value))
    spread = float(draws.std(ddof=1)) if len(draws) > 1 else None
    return Estimate(value, spread, len(draws), ends)


def by_models(middle: float, spread: float, count: int, less: int = 0) -> Estimate:
    """Estimate a mean over models, ``less`` their standard deviation, of both.

    The standard deviation of a count from the normal distribution is itself
    uncertain by its part 1 / sqrt(2 (count - 1)).
    """
    if count < 2:
        return Estimate(middle, None, count, (np.nan, np.nan))
    error = spread * np.sqrt(1 / count + less / (2 * (count - 1)))
    value, reach = middle - less * spread, stats.t.ppf(0.975, count - 1) * error
    return Estimate(value, spread, count, (value - reach, value + reach))


def interval(values: np.ndarray, groups: np.ndarray | None = None) -> Ends:
    """Return a 95 % bootstrap interval of the mean, its lower and upper end.

    Of ``values`` (n,), errors of rows, say, or their differences between two
    models. Rows of one of the ``groups`` (n,) are drawn together, because they
    are no independent evidence; where there are none, each row by itself. Of
    values (draws, n), of models that learnt from other rows each, these are
    drawn as well (both ways at once: Owen 2007, doi:10.1214/07-AOAS122).
    """
    values = np.atleast_2d(np.asarray(values, float))
    groups = np.arange(values.shape[1]) if groups is None else groups
    _, group = np.unique(groups, return_inverse=True)
    sizes, draws = np.bincount(group), len(values)
    totals = np.stack([np.bincount(group, one) for one in values])
    if draws > 1:
        middle = totals.mean(0)
        totals = middle + _wider(draws) * (totals - middle)
    random = np.random.default_rng(0)
    some, which = (
        random.multinomial(count, np.full(count, 1 / count), RESAMPLES)
        for count in (len(sizes), draws)
    )
    found = np.einsum("bd,bd->b", which / draws, some @ totals.T) / (some @ sizes)
    return _percentiles(found, len(sizes), float(values.mean()))


def rows(values: np.ndarray, groups: np.ndarray | None = None) -> Estimate:
    """Estimate the mean of values (n,) or (draws, n); see `interval`."""
    values = np.asarray(values, float)
    ends = interval(values, groups)
    return Estimate(float(values.mean()), None, values.shape[-1], ends)


def resampled(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    labelled: bool = False,
) -> Estimate:
    """Estimate any function of arrays (n, ...) whose rows belong together.

    Their rows are drawn by ``groups`` (n,), or each by itself: folds, say. A
    ``labelled`` one has the groups as its last argument, where one that was
    drawn twice is two.
    """
    taken = [np.asarray(one) for one in arrays]
    count, random = len(taken[0]), np.random.default_rng(0)
    _, group = np.unique(
        np.arange(count) if groups is None else groups, return_inverse=True
    )
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    first = np.cumsum(sizes) - sizes
    found = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        some = random.integers(0, len(sizes), len(sizes))
        drawn = sizes[some]
        away = np.repeat(first[some] - np.cumsum(drawn) + drawn, drawn)
        places = order[away + np.arange(len(away))]
        labels = [np.repeat(np.arange(len(some)), sizes[some])][: int(labelled)]
        found[draw] = statistic(*(one[places] for one in taken), *labels)
    value = float(statistic(*taken, *[group][: int(labelled)]))
    return Estimate(value, None, count, _percentiles(found, len(sizes), value))


def r2(true: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of the variance of (n,) that each of (n, k) explains, mean."""
    left = ((predicted - true[:, None]) ** 2).mean(0)
    return float(1 - left.mean() / true.var())


def unanimous(found: Estimate, blocks: int, other: float) -> Estimate:
    """Give an estimate whose resamples are all alike an interval of some width.

    Where all of k blocks agree, up to 1 - 0.05 ** (1 / k) of others may still
    come out at the ``other`` value (Clopper and Pearson 1934,
    doi:10.1093/biomet/26.4.404, one-sided).
    """
    if found.ends[0] != found.ends[1]:
        return found
    end = found.value + (other - found.value) * (1 - 0.05 ** (1 / blocks))
    return found._replace(ends=(min(found.value, end), max(found.value, end)))


def ceiling(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the largest R2 that a model which knows the groups (n,) can have.

    Corrected for degrees of freedom (the adjusted R2; Theil, Economic Forecasts
    and Policy, 1961): a group of one explains itself, and nothing new.
    """
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    within = values - (np.bincount(group, values) / sizes)[group]
    left = (within**2).sum() / (len(values) - len(sizes))
    return float(1 - left / np.var(values, ddof=1))


def floor(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the least mean absolute error of a model which knows the groups.

    From the medians of groups of two or more; of m values each lies nearer to
    their own middle than to the true one, by the square root of (m - 1) / m.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    ordered, first = values[np.lexsort((values, group))], np.cumsum(sizes) - sizes
    middle = (ordered[first + (sizes - 1) // 2] + ordered[first + sizes // 2]) / 2
    wider = np.sqrt(sizes / np.maximum(1, sizes - 1))[group]
    return float((np.abs(values - middle[group]) * wider)[sizes[group] > 1].mean())


def fewest(sizes: Sequence[int], errors: np.ndarray, loss: float) -> Estimate:
    """Estimate the smallest size whose mean error is within a loss of the lowest.

    Of ``errors`` (sizes, draws), folds, say, the same for every size; the
    ``loss`` is the smallest that matters, in their unit, named in advance: a
    rule that asks which of two means is lower hangs on a machine's last bits.
    The interval reaches to the neighbouring sizes at least: none between was tried.
    """
    order = np.argsort(sizes)
    ordered = np.asarray(sizes)[order]

    def smallest(some: np.ndarray) -> float:
        means = some.mean(0)
        return float(ordered[(means <= means.min() + loss).argmax()])

    found = resampled(smallest, np.asarray(errors, float)[order].T)
    place, (low, high) = int(np.searchsorted(ordered, found.value)), found.ends
    beside = ordered[[max(0, place - 1), min(len(ordered) - 1, place + 1)]]
    ends = float(min(low, beside[0])), float(max(high, beside[1]))
    return found._replace(ends=ends) if np.isfinite(low) else found


class Paired(NamedTuple):
    """A paired comparison: the mean difference with its 95 % interval.

    ``wins`` counts the pairs in which the first is lower.
    """

    difference: float
    low: float
    high: float
    wins: int
    pairs: int

    @property
    def estimate(self) -> Estimate:
        """The difference, to be recorded."""
        return Estimate(self.difference, None, self.pairs, (self.low, self.high))


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
    value, reach = float(away.mean()), _reach(away, share)
    return Paired(value, value - reach, value + reach, int((away < 0).sum()), len(away))


def verdict(low: float, high: float, first: str = "nested", of: str = "rows") -> str:
    """Say what an interval of the first less another error says."""
    if low <= 0 <= high:
        return f"no difference that these {of} could show"
    return f"{first} is {'better' if high < 0 else 'worse'}"
