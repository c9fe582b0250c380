"""Cells of ABX3 crystals: energy of formation, plentiful, and distance from the hull.

The energy of a cell needs one calculation, its distance from the hull those of
all phases that compete with it.  The public cells are those of
doi:10.3389/fmats.2023.1233961 (Materials Project).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nestedae_utils.data import tables
from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError

KEY = "evapd_perovskites/dataset.zip"
SITES = ("A", "B", "X")
OF_ELEMENT = (
    *("period", "group", "mass_u", "covalent_radius_pm", "ionisation_energy_ev"),
    "polarizability_au",
)
FEATURES = [f"{site}_{name}" for site in SITES for name in OF_ELEMENT]
FEATURES += ["volume", "shortest", "longest"]
COLUMNS = ["formula", *FEATURES, "energy", "hull"]


@dataclass(frozen=True)
class Cells:
    """Cells, (n, 24): `COLUMNS`; as `tables.Tables`."""

    cells: pd.DataFrame
    source: str
    checksums: dict[str, str]


def load(data_source: str = "auto") -> Cells:
    """Return the cells of elements that have all properties, as `tables.obtain`."""
    return tables.obtain(Cells, data_source, cells=(KEY, read, generate))


def elements() -> pd.DataFrame:
    """Return the properties of elements by symbol."""
    frame = pd.read_csv(DATA / "elements.csv", keep_default_na=False)
    frame = frame.set_index("element")[list(OF_ELEMENT)]
    return frame.apply(pd.to_numeric)


def read(path: str | Path) -> pd.DataFrame:
    """Return the published ABX3 cells; DataError if their tables do not fit.

    Of the cell: volume of an atom (cubic angstrom), shortest and longest vector
    over the cube root of the cell's volume; eV/atom.
    """
    with zipfile.ZipFile(path) as archive:
        parts = [
            pd.read_csv(archive.open(f"dataset/{name}.csv"), keep_default_na=False)
            for name in ("atoms_abx3", "target", "site_occupancy")
        ]
    symbols, target, sites = (part.iloc[: len(parts[0])] for part in parts)
    # of the k-th element in the formula, whether it is A, B or X
    roles = sites.to_numpy()[:, :15].reshape(-1, 3, 5)[..., :3]
    if len(symbols) != len(target) or not (roles.sum(1) == 1).all():
        raise DataError(f"{path}: A, B and X, each once, are allowed in a cell.")
    order = np.argsort(roles.argmax(-1), axis=1)
    of_site = np.take_along_axis(symbols.to_numpy(), order, 1)
    sizes = target[["a", "b", "c"]].div(np.cbrt(target["volume"]), axis=0)
    frame = _described(of_site).assign(
        formula=target["pretty_formula"],
        volume=target["volume"] / target["n_atoms"],
        shortest=sizes.min(axis=1),
        longest=sizes.max(axis=1),
        energy=target["formation_energy_per_atom"],
        hull=target["e_above_hull"],
    )
    return frame[COLUMNS].dropna().reset_index(drop=True)


def generate(rows: int = 1200, seed: int = 0) -> pd.DataFrame:
    """Return a twin: the hull is the energy less a mean of the elements' own."""
    random = np.random.default_rng(seed)
    symbols = random.choice(elements().index.to_numpy(), (rows, 3))
    frame = _described(symbols)
    frame["formula"] = ["".join(row) + "3" for row in symbols]
    frame["volume"] = frame[[f"{s}_covalent_radius_pm" for s in SITES]].mean(axis=1) / 8
    frame["shortest"], frame["longest"] = random.uniform(0.6, 1, (2, rows)) + [[0], [1]]
    ionic = frame["X_ionisation_energy_ev"] - frame["A_ionisation_energy_ev"]
    frame["energy"] = 0.5 - 0.3 * ionic + 0.1 * random.standard_normal(rows)
    own = 0.5 - 0.2 * frame["B_group"] / 10 + 0.1 * random.standard_normal(rows)
    frame["hull"] = (frame["energy"] + own).clip(0)
    return frame[COLUMNS]


def _described(symbols: np.ndarray) -> pd.DataFrame:
    known = elements()
    parts = [
        known.reindex(own).add_prefix(f"{site}_").reset_index(drop=True)
        for site, own in zip(SITES, symbols.T, strict=True)
    ]
    return pd.concat(parts, axis=1)


def split(frame: pd.DataFrame, rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return all cells, and so many of them, drawn, whose hull is known."""
    known = frame.sample(min(rows, len(frame)), random_state=0)
    return frame.drop(columns="hull"), known.drop(columns="energy")
