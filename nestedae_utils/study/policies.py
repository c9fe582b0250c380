"""What to measure next in a finite pool: policies, and campaigns replayed.

An arm is a row of a pool, described by its features.  A Gaussian process
(botorch's ``SingleTaskGP``: Matern 5/2, one length for a group of columns, its
noise inferred) is fitted to what was measured; arms that are being measured
are pending points, over whose unknown outcomes the improvement is averaged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesRegressor
from threadpoolctl import threadpool_limits

from nestedae_utils.errors import ParameterError, nearest, shown
from nestedae_utils.model.cache import cached

REFIT = 10
"""Measurements after which lengths and noise are fitted anew; between, the
process is only conditioned on what is new."""
Groups = Sequence[Sequence[int]]


@dataclass
class Learner:
    """What is known of a pool: features (n, d), arms measured and their values.

    ``groups`` of columns have a length each; their kernels are multiplied, and
    so are those of molecule and composition in a joint kernel.  An arm that
    was measured may be measured ``again``.
    """

    features: np.ndarray
    groups: Groups = ()
    again: bool = False
    arms: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    _fitted: tuple[int, Any] = (0, None)

    def model(self) -> Any:
        """Return the process (botorch) of the standardised values so far."""
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        x, y = self._inputs(self.arms), self._standard()
        with warnings.catch_warnings():
            # of ties in a small pool, and of an optimiser's last step
            warnings.simplefilter("ignore")
            kernel = _kernel(self.groups or [range(x.shape[1])])
            model = SingleTaskGP(x, y, covar_module=kernel, outcome_transform=None)
            count, state = self._fitted
            if state is None or len(self.arms) >= count + REFIT:
                mll = ExactMarginalLogLikelihood(model.likelihood, model)
                options = {"options": {"maxiter": 60}}
                fit_gpytorch_mll(mll, optimizer_kwargs=options)
                self._fitted = len(self.arms), model.state_dict()
            else:
                model.load_state_dict(state)
        return model.eval()

    def _inputs(self, arms: Sequence[int] | np.ndarray | slice) -> torch.Tensor:
        away, unit = self.features - self.features.mean(0), self.features.std(0)
        return torch.from_numpy(away / np.where(unit > 0, unit, 1))[arms].double()

    def _standard(self) -> torch.Tensor:
        y = np.asarray(self.values, float)
        return torch.from_numpy((y - y.mean()) / (y.std() or 1.0))[:, None]

    def mean(self) -> np.ndarray:
        """Return the posterior mean (n,) of all arms, in the values' unit."""
        model = self.model()
        with torch.no_grad():
            found = model.posterior(self._inputs(slice(None))).mean[:, 0]
        y = np.asarray(self.values, float)
        return found.numpy() * (y.std() or 1.0) + y.mean()

    def recommended(self) -> int:
        """Return the measured arm of the highest posterior mean."""
        arms = np.unique(self.arms)
        return int(arms[self.mean()[arms].argmax()])

    def suggest(
        self, policy: str, rng: np.random.Generator, pending: Sequence[int] = ()
    ) -> int:
        """Return the arm to measure next; ties are broken by the generator."""
        taken = {*pending} if self.again else {*pending, *self.arms}
        free = np.setdiff1d(np.arange(len(self.features)), list(taken))
        if not len(free):
            free = np.arange(len(self.features))
        free = rng.permutation(free)
        acquisition = POLICIES[policy]
        if acquisition is None or len(self.arms) < 2:
            return int(free[0])
        return int(free[np.argmax(acquisition(self, free, list(pending), rng))])


def _kernel(groups: Groups) -> Any:
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.priors import LogNormalPrior

    kernel: Any = None
    for columns in groups:
        # botorch's own prior, which grows with the number of columns
        prior = LogNormalPrior(2**0.5 + np.log(len(columns)) / 2, 3**0.5)
        one = MaternKernel(
            2.5, active_dims=torch.tensor(list(columns)), lengthscale_prior=prior
        )
        one.lengthscale = torch.exp(prior.loc - prior.scale**2)
        kernel = one if kernel is None else kernel * one
    return ScaleKernel(kernel)


def _improvement(
    learner: Learner, free: np.ndarray, pending: list[int], rng: np.random.Generator
) -> np.ndarray:
    from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
    from botorch.sampling import SobolQMCNormalSampler

    model = learner.model()
    x = learner._inputs(free)[:, None]
    with torch.no_grad():
        # with noise the best value is luck; its posterior mean is not
        best = model.posterior(learner._inputs(learner.arms)).mean.max()
        if not pending:
            return LogExpectedImprovement(model, best)(x).numpy()
        seed = int(rng.integers(2**31))
        sampler = SobolQMCNormalSampler(torch.Size([64]), seed=seed)
        acquisition = qLogExpectedImprovement(
            model, best, sampler=sampler, X_pending=learner._inputs(pending)
        )
        return acquisition(x).numpy()


def _bound(
    learner: Learner, free: np.ndarray, pending: list[int], rng: np.random.Generator
) -> np.ndarray:
    model = learner.model()
    with torch.no_grad():
        found = model.posterior(learner._inputs(free))
        return (found.mean + 2 * found.variance.sqrt())[:, 0].numpy()


def _greedy(
    learner: Learner, free: np.ndarray, pending: list[int], rng: np.random.Generator
) -> np.ndarray:
    return learner.mean()[free]


def _trees(
    learner: Learner, free: np.ndarray, pending: list[int], rng: np.random.Generator
) -> np.ndarray:
    trees = ExtraTreesRegressor(25, random_state=int(rng.integers(2**31)))
    trees.fit(learner.features[learner.arms], learner.values)
    return trees.predict(learner.features[free])


Acquisition = Callable[
    [Learner, np.ndarray, list[int], np.random.Generator], np.ndarray
]
POLICIES: dict[str, Acquisition | None] = {
    "improvement": _improvement,
    "bound": _bound,
    "greedy": _greedy,
    "trees": _trees,
    "random": None,
}
"""By name, what is largest at the arm to measure next: the log of the expected
improvement, mean + 2 sd, the mean, the mean of 25 extra trees; nothing."""


def check(policy: str) -> str:
    """Return a policy's name, or raise a ParameterError of one line."""
    if policy not in POLICIES:
        raise ParameterError(
            f"policy: {shown(policy)} given, one of {', '.join(POLICIES)} is "
            f"allowed.{nearest(policy, POLICIES)}"
        )
    return policy


class Replayed(NamedTuple):
    """A campaign on a pool of known values: arms in order, and advice.

    ``recommended`` (budget,) is the arm that would be taken after each
    measurement: the best one so far or, where values are noisy, that of the
    highest posterior mean.
    """

    arms: np.ndarray
    recommended: np.ndarray


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
            advice.append(learner.recommended() if again and not known else best)
    return Replayed(np.array(learner.arms), np.array(advice))
