"""Experiments that choose their next point: by variance, by hypotheses.

A process is anything with ``sample``, ``predict`` and ``left_out`` as those of
`nestedae_utils.chapters.processes.Process`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from nestedae_utils.model.cache import cached

SEEDED, WARM = 4, 3
"""Random points before the first fit; warm-up steps of hypothesis learning."""
REWARDS = ("variance", "left out")


class Explored(NamedTuple):
    """What one exploration measured, and predicted after each point.

    ``order`` (n,) are the points in the order of measuring; ``mean`` and
    ``sd`` (n - 3, m) are of all points, from the fourth measurement on.
    """

    order: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


@cached
def explore(
    process: Any, points: np.ndarray, observed: np.ndarray, total: int, seed: int
) -> Explored:
    """Measure where the predicted variance is largest, until a total.

    ``observed`` (m,) is what a measurement of each of the ``points`` (m, d)
    gives; the first ones are drawn by the seed, alike for all processes.
    """
    rng = np.random.default_rng(seed)
    order = list(rng.choice(len(points), SEEDED, replace=False))
    walkers, means, sds = None, [], []
    with threadpool_limits(1):
        while True:
            data = points[order], observed[order]
            key = seed * 1000 + len(order)
            walkers, draws = process.sample(*data, key, walkers)
            mean, sd, _ = process.predict(draws, *data, points)
            means.append(mean.astype(np.float32))
            sds.append(sd.astype(np.float32))
            if len(order) >= total:
                return Explored(np.array(order), np.array(means), np.array(sds))
            order.append(int(_unmeasured(sd, order).argmax()))


@cached
def refit(
    process: Any, points: np.ndarray, observed: np.ndarray, order: np.ndarray, seed: int
) -> np.ndarray:
    """Return the mean (m,) of a process that is given points chosen elsewhere."""
    data = points[order], observed[order]
    with threadpool_limits(1):
        _, draws = process.sample(*data, seed)
        return process.predict(draws, *data, points).mean


def _unmeasured(values: np.ndarray, order: Sequence[int]) -> np.ndarray:
    values = values.copy()
    values[list(order)] = -np.inf
    return values


class Hypothesised(NamedTuple):
    """One run of hypothesis learning with H hypotheses.

    ``order`` (n,): points measured; ``used`` (n,): the hypothesis that chose
    each, -1 before; ``value`` (steps, H): what each is worth after each step;
    ``left_out`` (H,), ``rmse`` (H,): of all on the final data.
    """

    order: np.ndarray
    used: np.ndarray
    value: np.ndarray
    left_out: np.ndarray
    rmse: np.ndarray


@cached
def hypothesise(
    processes: Sequence[Any],
    points: np.ndarray,
    observed: np.ndarray,
    truth: np.ndarray,
    first: Sequence[int],
    steps: int,
    seed: int,
    reward: str = "variance",
    epsilon: float = 0.4,
) -> Hypothesised:
    """Choose the next point by a hypothesis, and learn which one is worth it.

    In the warm-up all are fitted, and the best earns 1 and chooses the point.
    Then one is taken, with probability ``1 - epsilon`` that of the highest
    mean reward, and fitted alone; it earns 1 or -1.  By ``"variance"``, the
    authors' rule, it earns 1 if its median predicted variance over what is
    not measured is below that of the step before, whoever's that was; by
    ``"left out"`` if its density of left-out values is not below the last one
    of any other.
    """
    rng = np.random.default_rng([seed, 17])
    order, used = list(first), [-1] * len(first)
    count = len(processes)
    earned, visits, last = np.zeros(count), np.zeros(count), np.full(count, -np.inf)
    walkers: list[Any] = [None] * count
    values, before = [], np.inf

    def fit(which: int) -> tuple[float, float, Any]:
        data = points[order], observed[order]
        key = (seed * 100 + len(order)) * 10 + which
        walkers[which], draws = processes[which].sample(*data, key, walkers[which])
        found = processes[which].predict(draws, *data, points)
        variance = found.sd**2 + found.noise
        rest = np.setdiff1d(np.arange(len(points)), order)
        left_out = processes[which].left_out(draws, *data)
        return float(np.median(variance[rest])), left_out, found

    with threadpool_limits(1):
        for step in range(steps):
            if step < WARM:
                fits = [fit(which) for which in range(count)]
                last[:] = [one[1] for one in fits]
                worth = last if reward == "left out" else [-one[0] for one in fits]
                chosen = int(np.argmax(worth))
                earned[chosen] += 1
                before, _, found = fits[chosen]
                visits[chosen] += 1
                value = earned / (step + 1)
                if step == WARM - 1:
                    earned, visits = value.copy(), np.ones(count)
            else:
                chosen = int(np.argmax(value))
                if rng.random() < epsilon:
                    chosen = int(rng.integers(count))
                variance, last[chosen], found = fit(chosen)
                good = variance < before
                if reward == "left out":
                    good = last[chosen] >= last.max()
                earned[chosen] += 1 if good else -1
                visits[chosen] += 1
                before, value = variance, earned / visits
            values.append(value.copy())
            order.append(int(_unmeasured(found.sd, order).argmax()))
            used.append(chosen)
        final = [fit(which) for which in range(count)]
    rmse = [np.sqrt(np.mean((one[2].mean - truth) ** 2)) for one in final]
    left_out = np.array([one[1] for one in final])
    trail = np.array(order), np.array(used), np.array(values)
    return Hypothesised(*trail, left_out, np.array(rmse))


def side_by_side(function: Any, calls: Sequence[tuple]) -> list[Any]:
    """Run calls of a function in processes; return their results in order."""
    return joblib.Parallel(n_jobs=-1)(joblib.delayed(function)(*one) for one in calls)


class Scores(NamedTuple):
    """Of predictions (..., m) of a map: how far, how often, how surely."""

    rmse: np.ndarray
    wrong: np.ndarray
    sd: np.ndarray
    cover: np.ndarray


def scores(
    explored: Sequence[Explored], truth: np.ndarray, level: float = 0.5
) -> Scores:
    """Judge explorations (seeds, n - 3): wrong and cover in % of the points.

    Wrong: on the wrong side of the level.  Covered: within two predicted sd,
    and 0.02 for the noise of the truth.
    """
    mean = np.array([one.mean for one in explored])
    sd = np.array([one.sd for one in explored])
    away = mean - truth
    return Scores(
        np.sqrt((away**2).mean(-1)),
        100 * ((mean > level) != (truth > level)).mean(-1),
        sd.mean(-1),
        100 * (np.abs(away) < 2 * sd + 0.02).mean(-1),
    )
