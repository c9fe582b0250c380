"""The example of one's own data: gaps, and binding to solvents.

The two public tables of the authors' second example, or a twin of them: 358
gaps of halide perovskites, and the energies with which 30 precursors bind to
8 solvents.  The file of the energies also has the columns l0 to l10, latents
of the authors' own model, which nothing here uses; it does not state a unit.

The twin's compositions are those of `twin` and all mixtures of three halides.
Where the published tables have dipoles and atomic numbers, it has
electronegativities and weights.  Its law, with numbers of our own, x the
fractions of the halides, r the ions' radii (angstrom)::

    energy = strength of the solvent * (1 + 0.1 (r_A - 2.1)) - 20 (r_X - 1.9)
             + 3 x_Br x_I + normal noise of 0.8
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nestedae_utils.data import twin
from nestedae_utils.data.files import DATA, checksums, fetch
from nestedae_utils.data.perovskites import IONS, X_IONS, mix
from nestedae_utils.data.tables import frame_sha256, resolve_source

GAPS_KEY = "mhp_solvent_binding/perov_bandgaps_PBE.csv"
BINDING_KEY = "mhp_solvent_binding/perov_solv_BE_for_nestedae.csv"
DECLARATION = DATA / "solvent_binding.yml"
"""The declaration; its tables are called gaps.csv and binding.csv."""
NOTICE = (
    "**TWIN.** The public tables could not be had, or were not asked for. "
    "Everything on this page was computed on generated tables with the same "
    "columns and says nothing about perovskites or solvents."
)

_ROWS = 358
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
    """Both tables and where they come from.

    ``gaps`` (358, columns) and ``binding`` (240, columns) in the published
    columns; ``source`` is ``"paper"`` for the published files, or
    ``"twin"``; ``checksums`` as in `tables.Tables`.
    """

    gaps: pd.DataFrame
    binding: pd.DataFrame
    source: str
    checksums: dict[str, str]

    def write(self, folder: str | Path) -> Path:
        """Put tables and declaration in a folder; return the declaration.

        The published files are copied byte by byte.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, key, frame in (
            ("gaps.csv", GAPS_KEY, self.gaps),
            ("binding.csv", BINDING_KEY, self.binding),
        ):
            if self.source == "paper":
                shutil.copyfile(fetch(key), folder / name)
            else:
                frame.to_csv(folder / name, index=False, lineterminator="\n")
        return Path(shutil.copyfile(DECLARATION, folder / DECLARATION.name))


def load(data_source: str = "auto") -> Solvents:
    """Return both tables.

    Parameters
    ----------
    data_source
        As in `tables.resolve_source`.

    Raises
    ------
    ParameterError, DataError, DataUnavailable
        As `tables.resolve_source` and `datasets.fetch`.
    """
    if resolve_source(data_source, (GAPS_KEY, BINDING_KEY)) == "paper":
        gaps, binding = (
            pd.read_csv(fetch(key), encoding="utf-8-sig")
            for key in (GAPS_KEY, BINDING_KEY)
        )
        sums = checksums(GAPS_KEY, BINDING_KEY)
        return Solvents(gaps, binding, "paper", sums)
    made = {"twin/gaps": _gaps(), "twin/binding": _binding()}
    sums = {name: frame_sha256(frame) for name, frame in made.items()}
    return Solvents(*made.values(), "twin", sums)


def _described(fractions: pd.DataFrame) -> pd.DataFrame:
    features = mix(fractions).round(4)
    return pd.DataFrame(
        {name: features[feature] for name, feature in _DESCRIPTORS.items()}
    )


def _gaps() -> pd.DataFrame:
    """Return generated gaps, shape (358, 31)."""
    frame = twin.band_gaps().head(_ROWS)
    named = frame.rename(columns={"formula": "Formula", "gap": "Gap"})
    columns = ["Formula", "Gap", *IONS]
    return pd.concat([named[columns], _described(frame)], axis=1)


def _binding(seed: int = 0) -> pd.DataFrame:
    """Return generated energies: 3 cations, 10 halide triples, 8 solvents."""
    random = np.random.default_rng(seed)
    rows = []
    for cation, halides, solvent in itertools.product(
        ("Cs", "FA", "MA"),
        itertools.combinations_with_replacement(("Br", "Cl", "I"), 3),
        _STRENGTHS,
    ):
        row = dict.fromkeys(IONS, 0.0) | {cation: 1.0, "Pb": 1.0}
        row |= {ion: halides.count(ion) / 3 for ion in X_IONS}
        row |= {"Cation": cation, "Formula": "".join(halides) + cation}
        rows.append(row | {"SOLVENT": solvent})
    frame = pd.DataFrame(rows)
    described = _described(frame)
    strength = frame["SOLVENT"].map(_STRENGTHS)
    energy = strength * (1 + 0.1 * (described["A_IONRAD"] - 2.1))
    energy -= 20 * (described["X_IONRAD"] - 1.9)
    energy += 3 * frame["Br"] * frame["I"]
    energy += 0.8 * random.standard_normal(len(frame))
    frame["Target"] = energy.round(2)
    # of the solvents' seven properties three, each with the strength in it
    frame["SOLV_GDN"] = strength
    frame["SOLV_DIELECTRIC"] = (10 + strength).round(1)
    frame["SOLV_DPM"] = (2 + strength / 20).round(2)
    columns = ["Cation", "Formula", *X_IONS, "SOLVENT", "Target"]
    solvent = [name for name in frame if name.startswith("SOLV_")]
    mixed = frame[[*columns, *solvent]]
    mixed = pd.concat([mixed, described], axis=1)
    return mixed.iloc[random.permutation(len(mixed))].reset_index(drop=True)
