"""What to measure next in a finite pool.

An arm is a row of a pool, described by its features.  A Gaussian process
(botorch's ``SingleTaskGP``: Matern 5/2, one length for a group of columns, its
noise inferred) is fitted to what was measured; arms that are being measured
are pending points, over whose unknown outcomes the improvement is averaged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nestedae_utils.errors import ParameterError, nearest, shown
from nestedae_utils.study.baselines import BASELINES, unitless

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

        x, y = self.inputs(self.arms), np.asarray(self.values, float)
        standard = torch.from_numpy((y - y.mean()) / (y.std() or 1.0))[:, None]
        with warnings.catch_warnings():
            # of ties in a small pool, and of an optimiser's last step
            warnings.simplefilter("ignore")
            kernel = _kernel(self.groups or [range(x.shape[1])])
            model = SingleTaskGP(
                x, standard, covar_module=kernel, outcome_transform=None
            )
            count, state = self._fitted
            if state is None or len(self.arms) >= count + REFIT:
                mll = ExactMarginalLogLikelihood(model.likelihood, model)
                fit_gpytorch_mll(mll, optimizer_kwargs={"options": {"maxiter": 30}})
                self._fitted = len(self.arms), model.state_dict()
            else:
                model.load_state_dict(state)
        return model.eval()

    def inputs(self, arms: Sequence[int] | np.ndarray | slice) -> torch.Tensor:
        """Return standardised features (k, d) of some arms."""
        away, width = self.features - self.features.mean(0), self.features.std(0)
        return torch.from_numpy(away / np.where(width > 0, width, 1))[arms].double()

    def mean(self) -> np.ndarray:
        """Return the posterior mean (n,) of all arms, in the values' unit."""
        model, y = self.model(), np.asarray(self.values, float)
        with torch.no_grad():
            told = model.posterior(self.inputs(slice(None))).mean[:, 0].numpy()
        return told * (y.std() or 1.0) + y.mean()

    def suggest(
        self, policy: str, rng: np.random.Generator, pending: Sequence[int] = ()
    ) -> int:
        """Return the arm to measure next; ties are broken by the generator."""
        taken = {*pending} if self.again else {*pending, *self.arms}
        free = np.setdiff1d(np.arange(len(self.features)), list(taken))
        free = rng.permutation(free if len(free) else np.arange(len(self.features)))
        acquisition = POLICIES[policy]
        if acquisition is None or len(self.arms) < 2:
            return int(free[0])
        return int(free[np.argmax(acquisition(self, free, list(pending), rng))])


def _kernel(groups: Groups) -> Any:
    from gpytorch.kernels import MaternKernel, ProductKernel, ScaleKernel
    from gpytorch.priors import LogNormalPrior

    parts = []
    for columns in groups:
        # botorch's own prior, which grows with the number of columns
        prior = LogNormalPrior(2**0.5 + np.log(len(columns)) / 2, 3**0.5)
        active = torch.tensor(list(columns))
        parts.append(MaternKernel(2.5, active_dims=active, lengthscale_prior=prior))
        parts[-1].lengthscale = torch.exp(prior.loc - prior.scale**2)
    return ScaleKernel(ProductKernel(*parts))


def _improvement(
    learner: Learner, free: np.ndarray, pending: list[int], rng: np.random.Generator
) -> np.ndarray:
    from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
    from botorch.sampling import SobolQMCNormalSampler

    model, x = learner.model(), learner.inputs(free)[:, None]
    with torch.no_grad():
        # with noise the best value is luck; its posterior mean is not
        best = model.posterior(learner.inputs(learner.arms)).mean.max()
        if not pending:
            return LogExpectedImprovement(model, best)(x).numpy()
        seed = int(rng.integers(2**31))
        sampler = SobolQMCNormalSampler(torch.Size([64]), seed=seed)
        waiting = learner.inputs(pending)
        return qLogExpectedImprovement(model, best, sampler, X_pending=waiting)(
            x
        ).numpy()


def _bound(learner: Learner, free: np.ndarray, *_: Any) -> np.ndarray:
    model = learner.model()
    with torch.no_grad():
        told = model.posterior(learner.inputs(free))
        return (told.mean + 2 * told.variance.sqrt())[:, 0].numpy()


def _trees(
    learner: Learner, free: np.ndarray, _: list[int], rng: np.random.Generator
) -> np.ndarray:
    seed = int(rng.integers(2**31))
    trees = BASELINES["extra trees"]().set_params(n_estimators=25, random_state=seed)
    x = unitless(learner.features, np.arange(len(learner.features)))[0]
    y = unitless(np.asarray(learner.values), np.arange(len(learner.values)))[0]
    return trees.fit(x[learner.arms], y).predict(x[free])


POLICIES: dict[str, Callable[..., np.ndarray] | None] = {
    "improvement": _improvement,
    "bound": _bound,
    "greedy": lambda learner, free, *_: learner.mean()[free],
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
