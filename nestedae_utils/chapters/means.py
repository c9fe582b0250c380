"""Means of Gaussian processes, with priors: what is believed before measuring.

The crude model of the Ising map is the authors', as their course shows it: a
step whose place is a cubic polynomial of both couplings.  The three hypotheses
of the toy are theirs too (doi:10.1002/adma.202201345, its public code).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nestedae_utils.model.cache import source_digest

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Prior:
    """A prior of one parameter; what must be positive is sampled as its log.

    ``kind`` is normal or lognormal (mean, sd of the value or its log),
    halfnormal (0, sd) or uniform (ends).
    """

    kind: str
    a: float
    b: float

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draw coordinates (size,) as the walkers have them."""
        if self.kind == "uniform":
            return rng.uniform(self.a, self.b, size)
        drawn = self.a + self.b * rng.standard_normal(size)
        return np.log(np.abs(drawn)) if self.kind == "halfnormal" else drawn

    def value(self, u: np.ndarray) -> np.ndarray:
        """Return the parameter at coordinates."""
        return np.exp(u) if self.kind in ("lognormal", "halfnormal") else u


def _step(z: np.ndarray, p: Values) -> np.ndarray:
    return p["A"] * (1 + np.tanh(z / p["w"])) / 2


def _poly(x: np.ndarray, p: Values) -> np.ndarray:
    axes = [x[:, axis] / 5 for axis in (0, 1)]
    terms = [p[f"{'ab'[n]}{k}"] * axes[n] ** k for n in (0, 1) for k in (1, 2, 3)]
    return _step(p["c"] + sum(terms), p)


def _rule(x: np.ndarray, p: Values) -> np.ndarray:
    diagonal, straight = x.T
    away = np.minimum(straight, straight + p["s"] * diagonal)
    return _step(away / 5 - p["c"], p)


def _jump(left: Callable, right: Callable) -> Callable:
    def mean(x: np.ndarray, p: Values) -> np.ndarray:
        x = x[:, 0]
        return np.where(x < p["t"], left(x, p["b"]), right(x, p["c"]))

    return mean


def _power(x: np.ndarray, b: np.ndarray) -> np.ndarray:
    # at 0 a negative power, which the prior hardly allows, has no value
    return np.maximum(x, 1e-6) ** b


def _line(x: np.ndarray, b: np.ndarray) -> np.ndarray:
    return b * x


def _drop(x: np.ndarray, p: Values) -> np.ndarray:
    return p["A"] * np.maximum(0, 1 - x[:, 0] / p["t"]) ** p.get("beta", 1.0)


def _sigmoid(x: np.ndarray, p: Values) -> np.ndarray:
    return p["A"] / (1 + np.exp(np.clip((x[:, 0] - p["t"]) / p["w"], -50, 50)))


FUNCTIONS: dict[str, Callable[[np.ndarray, Values], np.ndarray]] = {
    "vanilla": lambda x, p: p["c"] + 0 * x[:, 0],
    "poly": _poly,
    "rule": _rule,
    "wrong": lambda x, p: _step(x[:, 0] / 5 - p["c"], p),
    "power, then line": _jump(_power, _line),
    "line, then line": _jump(_line, _line),
    "power, then power": _jump(_power, _power),
    "sure parabola": lambda x, p: p["k"] * x[:, 0] ** 2,
    "power law": _drop,
    "linear fall": _drop,
    "sigmoid": _sigmoid,
    "straight line": lambda x, p: p["a"] + p["b"] * x[:, 0],
}
"""m(x (n, d), values (W, 1)) -> (W, n), by name; of the Ising map x = (Jd, J)."""


@dataclass(frozen=True)
class Mean:
    """One of `FUNCTIONS` with the priors of its parameters, by their names."""

    name: str
    priors: Mapping[str, Prior]
    source: str = field(default_factory=partial(source_digest, __name__), repr=False)

    def __call__(self, x: np.ndarray, values: Values) -> np.ndarray:
        """Return the mean (W, n) at x (n, d)."""
        return FUNCTIONS[self.name](x, values)


N, LN, HALF, U = (
    lambda a, b, kind=kind: Prior(kind, a, b)
    for kind in ("normal", "lognormal", "halfnormal", "uniform")
)
_STEP = {"A": LN(0, 0.2), "w": LN(np.log(0.1), 0.7)}
_JUMP = {"t": U(0.5, 2), "b": N(3, 1), "c": N(3, 1)}
_FALL = {"A": LN(0, 0.3), "t": LN(np.log(2.3), 0.3)}
KERNEL = {"length": LN(0, 1), "scale": LN(-1, 1), "noise": HALF(0, 0.05)}
"""Of data of about 1 on axes of about 10: a small noise."""
TOY = {"length": U(0, 1), "scale": LN(0, 1), "noise": LN(0, 1)}
"""The authors' priors for their toy."""
JUMPS = ("power, then line", "line, then line", "power, then power")
"""The authors' three hypotheses of their toy; the third is right."""
_PRIORS: dict[str, Mapping[str, Prior]] = {
    "vanilla": {"c": N(0.5, 0.5)},
    "poly": _STEP
    | {"c": N(0, 1)}
    | {f"{axis}{power}": N(0, 1) for axis in "ab" for power in (1, 2, 3)},
    "rule": _STEP | {"c": N(0, 0.2), "s": LN(np.log(2), 0.5)},
    "wrong": _STEP | {"c": N(0, 0.2)},
    **dict.fromkeys(
        ("power, then line", "line, then line", "power, then power"), _JUMP
    ),
    "sure parabola": {"k": LN(np.log(2), 0.05)},
    "power law": _FALL | {"beta": LN(np.log(0.3), 0.5)},
    "linear fall": _FALL,
    "sigmoid": _FALL | {"w": LN(np.log(0.1), 0.7)},
    "straight line": {"a": N(0, 1), "b": N(0, 1)},
}
MEANS = {name: Mean(name, priors) for name, priors in _PRIORS.items()}
"""The means by name, with the priors that this book gives them."""
