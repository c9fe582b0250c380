"""Campaigns on pools of known values, replayed without waiting."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from nestedae_utils.model.cache import cached
from nestedae_utils.study.policies import REFIT, Groups, Learner

LIBRARY = f"botorch {version('botorch')}"
"""A part of the keys of what is kept on disk."""


class Replayed(NamedTuple):
    """A campaign on a pool of known values: arms in order, and advice.

    ``recommended`` (budget,) is the arm that would be taken after each
    measurement: the best one so far or, where values are noisy, that of the
    highest posterior mean.
    """

    arms: np.ndarray
    recommended: np.ndarray


def recommended(learner: Learner) -> int:
    """Return the measured arm of the highest posterior mean."""
    arms = np.unique(learner.arms)
    return int(arms[learner.mean()[arms].argmax()])


@cached
def replay(
    policy: str,
    features: np.ndarray,
    draws: np.ndarray,
    first: int,
    budget: int,
    seed: int,
    *,
    groups: Groups = (),
    again: bool = False,
    given: Sequence[int] = (),
    library: str = LIBRARY,
) -> Replayed:
    """Replay a campaign: the first arms at random, then by a policy.

    ``draws`` (n, k) are what the k-th measurement of an arm gives, over and
    over; equal seeds have equal first arms, whatever the policy.  ``given``
    arms are those of a campaign that goes on with other ``features`` (n, d).
    """
    rng = np.random.default_rng([seed, len(given)])
    begun = np.random.default_rng(seed).choice(len(draws), first, replace=False)
    begun = np.asarray(given if len(given) else begun, int)
    learner, advice = Learner(features, groups, again), []
    with threadpool_limits(1):
        for count in range(budget):
            known = count < len(begun)
            arm = int(begun[count]) if known else learner.suggest(policy, rng)
            number = learner.arms.count(arm)
            learner.arms.append(arm)
            learner.values.append(float(draws[arm, number % draws.shape[1]]))
            best = learner.arms[int(np.argmax(learner.values))]
            advice.append(recommended(learner) if again and not known else best)
    return Replayed(np.array(learner.arms), np.array(advice))


def side_by_side(
    function: Callable, calls: Sequence[tuple[tuple, dict[str, Any]]]
) -> list[Any]:
    """Call a function with arguments, of both kinds, in processes; in order."""
    some, call = joblib.Parallel(n_jobs=-1), joblib.delayed(function)
    return some(call(*args, library=LIBRARY, **more) for args, more in calls)


def taught(
    latents: Callable[[list[np.ndarray]], np.ndarray],
    values: np.ndarray,
    first: Sequence[np.ndarray],
    budget: int,
) -> list[Replayed]:
    """Replay campaigns, one a seed, in latents that are taught as they go.

    ``latents`` gives features (seeds, n, d) for the arms that each campaign
    has measured, of all ``values`` (n,) those it may see.  They are made anew
    after every `REFIT` measurements.
    """
    arms, count = list(first), len(first[0])
    while True:
        count = min(count + REFIT, budget)
        some = zip(latents(arms), arms, strict=True)
        calls = [
            (("improvement", z, values[:, None], 0, count, seed), {"given": given})
            for seed, (z, given) in enumerate(some)
        ]
        done = side_by_side(replay, calls)
        if count >= budget:
            return done
        arms = [one.arms for one in done]


class Laboratory(NamedTuple):
    """A campaign by a simulated clock: of each measurement (n,), as asked for.

    ``begin`` and ``end`` are in units of the median duration of an attempt;
    ``failed`` counts attempts that failed; ``regret`` is that of the end.
    """

    arms: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    failed: np.ndarray
    regret: float


@cached
def laboratory(
    features: np.ndarray,
    values: np.ndarray,
    first: int,
    budget: int,
    seed: int,
    instruments: int,
    rounds: bool = False,
    failing: float = 0.1,
    library: str = LIBRARY,
) -> Laboratory:
    """Let instruments work side by side, each asked again when it is done.

    In ``rounds`` all wait for the last.  Durations are lognormal (0, 0.5); a
    share ``failing`` of attempts fails, and is made again twice at most.
    Equal seeds have equal first arms, durations and failures, by the number
    of the measurement.  The learner takes no time.
    """
    rng, draws = np.random.default_rng(seed), np.random.default_rng([seed, 7])
    begun = rng.permutation(len(values))[:first]
    took = draws.lognormal(0, 0.5, (budget, 3))
    fails = np.cumprod(draws.random((budget, 3)) < failing, axis=1)
    failed = fails.sum(1)
    took = (took * np.c_[np.ones(budget), fails[:, :-1]]).sum(1)
    learner, clock, begin = Learner(features), 0.0, np.zeros(budget)
    arms: list[int] = []
    running: list[tuple[float, int]] = []
    waiting: set[int] = set()
    with threadpool_limits(1):
        while running or len(arms) < budget:
            ready = not (rounds and running)
            while ready and len(running) < instruments and len(arms) < budget:
                number, pending = len(arms), [arms[n] for n in sorted(waiting)]
                if number < first:
                    arms.append(int(begun[number]))
                else:
                    arms.append(learner.suggest("improvement", rng, pending))
                waiting.add(number)
                begin[number] = clock
                heapq.heappush(running, (clock + took[number], number))
            clock, number = heapq.heappop(running)
            # what failed for good stays pending: it is not asked for again
            if failed[number] < 3:
                waiting.remove(number)
                learner.arms.append(arms[number])
                learner.values.append(float(values[arms[number]]))
    regret = values.max() - max(learner.values)
    return Laboratory(np.array(arms), begin, begin + took, failed, float(regret))
