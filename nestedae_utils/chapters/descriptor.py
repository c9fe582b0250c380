"""The invertible descriptor: a cell as an image of 264 x 60 numbers, and back.

After doi:10.21428/594757db.07402193, Sec. 2.1, with the layout and the bins of
its authors' code.  The first three columns are the direct space, one an element
of the formula, or x, y, z; the further 57 are the reciprocal space, one a
plane hkl, padded with zeros on top.  Cells are mappings of arrays: ``number``
and ``site`` (n, 3), ``atoms`` (n,), ``lattice`` (n, 3, 3) (angstrom) and
``positions`` (n, 20, 3).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nestedae_utils.data.files import DATA

Cells = Mapping[str, np.ndarray]
BINS = {
    **{"group": 18, "row": 9, "electronegativity": 10, "covalent_radius": 10},
    **{"valence": 9, "ionisation_energy": 10, "electron_affinity": 10, "block": 4},
    **{"molar_volume": 10, "ionic_radius": 10, "polarizability": 10},
    **{"specific_heat": 10, "thermal_conductivity": 10},
}
"""The thirteen properties of an element and their numbers of bins."""
ROWS = {
    **{"number": 103, "lattice": 3, "angles": 1, "positions": 20},
    **{"properties": 130, "site": 3, "atoms": 4},
}
"""Rows of the direct space, from the top."""
RECIPROCAL = {"vectors": 3, "angles": 1, "length": 1, "distance": 1, "planes": 130}
"""Rows of the reciprocal space, the last 136."""
HEIGHT, WIDTH = 264, 60
IMAGE = (60, 88, 3)
CONTINUOUS = ("lattice", "angles", "positions")
_HKL = np.array(list(itertools.product(range(-3, 4), repeat=3)))
ALL_PLANES = _HKL[np.abs(_HKL).sum(1) <= 3]
"""The 63 planes whose absolute indices sum to 3 at most."""
PLANES = ALL_PLANES[np.abs(ALL_PLANES).max(1) < 3]
"""The 57 that are used: without the six {3 0 0}."""


def _one_hot(places: NDArray, size: int) -> NDArray:
    """Return (..., size) of places (...); nothing where it is below zero."""
    return (places[..., None] == np.arange(size)).astype(np.float32)


def _bins() -> NDArray:
    """Return every element's bins by atomic number, (104, 13); -1 for none."""
    table = pd.read_csv(DATA / "element_bins.csv", keep_default_na=False)
    found = np.full((104, len(BINS)), -1)
    found[table["number"]] = table[list(BINS)].apply(pd.to_numeric).fillna(-1)
    return found


PLACES = _bins()
PROPERTIES = np.hstack(
    [_one_hot(b, n) for b, n in zip(PLACES.T, BINS.values(), strict=True)]
)
"""One-hot properties by atomic number, (104, 130)."""


def cuts(rows: Mapping[str, int], start: int = 0) -> dict[str, slice]:
    """Return where named rows lie that follow each other."""
    ends = np.cumsum([start, *rows.values()])
    return {n: slice(a, b) for n, a, b in zip(rows, ends, ends[1:], strict=False)}


DIRECT = cuts(ROWS)
BELOW = cuts(RECIPROCAL, HEIGHT - sum(RECIPROCAL.values()))


def angles(lattice: NDArray) -> NDArray:
    """Return alpha, beta, gamma (n, 3) in degrees of vectors (n, 3, 3)."""
    unit = lattice / np.linalg.norm(lattice, axis=-1, keepdims=True)
    pairs = [(unit[:, i] * unit[:, j]).sum(-1) for i, j in ((1, 2), (0, 2), (0, 1))]
    return np.degrees(np.arccos(np.clip(np.stack(pairs, -1), -1, 1)))


def reciprocal(lattice: NDArray) -> NDArray:
    """Return the reciprocal vectors (n, 3, 3) with 2 pi, in 1/angstrom."""
    return 2 * np.pi * np.linalg.inv(lattice).swapaxes(1, 2)


def distances(lattice: NDArray, exact: bool = True) -> NDArray:
    """Return d_hkl (n, 57) in angstrom, 0 for the plane 000.

    By 2 pi over the length of h b1 + k b2 + l b3, or, as published, by
    1/d^2 = h^2/a^2 + k^2/b^2 + l^2/c^2 (not ``exact``): right angles only.
    """
    if exact:
        size = np.linalg.norm(PLANES @ reciprocal(lattice), axis=-1) / (2 * np.pi)
    else:
        edges = np.linalg.norm(lattice, axis=-1)
        size = np.sqrt((PLANES**2 / edges[:, None] ** 2).sum(-1))
    return np.divide(1, size, out=np.zeros_like(size), where=size > 0)


