"""Cells of ABX3 crystals: read, checked, made canonical.

A cell is a row of a table: ``element1..3`` in the order of the formula,
``site1..3`` (A, B or X of each), ``atoms`` in the cell, ``a b c`` (angstrom),
``alpha beta gamma`` (degrees) and fractional coordinates ``x1..z40``, listed
element by element, one atom a formula unit of A and B and three of X, with
zeros behind the last.  Beside them stand ``energy`` of formation and ``hull``,
the energy above the hull (eV/atom), ``gap`` (eV), ``volume`` (cubic angstrom)
and ``icsd`` (0 or 1).

The public cells are those of doi:10.3389/fmats.2023.1233961 (Materials
Project), the candidates those of doi:10.21428/594757db.07402193, the oxides'
hulls those of doi:10.1038/sdata.2017.153.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nestedae_utils.data import tables
from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError, nearest

ELEMENTS = pd.read_csv(DATA / "element_bins.csv", index_col=0, keep_default_na=False)
SITES = ("A", "B", "X")
ANIONS = ("H", "N", "O", "F", "S", "Cl", "Se", "Br", "Te", "I")
MOST = 20
"""Atoms that the descriptor has rows for."""
LENGTHS, ANGLES = ["a", "b", "c"], ["alpha", "beta", "gamma"]
SPECIES, ROLES = ([f"{word}{k}" for k in (1, 2, 3)] for word in ("element", "site"))
PLACES = [f"{axis}{atom}" for atom in range(1, 41) for axis in "xyz"]
VALUES = ["volume", "energy", "hull", "gap", "icsd"]
COLUMNS = ["formula", *SPECIES, *ROLES, "atoms", *LENGTHS, *ANGLES, *PLACES, *VALUES]
_PUBLISHED = {
    **{"pretty_formula": "formula", "n_atoms": "atoms", "band_gap": "gap"},
    **{"formation_energy_per_atom": "energy", "e_above_hull": "hull"},
}
Cells = dict[str, np.ndarray]
"""``number`` (n, 3) atomic numbers, ``site`` (n, 3) places in `SITES`, ``atoms``
(n,), ``lattice`` (n, 3, 3) vectors in rows (angstrom), ``positions`` (n, 20, 3)."""


@dataclass(frozen=True)
class Crystals:
    """Cells (n, 139), the four candidates, hulls of oxides; their source."""

    cells: pd.DataFrame
    oxides: pd.DataFrame
    candidate1: pd.DataFrame
    candidate2: pd.DataFrame
    candidate3: pd.DataFrame
    candidate4: pd.DataFrame
    source: str
    checksums: dict[str, str]

    @property
    def candidates(self) -> pd.DataFrame:
        """The four candidates as one table."""
        parts = [getattr(self, f.name) for f in fields(self) if "date" in f.name]
        return pd.concat(parts, ignore_index=True)


def load(data_source: str, twins: Mapping[str, Callable[[], pd.DataFrame]]) -> Crystals:
    """Return all tables, or their twins by name; errors as `tables.obtain`."""
    files = {
        f"candidate{k}": (f"tl_vae_candidates/CIF_{k}.cif", read_cif)
        for k in range(1, 5)
    }
    files["cells"] = "evapd_perovskites/dataset.zip", read
    files["oxides"] = "wolverton_oxides/wolverton_oxides.csv", read_oxides
    sources = {name: (*file, twins[name]) for name, file in files.items()}
    return tables.obtain(Crystals, data_source, **sources)


def read(path: str | Path) -> pd.DataFrame:
    """Return the published ABX3 cells, checked; raises as `check`.

    DataError too if the stated volume is not that of the cell.
    """
    parts = {}
    with zipfile.ZipFile(path) as archive:
        for name in ("target", "atoms_abx3", "site_occupancy", "atom_coord"):
            with archive.open(f"dataset/{name}.csv") as file:
                parts[name] = pd.read_csv(file, keep_default_na=False)
    count = len(parts["atoms_abx3"])  # the ABX3 rows stand first
    # its own "energy" is the total one
    frame = parts["target"].drop(columns="energy").rename(columns=_PUBLISHED)
    frame = frame.iloc[:count]
    species = parts["atoms_abx3"].set_axis(SPECIES, axis=1)
    role = parts["site_occupancy"].to_numpy()[:count, :15].reshape(count, 3, 5)
    roles = np.array(SITES)[role[..., :3].argmax(-1)]
    places = parts["atom_coord"].iloc[:count]
    beside = [frame, species, pd.DataFrame(roles, columns=ROLES), places]
    frame = pd.concat(beside, axis=1)[COLUMNS]
    check(frame, str(path), 40)
    volume = np.abs(np.linalg.det(vectors(frame)))
    _fault(frame, np.abs(volume / frame["volume"] - 1) > 1e-6, str(path),
           "a cell of another volume found, the volume that is stated")  # fmt: skip
    return frame


def read_oxides(path: str | Path) -> pd.DataFrame:
    """Return the hull's energy at ABO3 (eV/atom): ``formula`` and ``ground``.

    The mean of both orders of A and B, which agree to 0.001.
    """
    texts = tables.read_text(path)
    energy, above = (texts[name].astype(float) for name in ("e_form", "e_hull"))
    pair = texts[["atom a", "atom b"]].apply(sorted, axis=1).map("".join)
    return pd.DataFrame({"formula": pair + "O3", "ground": energy - above}).groupby(
        "formula", as_index=False).mean()  # fmt: skip


def read_cif(path: str | Path) -> pd.DataFrame:
    """Return one cell of space group P 1, checked, as a table of one row.

    Its properties are missing.  A comes before B in the formula, the element
    of three atoms a formula unit is X; DataError if there is none.
    """
    text = Path(path).read_text(encoding="utf-8")
    row: dict[str, Any] = dict.fromkeys(COLUMNS, 0.0) | dict.fromkeys(VALUES, np.nan)
    for name in (*LENGTHS, *ANGLES):
        kind = "length" if name in LENGTHS else "angle"
        stated = re.search(rf"_cell_{kind}_{name}\s+(\S+)", text)
        row[name] = float(stated[1]) if stated else np.nan
    atoms = re.findall(r"(?m)^\s*([A-Z][a-z]?)\d+\s+1\.0((?:\s+-?\d\S*){3})", text)
    order = list(dict.fromkeys(symbol for symbol, _ in atoms))
    counts = [sum(symbol == one for symbol, _ in atoms) for one in order]
    if len(order) != 3 or sorted(counts) != [min(counts)] * 2 + [3 * min(counts)]:
        raise DataError(f"{path}: no ABX3 found, three elements, 1:1:3, are allowed.")
    x = counts.index(max(counts))
    for k, symbol in enumerate(order):
        row[SPECIES[k]] = symbol
        row[ROLES[k]] = "X" if k == x else "AB"[k - (k > x)]
    units = [f"{s}{'3' if k == x else ''}" for k, s in enumerate(order)]
    row |= {"formula": "".join(units), "atoms": len(atoms)}
    flat = [float(word) for _, words in atoms for word in words.split()]
    row |= dict(zip(PLACES, flat, strict=False))
    frame = pd.DataFrame([row])[COLUMNS]
    check(frame, str(path))
    return frame


def check(frame: pd.DataFrame, where: str = "cells", most: int = MOST) -> None:
    """Let no cell pass that is not ABX3, whole and of finite numbers.

    DataError names the first row: an element unknown, other sites than A, B
    and X, atoms no multiple of five or more than allowed, a formula of other
    elements, a number not finite, a cell without volume, or a coordinate
    behind the last atom.
    """
    known = frame[SPECIES].isin(ELEMENTS.index)
    if not known.all().all():
        word = frame[SPECIES].to_numpy()[~known.to_numpy()][0]
        _fault(frame, ~known.all(axis=1), where, f"element {word!r} found, one of "
               f"H to Pu{nearest(word, ELEMENTS.index).rstrip('?')}")  # fmt: skip
    sites = frame[ROLES].apply(sorted, axis=1).map("".join)
    _fault(frame, sites != "ABX", where, "other sites found, each of A, B, X once")
    atoms = frame["atoms"]
    _fault(frame, (atoms % 5 != 0) | (atoms < 5) | (atoms > most), where,
           f"another number of atoms found, a multiple of 5 up to {most}")  # fmt: skip
    named = frame["formula"].map(lambda f: sorted(re.findall("[A-Z][a-z]?", str(f))))
    listed = [sorted(row) for row in frame[SPECIES].to_numpy()]
    wrong = [a != b for a, b in zip(named, listed, strict=True)]
    _fault(frame, wrong, where, "a formula of other elements found, those listed")
    numbers = frame[[*LENGTHS, *ANGLES, *PLACES]].to_numpy(float)
    finite = np.isfinite(numbers).all(1)
    _fault(frame, ~finite, where, "a number that is not finite found, a number")
    with np.errstate(invalid="ignore"):
        volume = np.abs(np.linalg.det(vectors(frame)))
    flat = ~(volume > 1e-3 * frame[LENGTHS].to_numpy(float).prod(1))
    _fault(frame, flat, where, "a singular cell found, three vectors with a volume")
    behind = np.arange(40) >= atoms.to_numpy()[:, None]
    padded = (numbers[:, 6:].reshape(-1, 40, 3) != 0).any(-1) & behind
    _fault(frame, padded.any(1), where, "a coordinate behind the last atom found, zero")


def _fault(frame: pd.DataFrame, wrong: Sequence, where: str, words: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        name = frame["formula"].iloc[rows[0]]
        told = f"{where}: row {rows[0]} ({name}): {words} is allowed"
        more = f" (and {len(rows) - 1} more)" if rows[1:].size else ""
        raise DataError(f"{told}{more}.")


def vectors(frame: pd.DataFrame) -> NDArray:
    """Return lattice vectors (n, 3, 3), a along x and b in the xy plane.

    Not finite where the angles close no cell.
    """
    a, b, c = frame[LENGTHS].to_numpy(float).T
    cosines = np.cos(np.radians(frame[ANGLES].to_numpy(float)))
    (ca, cb, cg), sg = cosines.T, np.sin(np.radians(frame["gamma"].to_numpy(float)))
    found = np.zeros((len(frame), 3, 3))
    found[:, 0, 0], found[:, 1, 0], found[:, 1, 1] = a, b * cg, b * sg
    with np.errstate(invalid="ignore", divide="ignore"):
        cy = (ca - cb * cg) / sg
        found[:, 2] = (c * np.stack([cb, cy, np.sqrt(1 - cb**2 - cy**2)])).T
    return found


def cells(frame: pd.DataFrame, where: str = "cells") -> Cells:
    """Return the arrays of cells of at most 20 atoms; raises as `check`."""
    check(frame, where)
    positions = frame[PLACES[: 3 * MOST]].to_numpy(float, copy=True)
    return {
        "number": ELEMENTS["number"].loc[frame[SPECIES].to_numpy().ravel()]
        .to_numpy().reshape(-1, 3),
        "site": np.vectorize(SITES.index)(frame[ROLES].to_numpy()),
        "atoms": frame["atoms"].to_numpy(int),
        "lattice": vectors(frame),
        "positions": positions.reshape(-1, MOST, 3),
    }  # fmt: skip


def labels(some: Cells) -> NDArray:
    """Return which listed element each atom is (n, 20); -1 behind the last."""
    shares = np.where(some["site"] == 2, 3, 1) * (some["atoms"] // 5)[:, None]
    ends, atom = shares.cumsum(1), np.arange(MOST)
    found = (atom[None, :, None] >= ends[:, None]).sum(-1)
    return np.where(atom < some["atoms"][:, None], found, -1)


def canonical(some: Cells) -> Cells:
    """Return cells with the first B atom at the origin, atoms in order.

    The atoms of an element are sorted by their coordinates, which lie in
    [0, 1): the same crystal with another origin or order is the same numbers.
    """
    kind, n = labels(some), np.arange(len(some["atoms"]))
    is_b = kind == (some["site"] == 1).argmax(1)[:, None]
    moved = some["positions"] - some["positions"][n, is_b.argmax(1)][:, None]
    # what rounding leaves below zero, or just below one, is zero
    moved = np.round((moved + 1e-4) % 1 - 1e-4, 7)
    rough = np.round(moved, 3)
    keys = rough[..., 2], rough[..., 1], rough[..., 0], np.where(kind < 0, 9, kind)
    order = np.lexsort(keys, axis=1)
    moved = np.take_along_axis(moved, order[..., None], 1)
    inside = np.arange(MOST)[None, :, None] < some["atoms"][:, None, None]
    return {**some, "positions": np.where(inside, moved, 0.0)}
