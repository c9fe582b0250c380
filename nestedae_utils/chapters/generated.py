"""Generated cells: points between points, and what is asked of a crystal.

The screens are the usual ones, and ours: doi:10.21428/594757db.07402193 reports
no rate of valid, unique or new cells.  Cells are mappings of arrays: ``number``
and ``site`` (n, 3), ``atoms`` (n,), ``lattice`` (n, 3, 3) (angstrom) and
``positions`` (n, 20, 3).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pymatgen.core import Element

from nestedae_utils.data.files import DATA

Cells = Mapping[str, np.ndarray]
_TABLE = pd.read_csv(DATA / "element_bins.csv", keep_default_na=False)
SYMBOLS = ("", *_TABLE["symbol"])
COVALENT, IONIC = (
    np.concatenate([[np.nan], pd.to_numeric(_TABLE[f"{kind}_pm"]) / 100])
    for kind in ("covalent", "ionic")
)
"""Radii (angstrom) by atomic number; an ionic one may be missing."""
ANIONS = frozenset({"H", "N", "O", "F", "S", "Cl", "Se", "Br", "Te", "I"})
VOLUMES = 6.0, 50.0
"""Cubic angstrom per atom that pass."""
CLOSEST = 0.6
"""Two atoms may be no nearer than this share of their covalent radii's sum."""
TOLERANCE = 0.7, 1.1
"""Goldschmidt's factors that pass (doi:10.1007/BF01507527)."""
BOND = 1.25
"""A neighbour is one within this share of the site's shortest bond."""
REACH = 4.5
"""Angstrom within which neighbours are looked for."""


# --- points -------------------------------------------------------------------


def slerp(first: NDArray, second: NDArray, t: NDArray) -> NDArray:
    """Return Eq. 4: points (n, k, latent) at t (k,) between rows (n, latent).

    The paper's, of the raw vectors: not the same as turning a direction and
    changing a length evenly where the two lengths differ.
    """
    cosine = (first * second).sum(-1)
    cosine /= np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    angle = np.arccos(np.clip(cosine, -1 + 1e-9, 1 - 1e-9))[:, None]
    parts = [np.sin((1 - t) * angle), np.sin(t * angle)] / np.sin(angle)
    return sum(
        share[..., None] * end[:, None]
        for share, end in zip(parts, (first, second), strict=True)
    )


def straight(first: NDArray, second: NDArray, t: NDArray) -> NDArray:
    """Return points (n, k, latent) on the line between rows (n, latent)."""
    return first[:, None] + t[:, None] * (second - first)[:, None]


def points(
    stable: NDArray, every: NDArray, pairs: int, steps: int, seed: int
) -> dict[str, NDArray]:
    """Return points to decode by how they were made, each (m, latent).

    Between ``pairs`` of the ``stable`` points, ``steps`` within each; as many
    of these themselves, around them with a deviation of 0.4
    (doi:10.1016/j.matt.2021.11.032), from a normal distribution fitted to
    ``every`` training point, and from N(0, 1).
    """
    random = np.random.default_rng(seed)
    first = random.integers(0, len(stable), pairs)
    second = (first + random.integers(1, len(stable), pairs)) % len(stable)
    a, b = stable[first], stable[second]
    t, count = np.arange(1, steps + 1) / (steps + 1), pairs * steps
    noise = random.standard_normal((3, count, stable.shape[1]))
    around = stable[random.integers(0, len(stable), count)]
    spread = np.linalg.cholesky(np.cov(every.T) + 1e-9 * np.eye(every.shape[1]))
    return {
        "stable points, decoded": around,
        "SLERP": slerp(a, b, t).reshape(count, -1),
        "straight line": straight(a, b, t).reshape(count, -1),
        "Gaussian 0.4": around + 0.4 * noise[0],
        "fitted Gaussian": every.mean(0) + noise[1] @ spread.T,
        "prior N(0, 1)": noise[2],
    }


# --- chemistry ----------------------------------------------------------------


@functools.cache
def neutral(a: int, b: int, x: int) -> bool:
    """Tell whether common oxidation states (pymatgen's) of A, B, 3 X add to 0.

    X is negative.
    """
    states = [
        Element(SYMBOLS[z]).common_oxidation_states if z < len(SYMBOLS) else ()
        for z in (a, b, x)
    ]
    states[2] = tuple(s for s in states[2] if s < 0) or ((-1,) if x == 1 else ())
    return any(p + q + 3 * r == 0 for p, q, r in itertools.product(*states))


def by_site(cells: Cells) -> NDArray:
    """Return the atomic numbers (n, 3) of A, B and X; 0 where a site is missing."""
    roles = cells["site"][:, :, None] == np.arange(3)
    once = (roles.sum(1) == 1).all(1)
    found = (cells["number"][:, :, None] * roles).sum(1)
    return np.where(once[:, None], found, 0)


