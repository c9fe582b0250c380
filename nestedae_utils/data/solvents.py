"""The example of one's own data: gaps, and binding to solvents.

The public tables of the authors' second example, or a twin of them: its
compositions are those of `twin` and all mixtures of three halides; it has
electronegativities and weights for dipoles and atomic numbers.  The energy
is, x the fractions, r the radii (angstrom), with normal noise of 0.8::

    strength * (1 + 0.1 (r_A - 2.1)) - 20 (r_X - 1.9) + 3 x_Br x_I + noise
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from nestedae_utils.data import twin
from nestedae_utils.data.files import DATA, fetch
from nestedae_utils.data.perovskites import IONS, SITES, mix
from nestedae_utils.data.tables import obtain

KEYS = {  # by the names of the declaration's tables
    "gaps": "mhp_solvent_binding/perov_bandgaps_PBE.csv",
    "binding": "mhp_solvent_binding/perov_solv_BE_for_nestedae.csv",
}
DECLARATION = DATA / "solvent_binding.yml"
NOTICE = (
    "**TWIN.** The public tables could not be had, or were not asked for. "
    "Everything on this page was computed on generated tables with the same "
    "columns and says nothing about perovskites or solvents."
)
_DESCRIPTORS = {
    **{"A_IONRAD": "A_radius", "A_MASS": "A_weight", "A_DPM": "A_EN"},
    **{"B_IONRAD": "B_radius", "B_MASS": "B_weight", "B_EA": "B_EA"},
    **{"B_IE": "B_IE", "B_En": "B_EN", "B_AN": "B_weight"},
    **{"X_IONRAD": "X_radius", "X_MASS": "X_weight", "X_EA": "X_EA"},
    **{"X_IE": "X_IE", "X_En": "X_EN", "X_AN": "X_weight"},
}
_STRENGTHS = {
    **{"DMSO": 37.0, "THTO": 36.0, "DMF": 20.0, "NMP": 19.0},
    **{"ACETONE": 14.0, "GBL": 12.0, "METHA": 11.0, "NITRO": 8.0},
}


@dataclass(frozen=True)
class Solvents:
    """Gaps, 358 rows, and binding energies, 240 rows; as `tables.Tables`."""

    gaps: pd.DataFrame
    binding: pd.DataFrame
    source: str
    checksums: dict[str, str]

    def write(self, folder: str | Path) -> Path:
        """Put the files and the declaration in a folder; return the latter."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, key in KEYS.items():
            path, frame = folder / f"{name}.csv", getattr(self, name)
            if self.source == "paper":
                shutil.copyfile(fetch(key), path)
            else:
                frame.to_csv(path, index=False, lineterminator="\n")
        return Path(shutil.copyfile(DECLARATION, folder / DECLARATION.name))


def load(data_source: str = "auto") -> Solvents:
    """Return both tables, as `tables.obtain`."""
    read = partial(pd.read_csv, encoding="utf-8-sig")
    gaps = (KEYS["gaps"], read, _gaps)
    binding = (KEYS["binding"], read, _binding)
    return obtain(Solvents, data_source, gaps=gaps, binding=binding)


def _described(fractions: pd.DataFrame) -> pd.DataFrame:
    features = mix(fractions).round(4)
    return features[_DESCRIPTORS.values()].set_axis(list(_DESCRIPTORS), axis=1)


def _gaps() -> pd.DataFrame:
    frame = twin.band_gaps().head(358)
    named = frame[["formula", "gap"]].rename(columns=str.capitalize)
    return named.join([frame[list(IONS)], _described(frame)])


def _binding() -> pd.DataFrame:
    triples = itertools.combinations_with_replacement(("Br", "Cl", "I"), 3)
    rows = itertools.product(("Cs", "FA", "MA"), triples, _STRENGTHS)
    frame = pd.DataFrame(rows, columns=["Cation", "halides", "SOLVENT"])
    for ion in IONS:
        frame[ion] = [triple.count(ion) / 3 for triple in frame["halides"]]
        frame[ion] += (frame["Cation"] == ion) | (ion == "Pb")
    frame["Formula"] = frame["halides"].map("".join) + frame["Cation"]
    described, strength = _described(frame), frame["SOLVENT"].map(_STRENGTHS)
    r_a, r_x = described["A_IONRAD"], described["X_IONRAD"]
    energy = strength * (1 + 0.1 * (r_a - 2.1)) - 20 * (r_x - 1.9)
    noise = 0.8 * np.random.default_rng(0).standard_normal(len(frame))
    energy += 3 * frame["Br"] * frame["I"] + noise
    described["Target"] = energy.round(2)
    # of the solvents' seven properties three, each with the strength in it
    described["SOLV_GDN"] = strength
    described["SOLV_DIELECTRIC"] = (10 + strength).round(1)
    described["SOLV_DPM"] = (2 + strength / 20).round(2)
    return frame[["Cation", "Formula", *SITES["X"], "SOLVENT"]].join(described)
