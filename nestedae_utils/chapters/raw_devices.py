"""Tables that go into the filter of the raw database, and what comes out.

Columns are named as in the published table: of the sites A, B and C (that is
X) the ions ``a_1``, ... ("na" for none) and their coefficients
``a_1_coeff``, ..., the features ``A_ion_radius``, ....
"""

import numpy as np
import pandas as pd

from nestedae_utils.data import perovskites
from nestedae_utils.data.perovskites import IONS, SITES

PLACES = {"A": [f"a_{n}" for n in (1, 2, 3, 4)], "B": ["b_1", "b_2"]}
PLACES["X"] = ["c_1", "c_2"]
CONTACTS = {"etl": "ETL_stack_sequence", "htl": "HTL_stack_sequence"}
PCE, SUBSTRATE = "JV_reverse_scan_PCE", "Substrate_stack_sequence"
PAPER = "Ref_DOI_number"
PERSON = "Ref_name_of_person_entering_the_data"


def fractions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the site fractions, (n, 14); NaN where they cannot be told.

    An ion is not of `IONS`, or the coefficients add up to neither 1 nor, on
    the X site, 3.
    """
    columns = {}
    for site, members in SITES.items():
        ions = frame[PLACES[site]].set_axis(range(len(PLACES[site])), axis=1)
        shares = frame[[f"{name}_coeff" for name in PLACES[site]]]
        shares = shares.set_axis(ions.columns, axis=1).astype(float)
        total = shares.sum(axis=1, skipna=False)
        due = (total - 1).abs() <= perovskites.TOLERANCE
        due |= (site == "X") & ((total / 3 - 1).abs() <= perovskites.TOLERANCE)
        due &= ions.isin([*members, "na"]).all(axis=1)
        for ion in members:
            columns[ion] = (shares.where(ions == ion, 0.0).sum(axis=1) / total)[due]
    return pd.DataFrame(columns, frame.index)[list(IONS)]


def canonical(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows that a model can read as the book's device table has them."""
    found = fractions(frame)
    found = found.join(perovskites.mix(found))
    for layer, column in CONTACTS.items():
        found[layer] = frame[column]
    pce = pd.to_numeric(frame[PCE])
    more = {"pce": pce, "paper": frame[PAPER], "person": frame[PERSON]}
    return found.assign(**more).reset_index(drop=True)


def agreement(found: pd.DataFrame, stated: pd.DataFrame) -> pd.DataFrame:
    """Compare a filtered table with another of texts, column by column.

    Rows are brought into one order. Numbers may differ by single precision.
    Returns for each column of ``stated`` how many rows agree, of how many.
    """
    names = [name for name in stated if name[:2] in ("A_", "B_", "C_")]
    ordered = []
    for frame in (found, stated):
        key = frame[[*names, PCE]].apply(pd.to_numeric, errors="coerce").round(3)
        key = key.join(frame[[SUBSTRATE, *CONTACTS.values()]])
        ordered.append(frame.loc[key.sort_values(list(key)).index])
    rows = []
    for name in stated.columns:
        texts = (one[name].astype(str).str.strip().str.lower() for one in ordered)
        one, other = (text.reset_index(drop=True) for text in texts)
        shorter = min(len(one), len(other))
        one, other = one[:shorter], other[:shorter]
        first, second = (pd.to_numeric(t, errors="coerce") for t in (one, other))
        alike = (one == other) | np.isclose(first, second, rtol=1e-6, atol=1e-9)
        rows.append({"column": name, "equal": int(alike.sum()), "of": len(stated)})
    return pd.DataFrame(rows)


USUAL = {
    **dict.fromkeys(("Perovskite_dimension_3D", "JV_measured"), "TRUE"),
    "Perovskite_composition_perovskite_ABC3_structure": "TRUE",
    "Perovskite_composition_perovskite_inspired_structure": "FALSE",
    "Perovskite_dimension_3D_with_2D_capping_layer": "FALSE",
    **dict.fromkeys(("Perovskite_single_crystal", "Module"), "FALSE"),
    **dict.fromkeys(("Perovskite_dimension_0D", "Perovskite_dimension_2D"), "FALSE"),
    "Perovskite_dimension_2D3D_mixture": "FALSE",
    "Perovskite_dimension_list_of_layers": "3",
    "Perovskite_deposition_number_of_deposition_steps": "1",
    "Perovskite_deposition_procedure": "Spin-coating",
    "Perovskite_deposition_quenching_induced_crystallisation": "TRUE",
    **{"JV_average_over_n_number_of_cells": "1", "JV_test_atmosphere": "Air"},
    **{"JV_test_temperature": "", "JV_light_intensity": "100"},
    **{"JV_light_spectra": "AM 1.5", "JV_light_masked_cell": "FALSE"},
}
"""Texts of a device that every step of the filter keeps."""


def as_raw(devices: pd.DataFrame, spoilt: float = 0.0) -> pd.DataFrame:
    """Write a canonical device table in texts, as the raw database would.

    In a share ``spoilt`` of the rows a column that is not in the canonical table
    says nothing, or no; else all are as `USUAL`.
    """
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(USUAL, index=devices.index)
    for column in frame:
        words = rng.choice(["", "FALSE", "0"], len(frame))
        frame[column] = frame[column].mask(rng.random(len(frame)) < spoilt, words)
    for site, members in SITES.items():
        column = f"Perovskite_composition_{PLACES[site][0][0]}_ions"
        rows = devices[list(members)].to_dict("records")
        held = [{ion: n for ion, n in row.items() if n > 0} for row in rows]
        total = 3 if site == "X" else 1
        frame[column] = ["; ".join(row) for row in held]
        frame[f"{column}_coefficients"] = [
            "; ".join(f"{total * n:g}" for n in row.values()) for row in held
        ]
    frame[list(CONTACTS.values())] = devices[list(CONTACTS)]
    texts = devices["pce"].map("{:g}".format)
    more = {SUBSTRATE: devices["substrate"], PCE: texts}
    more |= {PAPER: "twin", PERSON: "nobody"}
    return frame.assign(**more)