def chemistry(cells: Cells) -> NDArray:
    """Return which cells (n,) have a sound composition.

    A, B and X once, three elements, X an anion, charges that can add to zero,
    a tolerance factor that passes, the larger cation as A; where a radius is
    missing, the factor is not asked.
    """
    abx, found = by_site(cells), np.zeros(len(cells["atoms"]), bool)
    for row, (a, b, x) in enumerate(abx.tolist()):
        if 0 in (a, b, x) or len({a, b, x}) < 3 or max(a, b, x) >= len(SYMBOLS):
            continue
        large, small = sorted((IONIC[a], IONIC[b]), reverse=True)
        t = (large + IONIC[x]) / (np.sqrt(2) * (small + IONIC[x]))
        sound = not np.isfinite(t) or TOLERANCE[0] <= t <= TOLERANCE[1]
        found[row] = sound and SYMBOLS[x] in ANIONS and neutral(a, b, x)
    return found


def formulas(cells: Cells) -> NDArray:
    """Return names (n,), "AlPt O3": both other elements, sorted, then X."""
    found = []
    for abx in by_site(cells).tolist():
        a, b, x = (SYMBOLS[z] if z < len(SYMBOLS) else "?" for z in abx)
        found.append(f"{''.join(sorted((a, b)))} {x}3")
    return np.array(found)


# --- geometry -----------------------------------------------------------------


def species(cells: Cells, row: int) -> NDArray:
    """Return the atomic number of each atom of a cell."""
    units = cells["atoms"][row] // 5
    counts = np.where(cells["site"][row] == 2, 3, 1) * units
    return np.repeat(cells["number"][row], counts)[: cells["atoms"][row]]


def between(lattice: NDArray, first: NDArray, second: NDArray, reach: float) -> NDArray:
    """Return distances (n, m, images) in angstrom; all within reach are among them.

    Between places (n, 3) and (m, 3), with as many images on each side as the
    planes' distances ask for, also in skewed cells.  An atom's distance to
    itself is infinite.
    """
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    shells = np.minimum(np.ceil(reach / spacing + 0.5), 6).astype(int)
    ranges = [np.arange(-n, n + 1) for n in shells]
    images = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    apart = first[:, None] - second[None]
    apart -= np.round(apart)
    found = np.linalg.norm((apart[:, :, None] + images) @ lattice, axis=-1)
    if first is second:  # an atom and itself, not its images
        found[np.arange(len(first)), np.arange(len(first)), len(images) // 2] = np.inf
    return found


def _each(cells: Cells) -> Iterator[tuple[int, NDArray, NDArray, NDArray]]:
    for row, atoms in enumerate(cells["atoms"].tolist()):
        numbers = species(cells, row)
        if len(numbers) == atoms and numbers.max() < len(SYMBOLS):
            yield row, cells["lattice"][row], cells["positions"][row, :atoms], numbers


def geometry(cells: Cells) -> NDArray:
    """Return which cells (n,) have a sound volume and no atoms too close."""
    found = np.zeros(len(cells["atoms"]), bool)
    for row, lattice, places, numbers in _each(cells):
        volume = abs(np.linalg.det(lattice)) / len(places)
        if VOLUMES[0] <= volume <= VOLUMES[1]:
            sums = COVALENT[numbers][:, None] + COVALENT[numbers]
            nearest = between(lattice, places, places, 3.2).min(-1)
            found[row] = bool((nearest >= CLOSEST * sums).all())
    return found


def bonds(cells: Cells) -> tuple[NDArray, list[dict[str, list[int]]]]:
    """Return the shortest X-X distances (n,) and each cation's numbers of X.

    By symbol a list, one number an atom: the X within `BOND` times its
    shortest bond to X.
    """
    abx = by_site(cells)
    shortest, around = np.full(len(cells["atoms"]), np.nan), []
    for row, lattice, places, numbers in _each(cells):
        x = numbers == abx[row, 2]
        anions = places[x]
        shortest[row] = between(lattice, anions, anions, REACH).min()
        to_x = between(lattice, places[~x], anions, REACH).reshape((~x).sum(), -1)
        counts = (to_x <= BOND * to_x.min(1, keepdims=True)).sum(1)
        found: dict[str, list[int]] = {}
        for z, count in zip(numbers[~x], counts, strict=True):
            found.setdefault(SYMBOLS[z], []).append(int(count))
        around.append(found)
    return shortest, around


def connected(cells: Cells) -> NDArray:
    """Return which cells (n,) are built of octahedra that share all corners.

    One cation has six X each (see `bonds`), and each X has two of them, in a cell
    of a sound volume.
    """
    found, abx = np.zeros(len(cells["atoms"]), bool), by_site(cells)
    for row, lattice, places, numbers in _each(cells):
        volume = abs(np.linalg.det(lattice)) / len(places)
        if not VOLUMES[0] <= volume <= VOLUMES[1]:
            continue
        a, b, x = abx[row]
        for cation in {a, b} - {x}:
            some, anions = numbers == cation, numbers == x
            if not some.any() or not anions.any():
                continue
            to_x = between(lattice, places[some], places[anions], REACH)
            near = to_x <= BOND * to_x.min((1, 2), keepdims=True)
            six, two = near.sum((1, 2)) == 6, near.sum((0, 2)) == 2
            found[row] |= bool(six.all() and two.all())
    return found
