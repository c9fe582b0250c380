"""Gaussian processes around a model of one's own, and what to measure next.

``y ~ N(m(x; theta), scale M(x, x') + noise)``: M is Matern 5/2 with a length
for each axis, and theta, lengths, scale and noise are sampled together by an
ensemble of walkers (emcee, doi:10.1086/670067), the log density of all in one
batched Cholesky.  Structured processes: doi:10.1088/2632-2153/ac4baa; learning
by hypotheses: doi:10.1002/adma.202201345.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import emcee
import numpy as np
import torch
from numba import njit

from nestedae_utils.errors import DataError
from nestedae_utils.model.cache import source_digest

Values = Mapping[str, np.ndarray]
JITTER = 1e-6
"""On the diagonal, relative to the scale and to 1."""
FIRST, NEXT, DRAWN = 200, 50, 2
"""Steps of the walkers on the first data and after each new point; how many of
the last, ten apart, are draws."""


@njit(cache=True, nogil=True)
def likelihood(x, rest, lengths, scale, on):
    """Return log densities (W,), less a constant, of residuals (W, n) at x (n, d).

    One Cholesky for each of W walkers, row by row, in place: Matern 5/2 of
    ``lengths`` (W, d) and ``scale`` (W,), ``on`` (W,) on the diagonal.  Minus
    infinity where a covariance is not positive definite.
    """
    (count, size), axes = rest.shape, x.shape[1]
    found, lower, z = np.empty(count), np.empty((size, size)), np.empty(size)
    for w in range(count):
        total = 0.0
        for i in range(size):
            for j in range(i + 1):
                square = 0.0
                for axis in range(axes):
                    square += ((x[i, axis] - x[j, axis]) / lengths[w, axis]) ** 2
                root = np.sqrt(5 * square)
                value = scale[w] * (1 + root + root**2 / 3) * np.exp(-root)
                for k in range(j):
                    value -= lower[i, k] * lower[j, k]
                lower[i, j] = value / lower[j, j] if j < i else value
            pivot = lower[i, i] + on[w]
            if not pivot > 0:
                total = -np.inf
                break
            lower[i, i] = np.sqrt(pivot)
            z[i] = rest[w, i]
            for k in range(i):
                z[i] -= lower[i, k] * z[k]
            z[i] /= lower[i, i]
            total -= np.log(lower[i, i]) + 0.5 * z[i] ** 2
        found[w] = total
    return found


def log_prior(priors: Sequence[Any], theta: np.ndarray) -> np.ndarray:
    """Return the log density (W,) of coordinates (W, k), up to a constant."""
    half, flat, a, b = _fields(tuple(priors))
    with np.errstate(over="ignore"):
        away = (np.where(half, np.exp(np.where(half, theta, 0)), theta) - a) / b
    inside = np.where((theta > a) & (theta < b), 0.0, -np.inf)
    each = np.where(flat, inside, np.where(half, theta, 0) - 0.5 * away**2)
    return each.sum(1)


@cache
def _fields(priors: tuple[Any, ...]) -> list[np.ndarray]:
    kinds = np.array([one.kind for one in priors])
    ends = [np.array([getattr(one, end) for one in priors]) for end in "ab"]
    return [kinds == "halfnormal", kinds == "uniform", *ends]


class Predicted(NamedTuple):
    """Of new points (m,): mean, sd without noise; the noise's mean variance."""

    mean: np.ndarray
    sd: np.ndarray
    noise: float


