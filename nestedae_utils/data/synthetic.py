"""The synthetic benchmark: thirteen functions of z1..z5.

The functions and both recipes were recovered from the authors' published
tables (doi:10.1039/D3MH01484C, Sec. 3.1 and Fig. 2), which they reproduce to
rounding error; the notation of the paper's supplement may differ.
All quantities are dimensionless.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import eval_laguerre

from nestedae_utils.data.files import fetch
from nestedae_utils.errors import (
    DataError,
    ParameterError,
    choice,
    real,
    whole,
)

VARIABLES = ("z1", "z2", "z3", "z4", "z5")
RANGES = {
    "z1": (0.01, 5.0),
    "z2": (2.0, 5.0),
    "z3": (0.5, 10.0),
    "z4": (0.5, 10.0),
}
"""Range of each input on the published grid; z5 is random in (0, z5_max]."""

PUBLISHED_ROWS = 200
FILES = {
    "clean": "nestedae_synthetic/synthetic_data.csv",
    "noisy": "nestedae_synthetic/synthetic_data_FuncAddNoise_200.csv",
}
_PUBLISHED_Z5_SEED = 3
PUBLISHED_SIGMA = {1: 0.5, 2: 1.0}
"""Standard deviation of the published noise, by scale."""


@dataclass(frozen=True)
class Function:
    """One dependent variable of the benchmark.

    ``call`` takes one array (n,) for each of ``variables``, in order, and
    returns an array (n,). ``scale`` is the autoencoder, 1 or 2, that takes
    the function as an input.
    """

    name: str
    tex: str
    variables: tuple[str, ...]
    scale: int
    call: Callable[..., NDArray]


def _f2(*z: NDArray) -> NDArray:
    return sum(
        np.sin(x) + np.cos(x) + np.sin(2 * x) + np.cos(2 * x) for x in z
    )


def _f7(z3: NDArray, z4: NDArray, z5: NDArray) -> NDArray:
    return np.exp(-(z3**2 + z4**2 + z5**2) / (z3 + z4 + z5))


def _f9(*z: NDArray) -> NDArray:
    # A sum of logarithms rather than the logarithm of a product: the two
    # differ for negative z.
    z1, z2, *others = z
    return (np.log(z1) + sum(np.log(x) for x in others)) / np.log(z2)


def _f10(*z: NDArray) -> NDArray:
    z1, z2, z3, z4, z5 = z
    return (z1 - z2) ** 2 + z3**2 + z4**2 + z5**2 - z3 * z4 * z5


def _sum_of(term: Callable[[NDArray], NDArray]) -> Callable[..., NDArray]:
    return lambda *z: sum(term(x) for x in z)


_LOCAL = VARIABLES[:2]
FUNCTIONS = (
    Function("f1", r"(z_1 - z_2)^2", _LOCAL, 1, lambda a, b: (a - b) ** 2),
    Function(
        "f2",
        r"\sum_{i=1}^{2} (\sin z_i + \cos z_i + \sin 2z_i + \cos 2z_i)",
        _LOCAL,
        1,
        _f2,
    ),
    Function(
        "f3",
        r"e^{-z_1} + e^{-z_2}",
        _LOCAL,
        1,
        _sum_of(lambda x: np.exp(-x)),
    ),
    Function("f4", r"\tanh z_1 + \tanh z_2", _LOCAL, 1, _sum_of(np.tanh)),
    Function(
        "f5",
        r"z_1 z_2 - z_3 - z_4",
        VARIABLES[:4],
        2,
        lambda a, b, c, d: a * b - c - d,
    ),
    Function(
        "f6",
        r"\sin(z_1 z_2) + \sin(2 z_5)",
        ("z1", "z2", "z5"),
        2,
        lambda a, b, e: np.sin(a * b) + np.sin(2 * e),
    ),
    Function(
        "f7",
        r"\exp\left[-\frac{z_3^2 + z_4^2 + z_5^2}{z_3 + z_4 + z_5}\right]",
        VARIABLES[2:],
        2,
        _f7,
    ),
    Function(
        "f8", r"\sum_{i=1}^{5} \tanh z_i", VARIABLES, 2, _sum_of(np.tanh)
    ),
    Function(
        "f9",
        r"\frac{\ln z_1 + \ln z_3 + \ln z_4 + \ln z_5}{\ln z_2}",
        VARIABLES,
        2,
        _f9,
    ),
    Function(
        "f10",
        r"(z_1 - z_2)^2 + z_3^2 + z_4^2 + z_5^2 - z_3 z_4 z_5",
        VARIABLES,
        2,
        _f10,
    ),
    Function(
        "f11",
        r"\cos z_1 + \cos z_5",
        ("z1", "z5"),
        2,
        _sum_of(np.cos),
    ),
    Function(
        "f12",
        r"\sum_{i=1}^{5} L_4(z_i)",
        VARIABLES,
        2,
        _sum_of(lambda x: eval_laguerre(4, x)),
    ),
    Function("f13", r"\sum_{i=1}^{5} z_i^2", VARIABLES, 2, _sum_of(np.square)),
)
SCALE_1 = tuple(f.name for f in FUNCTIONS if f.scale == 1)
SCALE_2 = tuple(f.name for f in FUNCTIONS if f.scale == 2)


def evaluate(z: ArrayLike) -> NDArray:
    """Return the thirteen functions at the inputs.

    Parameters
    ----------
    z
        Shape (n, 5), the columns z1..z5.

    Returns
    -------
    NDArray
        Shape (n, 13), the columns f1..f13.

    Raises
    ------
    ParameterError
        If the shape is another, or f9 is not defined: a z that is not a
        finite number above 0, or z2 = 1.
    """
    z = np.asarray(z, dtype=float)
    if z.ndim != 2 or z.shape[1] != len(VARIABLES):
        raise ParameterError(
            f"z: shape {z.shape} given, (n, {len(VARIABLES)}) is allowed."
        )
    _check_domain(z)
    columns = dict(zip(VARIABLES, z.T, strict=True))
    return np.column_stack(
        [f.call(*(columns[name] for name in f.variables)) for f in FUNCTIONS]
    )


def published(kind: str) -> pd.DataFrame:
    """Return a published table, made anew from its recipe.

    The noisy table is not the clean one plus noise: its z5 spans ten times
    the range.

    Parameters
    ----------
    kind
        ``"clean"`` or ``"noisy"``.

    Returns
    -------
    DataFrame
        Shape (200, 18), the columns z1..z5, f1..f13.

    Raises
    ------
    ParameterError
        If the kind is another.
    """
    choice("kind", kind, FILES)
    # The authors drew with numpy's legacy generator, whose stream is frozen.
    z5 = np.random.RandomState(_PUBLISHED_Z5_SEED).rand(PUBLISHED_ROWS)
    z = np.column_stack(
        [*_grid(PUBLISHED_ROWS), z5 if kind == "clean" else 10 * z5]
    )
    f = evaluate(z)
    if kind == "noisy":
        for j, function in enumerate(FUNCTIONS):
            draws = np.random.RandomState(j + 1).randn(PUBLISHED_ROWS)
            f[:, j] += PUBLISHED_SIGMA[function.scale] * draws
    return _table(z, f)


def read_published(kind: str) -> pd.DataFrame:
    """Return a published table, read from the authors' file.

    Parameters
    ----------
    kind
        ``"clean"`` (no header, the columns f1..f13 only) or ``"noisy"``
        (z1..z5, f1..f13).

    Returns
    -------
    DataFrame
        Shape (200, 13) or (200, 18).

    Raises
    ------
    ParameterError
        If the kind is another.
    DataError, DataUnavailable
        As `datasets.fetch`, or if the file is not such a table.
    """
    choice("kind", kind, FILES)
    path = fetch(FILES[kind])
    names = [f.name for f in FUNCTIONS]
    if kind == "clean":
        table = pd.read_csv(path, header=None)
    else:
        table = pd.read_csv(path)
        names = [*VARIABLES, *names]
    if table.shape != (PUBLISHED_ROWS, len(names)):
        raise DataError(
            f"{path}: {table.shape[0]} rows x {table.shape[1]} columns "
            f"found, {PUBLISHED_ROWS} x {len(names)} expected."
        )
    return table.set_axis(names, axis="columns")


def generate(
    n: int = 200,
    seed: int = 0,
    noise: float = 0.0,
    inputs: str = "grid",
    z5_max: float = 1.0,
) -> pd.DataFrame:
    """Return a table of the benchmark with noise on the functions.

    Inputs and noise have random streams of their own, so that tables which
    differ in ``noise`` alone share their inputs and the shape of the noise.

    Parameters
    ----------
    n
        Number of rows, at least 2.
    seed
        Seed of z5 (and of all inputs, if random) and of the noise.
    noise
        Standard deviation of the noise, in units of each function's own
        standard deviation over these inputs.
    inputs
        ``"grid"``: z1..z4 evenly spaced as in the published tables, which
        makes them collinear; ``"random"``: uniform and independent in the
        same ranges.
    z5_max
        z5 is uniform in (0, z5_max]; 1 in the published clean table, 10 in
        the noisy one.

    Returns
    -------
    DataFrame
        Shape (n, 18), the columns z1..z5, f1..f13.

    Raises
    ------
    ParameterError
        If a parameter is out of its range.
    """
    n = whole("n", n, minimum=2)
    seed = whole("seed", seed, minimum=0)
    noise = real("noise", noise, minimum=0)
    choice("inputs", inputs, ("grid", "random"))
    z5_max = real("z5_max", z5_max, positive=True)

    input_stream, noise_stream = (
        np.random.default_rng(child)
        for child in np.random.SeedSequence(seed).spawn(2)
    )
    # 1 - u lies in (0, 1]: f9 is not defined at 0.
    z5 = z5_max * (1 - input_stream.random(n))
    if inputs == "grid":
        others = _grid(n)
    else:
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


def _check_domain(z: NDArray) -> None:
    faulty = ~(np.isfinite(z) & (z > 0))
    faulty[:, 1] |= z[:, 1] == 1
    if faulty.any():
        row, column = np.argwhere(faulty)[0]
        allowed = "a finite number above 0"
        if column == 1:
            allowed += " other than 1"
        raise ParameterError(
            f"{VARIABLES[column]}: {z[row, column]:g} given in row {row}, "
            f"{allowed} is allowed (f9 is not defined there)."
        )
