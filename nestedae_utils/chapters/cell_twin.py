"""Generated cells of ABX3, cubic and tilted, where the file cannot be had.

Columns, kinds of values and sizes of cells are those of the public table; no
cell of it is in here.  The energy of formation (eV/atom) is::

    -0.4 - (a + b + x) + 6 (t - 0.92)^2 + 0.1 |tilt - wanted| + noise

with the elements' `WEIGHTS`, the tolerance factor t, the tilt that it asks for,
and normal noise of 0.08; the energy above the hull is exponential, and larger
where t is far from 0.92.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

WEIGHTS = {
    **{"K": 0.6, "Rb": 0.6, "Cs": 0.5, "Ca": 0.9, "Sr": 0.9, "Ba": 0.8, "La": 1.0},
    **{"Ti": 0.6, "Zr": 0.9, "Nb": 0.3, "Sn": 0.2, "Mg": 0.8, "Zn": 0.1, "Al": 0.7},
    **{"O": 0.4, "F": 1.0, "Cl": 0.1, "Br": -0.2, "S": -0.4, "N": -0.8},
}
RADII = {  # angstrom, rounded
    **{"K": 1.5, "Rb": 1.7, "Cs": 1.8, "Ca": 1.1, "Sr": 1.3, "Ba": 1.5, "La": 1.2},
    **{"Ti": 0.8, "Zr": 0.9, "Nb": 0.8, "Sn": 0.8, "Mg": 0.9, "Zn": 0.9, "Al": 0.7},
    **{"O": 1.3, "F": 1.2, "Cl": 1.7, "Br": 1.8, "S": 1.7, "N": 1.3},
}
A, B, X = list(WEIGHTS)[:7], list(WEIGHTS)[7:14], list(WEIGHTS)[14:]
# of cubic cells, the repeats of a tilted one and its share in the table
KINDS = (((1, 0, 0), (0, 1, 0), (0, 0, 1)), 0.45), (
    ((1, 1, 0), (-1, 1, 0), (0, 0, 1)), 0.25), (
    ((1, 1, 0), (-1, 1, 0), (0, 0, 2)), 0.3)  # fmt: skip


def tilted(repeat: NDArray, edge: float, tilt: float) -> tuple[NDArray, NDArray]:
    """Return lattice (3, 3) (angstrom) and positions (n, 3): A, B, then X.

    Octahedra turn about c by a tilt (in shares of the edge), neighbours in the
    plane against each other, and layers too where the cell holds two.
    """
    steps = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3)
    sign = (-1.0) ** (steps[:, 0] + steps[:, 1])
    if repeat[2, 2] == 2:
        sign = sign * (-1.0) ** steps[:, 2]
    shift = tilt * sign[:, None]
    sites = [
        steps + [0.5, 0.5, 0.5],
        steps,
        steps + [0.5, 0, 0] + shift * [0, 1, 0],
        steps + [0, 0.5, 0] - shift * [1, 0, 0],
        steps + [0, 0, 0.5],
    ]
    parts = []
    for site in sites:
        inside = site @ np.linalg.inv(repeat)
        # a site belongs to the cell that holds its place without tilt
        base = np.round(site * 2) / 2 @ np.linalg.inv(repeat)
        chosen = ((base > -1e-6) & (base < 1 - 1e-6)).all(1)
        parts.append(inside[chosen] % 1)
    return edge * repeat, np.concatenate([*parts[:2], *parts[2:]])


def cells(seed: int = 0, rows: int = 700, first: int = 0) -> pd.DataFrame:
    """Return generated cells (rows, 139), in the order they are drawn."""
    random, found = np.random.default_rng(seed), []
    shares = [share for _, share in KINDS]
    for _ in range(rows):
        a, b, x = (str(random.choice(kinds)) for kinds in (A, B, X))
        repeat = np.array(KINDS[random.choice(3, p=shares)][0], float)
        t = (RADII[a] + RADII[x]) / np.sqrt(2) / (RADII[b] + RADII[x])
        wanted = float(np.clip(0.97 - t, 0, 0.2))
        cubic = np.linalg.det(repeat) < 1.5
        tilt = 0.0 if cubic else wanted * random.uniform(0.5, 1.2)
        edge = 2 * (RADII[b] + RADII[x]) * random.uniform(0.97, 1.03)
        lattice, places = tilted(repeat, edge, tilt)
        # every other cell is sheared
        lattice[1] += random.choice([0.0, random.uniform(-0.1, 0.1)]) * lattice[0]
        energy = -0.4 - WEIGHTS[a] - WEIGHTS[b] - WEIGHTS[x] + 6 * (t - 0.92) ** 2
        energy += 0.1 * abs(tilt - wanted) + 0.08 * random.standard_normal()
        hull = random.exponential(0.06) + (t - 0.92) ** 2
        gap = max(0.0, WEIGHTS[x] + WEIGHTS[b] + random.normal(1, 0.3))
        row: dict[str, object] = {"formula": f"{a}{b}{x}3", "atoms": len(places)}
        row |= {f"element{k}": word for k, word in enumerate((a, b, x), 1)}
        row |= {f"site{k}": word for k, word in enumerate("ABX", 1)}
        edges = np.linalg.norm(lattice, axis=1)
        row |= dict(zip("abc", edges, strict=True))
        cosine = lattice[0] @ lattice[1] / (edges[0] * edges[1])
        row |= {"alpha": 90.0, "beta": 90.0, "gamma": np.degrees(np.arccos(cosine))}
        flat = np.zeros(120)
        flat[: places.size] = places.round(6).ravel()
        names = [f"{axis}{atom}" for atom in range(1, 41) for axis in "xyz"]
        row |= dict(zip(names, flat, strict=True))
        row |= {"volume": np.linalg.det(lattice), "energy": energy, "hull": hull}
        found.append({**row, "gap": gap, "icsd": int(random.random() < 0.3)})
    return pd.DataFrame(found).iloc[first:].reset_index(drop=True)


def hulls() -> pd.DataFrame:
    """Return the hull at the twin's oxides: ``formula``, ``ground`` (eV/atom)."""
    oxides = [(a, b) for a in A for b in B]
    return pd.DataFrame({
        "formula": ["".join(sorted(pair)) + "O3" for pair in oxides],
        "ground": [-WEIGHTS[a] - WEIGHTS[b] - 0.05 for a, b in oxides],
    })  # fmt: skip


def candidate(place: int) -> pd.DataFrame:
    """Return a tilted oxide cell of ten atoms, shaken, as if it were generated."""
    drawn = cells(100 + place, 300)
    oxide = (drawn["atoms"] == 10) & (drawn["element3"] == "O")
    one = drawn[oxide].iloc[[0]].reset_index(drop=True)
    names = [f"{axis}{atom}" for atom in range(1, 11) for axis in "xyz"]
    shaken = np.random.default_rng(place).normal(0, 0.08, 30)
    one.loc[0, names] = one.loc[0, names].to_numpy(float) + shaken
    one[["volume", "energy", "hull", "gap", "icsd"]] = np.nan
    return one


TWINS: dict[str, Callable[[], pd.DataFrame]] = {
    "cells": cells,
    "oxides": hulls,
    **{f"candidate{k}": partial(candidate, k) for k in range(1, 5)},
}
"""What generates each table of the chapter."""