@dataclass(frozen=True)
class Process:
    """A process around a mean function, with priors of its kernel.

    ``mean`` and the priors are those of `nestedae_utils.chapters.means`, one
    length for each of the ``axes``.  ``source`` is that of this module, for
    the keys of what is kept on disk.
    """

    mean: Any
    length: Any
    scale: Any
    noise: Any
    axes: int = 2
    source: str = field(default_factory=partial(source_digest, __name__), repr=False)

    @property
    def priors(self) -> dict[str, Any]:
        """All parameters, in the order of the walkers' coordinates."""
        kernel = {f"length {axis}": self.length for axis in range(self.axes)}
        return kernel | {"scale": self.scale, "noise": self.noise} | self.mean.priors

    def values(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Return parameters (W, 1) by name at coordinates (W, k)."""
        named = zip(self.priors.items(), theta.T, strict=True)
        return {name: prior.value(u)[:, None] for (name, prior), u in named}

    def _kernel(self, p: Values, x: np.ndarray, other: np.ndarray) -> torch.Tensor:
        lengths = np.stack([p[f"length {axis}"] for axis in range(self.axes)], -1)
        a, b = (torch.from_numpy(points / lengths) for points in (x, other))
        # the faster way, by products, loses small distances
        apart = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        root = apart * 5**0.5
        shape = (1 + root + root.square() / 3) * torch.exp(-root)
        return shape * torch.from_numpy(p["scale"])[..., None]

    def _solved(
        self, theta: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> tuple[dict[str, np.ndarray], torch.Tensor, torch.Tensor]:
        """Return values, L (W, n, n) and L^-1 (y - m) (W, n, 1)."""
        p = self.values(theta)
        rest = torch.from_numpy(y - self.mean(x, p))[..., None]
        on = torch.from_numpy(p["noise"] + JITTER * (1 + p["scale"]))
        on = torch.diag_embed(on.expand(-1, len(x)))
        lower = torch.linalg.cholesky(self._kernel(p, x, x) + on)
        return p, lower, torch.linalg.solve_triangular(lower, rest, upper=False)

    def log_density(
        self, theta: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> np.ndarray:
        """Return the log posterior (W,) of coordinates (W, k), up to a constant."""
        with np.errstate(all="ignore"):
            p = self.values(theta)
            rest = y - self.mean(x, p)
            lengths = self.length.value(theta[:, : self.axes])
            on = p["noise"] + JITTER * (1 + p["scale"])
            fit = likelihood(x, rest, lengths, p["scale"][:, 0], on[:, 0])
            total = log_prior(list(self.priors.values()), theta) + fit
        return np.where(np.isfinite(total), total, -np.inf)

    def sample(
        self,
        x: np.ndarray,
        y: np.ndarray,
        seed: int,
        walkers: np.ndarray | None = None,
        count: int = 40,
        steps: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the last walkers (W, k) and draws (D, k) of the posterior.

        Without ``walkers`` from before, the best of 1600 draws of the prior
        begin.  DataError if none of them has a finite density.
        """
        rng = np.random.default_rng(seed)
        steps = steps or (FIRST if walkers is None else NEXT)
        if walkers is None:
            drawn = [prior.draw(rng, 1600) for prior in self.priors.values()]
            theta = np.stack(drawn, 1)
            density = self.log_density(theta, x, y)
            if not np.isfinite(density).any():
                raise DataError(
                    f"{self.mean.name}: no draw of the prior fits the data."
                )
            walkers = theta[np.argsort(-density, kind="stable")[:count]]
        moves = [(emcee.moves.DEMove(), 0.7), (emcee.moves.StretchMove(), 0.3)]
        sampler = emcee.EnsembleSampler(
            *walkers.shape, self.log_density, args=(x, y), vectorize=True, moves=moves
        )
        sampler.random_state = np.random.RandomState(seed).get_state()
        sampler.run_mcmc(walkers, steps, skip_initial_state_check=True)
        chain = sampler.get_chain()[::-10][:DRAWN]
        return chain[0], chain.reshape(-1, chain.shape[-1])

    def predict(
        self, draws: np.ndarray, x: np.ndarray, y: np.ndarray, new: np.ndarray
    ) -> Predicted:
        """Return mean and sd at new points (m, d), over draws (D, k).

        The variance is that of the process and that of the draws' means.
        """
        p, lower, z = self._solved(draws, x, y)
        beside = self._kernel(p, x, new)
        half = torch.linalg.solve_triangular(lower, beside, upper=False)
        means = self.mean(new, p) + (half * z).sum(1).numpy()
        left = np.clip(p["scale"] - half.square().sum(1).numpy(), 0, None)
        variance = left.mean(0) + means.var(0)
        return Predicted(means.mean(0), np.sqrt(variance), float(p["noise"].mean()))

    def left_out(self, draws: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
        """Return the mean log density of each value given the others.

        By importance sampling of the draws (doi:10.1007/s11222-016-9696-4).
        """
        p, lower, z = self._solved(draws, x, y)
        inverse = torch.cholesky_inverse(lower)
        alpha = torch.linalg.solve_triangular(lower.mT, z, upper=True)[..., 0].numpy()
        precision = inverse.diagonal(dim1=-2, dim2=-1).numpy()
        log_p = 0.5 * (np.log(precision / (2 * np.pi)) - alpha**2 / precision)
        return float(-(np.logaddexp.reduce(-log_p, 0) - np.log(len(log_p))).mean())
