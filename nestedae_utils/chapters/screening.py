"""Generated crystals beside known ones: matched, drawn and written as CIF.

Cells are mappings of arrays: ``number`` and ``site`` (n, 3), ``atoms`` (n,),
``lattice`` (n, 3, 3) (angstrom) and ``positions`` (n, 20, 3).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from plotly import graph_objects
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from scipy.spatial import cKDTree

Cells = Mapping[str, np.ndarray]
STANDARDS = {
    "NdAlO3, trigonal": ("AlNd O3", "R-3c", 10),
    "NaNbO3, tetragonal": ("NaNb O3", "P4/mbm", 10),
    "CaTiO3, tetragonal": ("CaTi O3", "I4/mcm", 10),
    "SrTiO3, cubic": ("SrTi O3", "Pm-3m", 5),
}
"""The paper's three standards, and the ideal one: composition, space group, atoms."""
LOOSE = {"ltol": 0.5, "stol": 0.5, "angle_tol": 15}
"""pymatgen's tolerances, each wider than its default (0.2, 0.3, 5)."""
COLOURS = ("#0173b2", "#de8f05", "#cc3311")
"""Of A, B and X in drawings."""


def structure(cells: Cells, row: int) -> Structure:
    """Return a cell as pymatgen's structure, atoms in the formula's order."""
    counts = np.where(cells["site"][row] == 2, 3, 1) * (cells["atoms"][row] // 5)
    numbers = np.repeat(cells["number"][row], counts)
    places = cells["positions"][row, : len(numbers)]
    return Structure(Lattice(cells["lattice"][row]), numbers.tolist(), places)


def is_like(one: Structure, other: Structure, loose: bool = False) -> bool:
    """Tell whether two crystals are alike, whatever elements stand where.

    One may be a supercell of the other: a tilted cell of an ideal one.
    """
    matcher = StructureMatcher(**(LOOSE if loose else {}), attempt_supercell=True)
    return bool(matcher.fit_anonymous(one, other))


def space_group(one: Structure, precision: float = 0.1) -> str:
    """Return the symbol of the space group within a precision (angstrom)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SpacegroupAnalyzer(one, precision).get_space_group_symbol()


def similar(cells: Cells, row: int, standard: Cells, place: int) -> float:
    """Return the mean absolute difference of coordinates to a standard's.

    The paper's test after its authors' later code, where below 0.2 passes; of
    atom beside atom in the listed order, of cells of equal size (else NaN).
    """
    atoms = cells["atoms"][row]
    if atoms != standard["atoms"][place]:
        return float("nan")
    a, b = cells["positions"][row, :atoms], standard["positions"][place, :atoms]
    return float(np.abs(a - b).mean())


def relatives(
    found: NDArray, known: NDArray, names: Sequence[str]
) -> tuple[list[str], NDArray]:
    """Return each point's nearest known row by name, and its distance."""
    distance, place = cKDTree(known).query(found)
    return [names[one] for one in place], distance


def write_cif(one: Structure, path: Path, note: str) -> Path:
    """Write a structure as CIF of space group P 1, a note on its first line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {note}\n{CifWriter(one)}", encoding="utf-8")
    return path


# --- drawings -----------------------------------------------------------------


def _shown(one: Structure, roles: Mapping[str, int]) -> pd.DataFrame:
    """Return the atoms in and on the border of the unit cell, with bonds' role."""
    rows = []
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3)
    for site in one:
        for place in site.frac_coords % 1 + images:
            if (place > -0.08).all() and (place < 1.08).all():
                x, y, z = one.lattice.get_cartesian_coords(place)
                symbol = str(site.specie.symbol)
                rows.append((symbol, roles[symbol], x, y, z))
    return pd.DataFrame(rows, columns=["symbol", "role", "x", "y", "z"])


def _edges(one: Structure) -> NDArray:
    """Return the twelve edges of the cell, (12, 2, 3) in angstrom."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 3), -1).reshape(-1, 3)
    pairs = [
        (a, b) for a in corners for b in corners if (b - a).sum() == 1 == (a != b).sum()
    ]
    return np.array(pairs) @ one.lattice.matrix


def _bonds(atoms: pd.DataFrame) -> NDArray:
    """Return lines from X to the cation with the shorter bonds, (k, 2, 3)."""
    places, role = atoms[["x", "y", "z"]].to_numpy(), atoms["role"].to_numpy()
    best: NDArray = np.zeros((0, 2, 3))
    shortest = np.inf
    for cation in (0, 1):
        apart = np.linalg.norm(
            places[role == cation][:, None] - places[role == 2], axis=-1
        )
        if apart.size and apart.min() < shortest:
            shortest = apart.min()
            i, j = np.nonzero(apart <= 1.25 * shortest)
            best = np.stack([places[role == cation][i], places[role == 2][j]], 1)
    return best


def draw(ax: Axes, one: Structure, roles: Mapping[str, int], title: str) -> None:
    """Draw a cell on a three-dimensional axis: atoms by role, bonds, edges."""
    atoms = _shown(one, roles)
    for line in _edges(one):
        ax.plot(*line.T, color="0.5", linewidth=0.8)
    for line in _bonds(atoms):
        ax.plot(*line.T, color="0.6", linewidth=2)
    for role, own in atoms.groupby("role"):
        ax.scatter(
            own["x"],
            own["y"],
            zs=own["z"],
            s=(110, 70, 40)[role],
            color=COLOURS[role],
            edgecolor="k",
            linewidth=0.4,
            depthshade=False,
        )
    ax.set_title(title, fontsize=8)
    ax.set_axis_off()
    ax.set_box_aspect(np.ptp(atoms[["x", "y", "z"]].to_numpy(), axis=0) + 0.1)


def view(one: Structure, roles: Mapping[str, int], source: str) -> graph_objects.Figure:
    """Return a cell to be turned with the pointer; the twin's says so."""
    atoms, parts = _shown(one, roles), []
    for lines, colour, width in (
        (_edges(one), "#888888", 2),
        (_bonds(atoms), "#aaaaaa", 6),
    ):
        gaps = np.full((len(lines), 1, 3), np.nan)
        x, y, z = np.concatenate([lines, gaps], 1).reshape(-1, 3).T
        xyz = {"x": x.tolist(), "y": y.tolist(), "z": z.tolist()}
        look = {"color": colour, "width": width}
        parts.append(
            graph_objects.Scatter3d(
                **xyz, mode="lines", line=look, hoverinfo="skip", showlegend=False
            )
        )
    for (symbol, role), own in atoms.groupby(["symbol", "role"]):
        radius = float(Element(symbol).atomic_radius or 1)
        xyz = {axis: own[axis].tolist() for axis in "xyz"}
        look = {"size": 8 + 4 * radius, "color": COLOURS[role]}
        parts.append(
            graph_objects.Scatter3d(
                **xyz, mode="markers", marker=look, name=f"{symbol} ({'ABX'[role]})"
            )
        )
    figure = graph_objects.Figure(parts)
    hidden = {f"{axis}axis": {"visible": False} for axis in "xyz"}
    figure.update_layout(
        scene={**hidden, "aspectmode": "data"}, margin={"l": 0, "r": 0, "t": 0, "b": 0}
    )
    if source == "twin":
        figure.add_annotation(text="TWIN", showarrow=False, opacity=0.3, font_size=48)
    return figure