def listed(cells: Cells) -> NDArray:
    """Return which element of the formula each atom is, (n, 20), or -1."""
    shares = np.where(cells["site"] == 2, 3, 1) * (cells["atoms"] // 5)[:, None]
    atom = np.arange(cells["positions"].shape[1])
    found = (atom[None, :, None] >= shares.cumsum(1)[:, None]).sum(-1)
    return np.where(atom < cells["atoms"][:, None], found, -1)


def planes(cells: Cells, wrapped: bool = False) -> NDArray:
    """Return S_hkl (n, 130, 57) as Eq. 1 prints it.

    The sum over atoms j of -0.5 i Q_j ln exp(2 pi i h . r_j), which is
    pi Q_j (h . r_j), the logarithm undoing the exponential; ``wrapped`` takes
    the principal logarithm, with phases in (-pi, pi].
    """
    kind = _one_hot(listed(cells), 3)
    phase = 2 * np.pi * cells["positions"] @ PLANES.T
    if wrapped:
        phase = np.angle(np.exp(1j * phase))
    of_element = np.einsum("nje,njp->nep", kind, 0.5 * phase)
    return np.einsum("neq,nep->nqp", PROPERTIES[cells["number"]], of_element)


def raw(cells: Cells, exact: bool = False) -> NDArray:
    """Return the descriptor before scaling, (n, 264, 60), float32."""
    count = len(cells["atoms"])
    found = np.zeros((count, HEIGHT, WIDTH), np.float32)
    direct, prf = found[:, :, :3], found[:, :, 3:]
    parts = {
        "number": _one_hot(cells["number"] - 1, 103).swapaxes(1, 2),
        "lattice": cells["lattice"],
        "angles": angles(cells["lattice"])[:, None],
        "positions": cells["positions"],
        "properties": PROPERTIES[cells["number"]].swapaxes(1, 2),
        "site": _one_hot(cells["site"], 3).swapaxes(1, 2),
        "atoms": _one_hot(cells["atoms"] // 5 - 1, 4)[..., None].repeat(3, 2),
    }
    for name, values in parts.items():
        direct[:, DIRECT[name]] = values
    b, d = reciprocal(cells["lattice"]), distances(cells["lattice"], exact)
    prf[:, BELOW["vectors"], :3] = b
    prf[:, BELOW["angles"], :3] = angles(b)[:, None]
    length = np.divide(2 * np.pi, d, out=np.zeros_like(d), where=d > 0)
    prf[:, BELOW["length"]] = length[:, None]
    prf[:, BELOW["distance"]] = d[:, None]
    prf[:, BELOW["planes"]] = planes(cells)
    return found


class Range(NamedTuple):
    """Lowest value and span (264, 60) of the continuous rows; others 0 and 1."""

    low: NDArray
    span: NDArray

    @classmethod
    def fit(cls, values: NDArray) -> Range:
        """Measure raw descriptors (n, 264, 60); a constant has the span 1."""
        low, high = values.min(0), values.max(0)
        one_hot = np.ones(HEIGHT, bool)
        for name in CONTINUOUS:
            one_hot[DIRECT[name]] = False
        low[one_hot, :3], high[one_hot, :3] = 0, 1
        # what rounding leaves of a constant is no span
        span = np.where(high - low > 1e-5, high - low, 1)
        return cls(low, span)

    def scale(self, values: NDArray) -> NDArray:
        """Return descriptors between 0 and 1 where they were fitted."""
        return (values - self.low) / self.span

    def unscale(self, values: NDArray) -> NDArray:
        """Return them in their units."""
        return values * self.span + self.low


def invert(values: NDArray) -> dict[str, NDArray]:
    """Return the cells of raw descriptors (n, 264, 60 or 3)."""
    direct = values[:, :, :3]
    atoms = 5 * (direct[:, DIRECT["atoms"]].mean(-1).argmax(1) + 1)
    inside = np.arange(20)[None, :, None] < atoms[:, None, None]
    return {
        "number": direct[:, DIRECT["number"]].argmax(1) + 1,
        "site": direct[:, DIRECT["site"]].argmax(1),
        "atoms": atoms,
        "lattice": direct[:, DIRECT["lattice"]],
        "positions": np.where(inside, direct[:, DIRECT["positions"]], 0),
    }


def numbers(cells: Cells) -> NDArray:
    """Return 47 numbers of a cell: 39 bins, those of A, B and X, and its shape.

    The shape is a, b, c (angstrom), the angles (degrees), the atoms and the
    volume of an atom (cubic angstrom).
    """
    order = cells["site"].argsort(1)
    bins = PLACES[np.take_along_axis(cells["number"], order, 1)]
    lattice, atoms = cells["lattice"], cells["atoms"][:, None]
    edges = np.linalg.norm(lattice, axis=-1)
    volume = np.abs(np.linalg.det(lattice))[:, None] / atoms
    count = len(atoms)
    parts = [bins.reshape(count, 39), edges, angles(lattice), atoms, volume]
    return np.hstack(parts)


# --- the direct space as blocks of a scale ----------------------------------


def blocks(cells: Cells) -> dict[str, NDArray]:
    """Return the direct space as named blocks, (n, width) each.

    ``element1..3`` (103) and ``role1..3`` (3) one-hot, ``size`` (4) one-hot,
    ``cell`` (12) vectors and angles, ``coordinates`` (60) and ``properties``
    (390), one-hot.
    """
    count = len(cells["atoms"])
    found = {
        f"element{k + 1}": _one_hot(cells["number"][:, k] - 1, 103) for k in range(3)
    }
    found |= {f"role{k + 1}": _one_hot(cells["site"][:, k], 3) for k in range(3)}
    lattice = cells["lattice"]
    return found | {
        "size": _one_hot(cells["atoms"] // 5 - 1, 4),
        "cell": np.hstack([lattice.reshape(count, 9), angles(lattice)]),
        "coordinates": cells["positions"].reshape(count, 60),
        "properties": PROPERTIES[cells["number"]].reshape(count, 390),
    }


def of_blocks(decoded: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return the cells of decoded blocks (n, width), the likeliest of each."""
    place = {name: values.argmax(-1) for name, values in decoded.items()}
    count, atoms = len(decoded["size"]), 5 * (place["size"] + 1)
    inside = np.arange(20)[None, :, None] < atoms[:, None, None]
    positions = decoded["coordinates"].reshape(count, 20, 3)
    return {
        "number": np.stack([place[f"element{k}"] for k in (1, 2, 3)], -1) + 1,
        "site": np.stack([place[f"role{k}"] for k in (1, 2, 3)], -1),
        "atoms": atoms,
        "lattice": decoded["cell"][:, :9].reshape(count, 3, 3),
        "positions": np.where(inside, positions, 0),
    }
