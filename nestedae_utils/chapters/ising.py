"""The Ising model in two dimensions, simulated at many points at once.

Spins s = 1 or -1 on a periodic square lattice, with the energy::

    E = -Jx sum s s' - Jy sum s s' - Jd sum s s'

over neighbours in a row, in a column and on the diagonals.  Heat bath: a spin
is drawn anew, up with probability 1 / (1 + exp(-2 h / T)), h the field of its
neighbours.  Four sublattices, by the parity of row and column, are drawn in
turn, so that no two neighbours of either kind change together.

Exact, for Jd = 0: Onsager, doi:10.1103/PhysRev.65.117, Yang,
doi:10.1103/PhysRev.85.808, Chang, doi:10.1103/PhysRev.88.1422.
"""

from __future__ import annotations

from typing import NamedTuple

import joblib
import numpy as np
from scipy.optimize import brentq

from nestedae_utils.model.cache import cached

STARTS = ("up", "random")
ONE = np.float32(1)


class Averages(NamedTuple):
    """Of every point (n,): means over the measured sweeps, per spin."""

    magnetisation: np.ndarray
    energy: np.ndarray
    heat_capacity: np.ndarray


def simulate(
    couplings: np.ndarray,
    temperature: np.ndarray | float = 1.0,
    *,
    size: int = 20,
    start: str = "up",
    warm: int = 300,
    sweeps: int = 200,
    seed: int = 0,
) -> Averages:
    """Simulate a lattice for each row of couplings (n, 3): Jx, Jy, Jd.

    ``temperature`` is k T in their unit, one or (n,).  ``size`` is even;
    ``warm`` sweeps go before those that are measured.  The magnetisation is
    the mean of its absolute value; the heat capacity, in units of k, is that of
    the energy's variance.  All spins start up, or at ``"random"``.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    jx, jy, jd = (np.asarray(couplings, np.float32).T)[:, None, None]
    beta = np.broadcast_to(np.asarray(1 / temperature, np.float32), jx.shape[-1:])
    half = size // 2
    spins = np.ones((2, 2, half, half, jx.shape[-1]), np.float32)
    if start == "random":
        spins[rng.random(spins.shape, np.float32) < 0.5] = -1
    sums = np.zeros((3, jx.shape[-1]))
    for sweep in range(warm + sweeps):
        for row, column in np.ndindex(2, 2):
            field = sum(_fields(spins, row, column, jx, jy, jd))
            with np.errstate(over="ignore"):  # an infinite field decides
                up = 1 / (1 + np.exp(-2 * beta * field))
            drawn = rng.random(up.shape, np.float32)
            spins[row, column] = np.where(drawn < up, ONE, -ONE)
        if sweep >= warm:
            energy = -sum(
                (spins[row, column] * sum(_fields(spins, row, column, jx, jy, jd))).sum(
                    (0, 1), dtype=float
                )
                for row, column in np.ndindex(2, 2)
            )
            energy /= 2 * size**2
            m = np.abs(spins.mean((0, 1, 2, 3), dtype=float))
            sums += np.stack([m, energy, energy**2])
    m, energy, square = sums / sweeps
    return Averages(m, energy, size**2 * (square - energy**2) * beta.astype(float) ** 2)


def _fields(spins, row, column, jx, jy, jd):
    """Give the three parts of the field on a sublattice (half, half, n)."""
    # the neighbour on the other side is in the next cell, or in the one before
    down, right = (1, -1)[row], (1, -1)[column]
    beside, below = spins[row, 1 - column], spins[1 - row, column]
    across = spins[1 - row, 1 - column]
    across = across + np.roll(across, down, 0)
    yield jx * (beside + np.roll(beside, right, 1))
    yield jy * (below + np.roll(below, down, 0))
    yield jd * (across + np.roll(across, right, 1))


def grid(pixels: int, reach: float = 5.0) -> np.ndarray:
    """Return the points (pixels**2, 2) of the map: Jd (slow) and J, from -reach."""
    axis = np.linspace(-reach, reach, pixels)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


@cached
def maps(
    points: np.ndarray, runs: int, *, first: int = 0, start: str = "up", size: int = 20
) -> np.ndarray:
    """Return magnetisations (runs, n) at points (n, 2), Jd and J; k T = 1.

    Run r has the seed ``first + r``; the runs go side by side.
    """
    couplings = points[:, [1, 1, 0]]

    def one(seed: int) -> np.ndarray:
        return simulate(couplings, size=size, start=start, seed=seed).magnetisation

    some = joblib.Parallel(n_jobs=-1, prefer="threads")
    return np.array(some(joblib.delayed(one)(first + run) for run in range(runs)))


curve = cached(simulate)
"""`simulate`, kept on disk."""


def ordered(points: np.ndarray) -> np.ndarray:
    """Tell where (n,) the state of lowest energy is the ferromagnet.

    Against the chequerboard and the stripes: J > 0 and J > -2 Jd.
    """
    diagonal, straight = points.T
    return (straight > 0) & (straight > -2 * diagonal)


def critical(jx: float = 1.0, jy: float = 1.0) -> float:
    """Return the exact k T of the transition: sinh(2Jx/T) sinh(2Jy/T) = 1."""

    def away(t: float) -> float:
        return float(np.sinh(2 * jx / t) * np.sinh(2 * jy / t) - 1)

    return float(brentq(away, 0.05 * (jx + jy), 5 * (jx + jy)))


def magnetisation(
    temperature: np.ndarray, jx: float = 1.0, jy: float = 1.0
) -> np.ndarray:
    """Return the exact one of an infinite lattice, 0 above the transition."""
    product = np.sinh(2 * jx / temperature) * np.sinh(2 * jy / temperature)
    return np.maximum(0, 1 - np.maximum(product, 1) ** -2.0) ** 0.125


def rim(truth: np.ndarray, level: float = 0.5) -> np.ndarray:
    """Tell which points (n,) of a square map have a neighbour across the level."""
    pixels = round(len(truth) ** 0.5)
    high = truth.reshape(pixels, pixels) > level
    beside = np.zeros_like(high)
    for axis in (0, 1):
        changed = np.diff(high, axis=axis)
        for place in (slice(None, -1), slice(1, None)):
            cut = [slice(None)] * 2
            cut[axis] = place
            beside[tuple(cut)] |= changed
    return beside.reshape(-1)


def edge(points: np.ndarray) -> np.ndarray:
    """Tell which points (n,) lie on the edge of the square."""
    return (np.abs(points) == np.abs(points).max()).any(1)
