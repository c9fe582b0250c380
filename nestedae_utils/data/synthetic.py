"""The synthetic benchmark: thirteen functions of z1..z5, all dimensionless.

The functions and both recipes were recovered from the authors' published
tables (doi:10.1039/D3MH01484C, Sec. 3.1 and Fig. 2), which they reproduce to
rounding error; the notation of the paper's supplement may differ.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import eval_laguerre

from nestedae_utils.data.files import fetch

VARIABLES = ("z1", "z2", "z3", "z4", "z5")
RANGES = {"z1": (0.01, 5), "z2": (2, 5), "z3": (0.5, 10), "z4": (0.5, 10)}
"""Range of each input on the published grid; z5 is random in (0, 1]."""
FILES = {
    "clean": "nestedae_synthetic/synthetic_data.csv",
    "noisy": "nestedae_synthetic/synthetic_data_FuncAddNoise_200.csv",
}
PUBLISHED_SIGMA = {1: 0.5, 2: 1.0}
"""Standard deviation of the published noise, by scale."""


_TEX = (
    r"(z_1 - z_2)^2",
    r"\sum_{i=1}^{2} (\sin z_i + \cos z_i + \sin 2z_i + \cos 2z_i)",
    r"e^{-z_1} + e^{-z_2}",
    r"\tanh z_1 + \tanh z_2",
    r"z_1 z_2 - z_3 - z_4",
    r"\sin(z_1 z_2) + \sin(2 z_5)",
    r"\exp\left[-\frac{z_3^2 + z_4^2 + z_5^2}{z_3 + z_4 + z_5}\right]",
    r"\sum_{i=1}^{5} \tanh z_i",
    r"\frac{\ln z_1 + \ln z_3 + \ln z_4 + \ln z_5}{\ln z_2}",
    r"(z_1 - z_2)^2 + z_3^2 + z_4^2 + z_5^2 - z_3 z_4 z_5",
    r"\cos z_1 + \cos z_5",
    r"\sum_{i=1}^{5} L_4(z_i)",
    r"\sum_{i=1}^{5} z_i^2",
)


@dataclass(frozen=True)
class Function:
    """One dependent variable; scale 1 or 2 takes it as an input."""

    name: str
    tex: str
    scale: int


FUNCTIONS = tuple(
    Function(f"f{j}", tex, 1 if j <= 4 else 2) for j, tex in enumerate(_TEX, 1)
)


def evaluate(z: ArrayLike) -> NDArray:
    """Return f1..f13, (n, 13), of z1..z5, (n, 5), positive, z2 not 1."""
    a, b, c, d, e = z = np.asarray(z, dtype=float).T
    waves = [np.sin(x) + np.cos(x) + np.sin(2 * x) + np.cos(2 * x) for x in z]
    squares = c**2 + d**2 + e**2
    values = [
        (a - b) ** 2,
        waves[0] + waves[1],
        np.exp(-a) + np.exp(-b),
        np.tanh(a) + np.tanh(b),
        a * b - c - d,
        np.sin(a * b) + np.sin(2 * e),
        np.exp(-squares / (c + d + e)),
        sum(np.tanh(z)),
        (np.log(a) + (np.log(c) + np.log(d) + np.log(e))) / np.log(b),
        (a - b) ** 2 + c**2 + d**2 + e**2 - c * d * e,
        np.cos(a) + np.cos(e),
        sum(eval_laguerre(4, z)),
        sum(z**2),
    ]
    return np.column_stack(values)


def published(kind: str) -> pd.DataFrame:
    """Return the ``"clean"`` or ``"noisy"`` table, (200, 18), made anew.

    The second is not the first plus noise: its z5 spans ten times the range.
    """
    # The authors drew with numpy's legacy generator, whose stream is frozen.
    z5 = np.random.RandomState(3).rand(200)
    z = np.column_stack([*_grid(200), {"clean": z5, "noisy": 10 * z5}[kind]])
    f = evaluate(z)
    if kind == "noisy":
        for j, function in enumerate(FUNCTIONS):
            draws = np.random.RandomState(j + 1).randn(200)
            f[:, j] += PUBLISHED_SIGMA[function.scale] * draws
    return _table(z, f)


def read_published(kind: str) -> pd.DataFrame:
    """Return a published table; ``"clean"`` has no z1..z5 and no header."""
    names = [f.name for f in FUNCTIONS] if kind == "clean" else None
    return pd.read_csv(fetch(FILES[kind]), names=names)


def generate(
    n: int = 200, seed: int = 0, noise: float = 0.0, inputs: str = "grid"
) -> pd.DataFrame:
    """Return a table of our own, (n, 18), with noise on the functions.

    z1..z4 are on the published ``"grid"``, which makes them collinear, or
    ``"random"``, uniform and independent in the same ranges.  The noise has
    the standard deviation ``noise`` in units of each function's own; its
    stream is apart, so that tables differ in it alone.
    """
    streams = np.random.SeedSequence(seed).spawn(2)
    input_stream, noise_stream = map(np.random.default_rng, streams)
    # 1 - u lies in (0, 1]: f9 is not defined at 0.
    z5 = 1 - input_stream.random(n)
    others = _grid(n)
    if inputs == "random":
        others = [input_stream.uniform(*RANGES[name], n) for name in RANGES]
    z = np.column_stack([*others, z5])
    f = evaluate(z)
    f = f + noise * f.std(axis=0) * noise_stream.standard_normal(f.shape)
    return _table(z, f)


def _grid(n: int) -> list[NDArray]:
    return [np.linspace(low, high, n) for low, high in RANGES.values()]


def _table(z: NDArray, f: NDArray) -> pd.DataFrame:
    names = [*VARIABLES, *(function.name for function in FUNCTIONS)]
    return pd.DataFrame(np.hstack([z, f]), columns=names)
