"""The perovskite tables: validated frames, and the arrays made of them.

The fine scale is PBE band gaps of ABX3 alloys (doi:10.1039/D1EE02971A), the
coarse scale solar cells filtered from The Perovskite Database
(doi:10.1038/s41560-021-00941-3); the paper (doi:10.1039/D3MH01484C) describes
each site by five properties of its ions, mixed linearly.  Three more tables,
not the paper's, hold gaps of such alloys at three fidelities, computed with
PBE, computed with HSE06 and measured (doi:10.1039/D3DD00015J).

Canonical columns, all tables
-----------------------------
14 site fractions, one per ion (each site sums to 1), and 15 features
``A_radius .. X_EN``: ionic radius (angstrom), atomic weight (u), electron
affinity and ionisation energy (kJ/mol), electronegativity (Pauling).

Band gaps
    formula; gap (eV).
Devices
    composition; etl, htl (layer stacks); pce (%); reported_gap (eV, may be
    missing) and gap_basis (what it was estimated from); substrate; voc (V),
    jsc (mA/cm2), fill_factor (these three may be missing); tolerance_factor;
    octahedral_factor.
Fidelities
    formula; gap (eV); efficiency (a fraction of 1, may be missing), computed
    from the gap's spectrum or measured; decomposition (eV, may be missing);
    cubic, tetra, ortho and hex, the shares of four phases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray
from scipy.optimize import nnls

from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError, nearest, real

A_IONS = ("K", "Rb", "Cs", "MA", "FA")
B_IONS = ("Ca", "Sr", "Ba", "Ge", "Sn", "Pb")
X_IONS = ("Cl", "Br", "I")
SITES = {"A": A_IONS, "B": B_IONS, "X": X_IONS}
IONS = (*A_IONS, *B_IONS, *X_IONS)
PROPERTIES = ("radius", "weight", "EA", "IE", "EN")
FEATURES = tuple(f"{site}_{name}" for site in SITES for name in PROPERTIES)

ETL = (
    "TiO2-c | TiO2-mp",
    "TiO2-c",
    "PCBM-60",
    "SnO2-c",
    "SnO2-np",
    "C60 | BCP",
    "PCBM-60 | BCP",
)
"""Electron transport layers, the most frequent first."""
HTL = ("Spiro-MeOTAD", "PEDOT:PSS", "NiO-c", "PTAA")
"""Hole transport layers, the most frequent first."""

SUM_TOLERANCE = 0.005
"""A site's fractions may sum to 1 within this; 73 rows of the band-gap table
give 0.377 for 0.375 and the like, and sum to 1.002 or 1.004."""
BAND_GAP_ROUNDING = 0.005
"""Largest relative rounding error of a value with 3 significant digits, which
is what the features of the band-gap table have."""
DEVICE_ROUNDING = 5e-7
"""The same for the features of the device table, kept in single precision."""

_UNITS = {
    "radius": "angstrom",
    "weight": "u",
    "EA": "kJ/mol",
    "IE": "kJ/mol",
    "EN": "Pauling",
}
_ION_COLUMNS = {
    "radius_angstrom": "radius",
    "weight_u": "weight",
    "electron_affinity_kj_mol": "EA",
    "ionisation_energy_kj_mol": "IE",
    "electronegativity_pauling": "EN",
}
# The file's name of a feature: "A_radius" is "A_ion_rad" there.
_BAND_GAP_COLUMNS = {
    "formula": "Formula",
    "gap": "Gap",
    **{ion: ion for ion in IONS},
    **{
        f"{site}_{name}": f"{site}_{published}"
        for site in SITES
        for name, published in zip(
            PROPERTIES, ("ion_rad", "at_wt", "EA", "IE", "En"), strict=True
        )
    },
}
_DEVICE_SITES = {"A": "A", "B": "B", "X": "C"}
_DEVICE_COLUMNS = {
    "composition": "Perovskite_composition_long_form",
    **{
        f"{site}_{name}": f"{letter}_{published}"
        for site, letter in _DEVICE_SITES.items()
        for name, published in zip(
            PROPERTIES,
            ("ion_radius", "atom_wt", "EA", "IE", "EN"),
            strict=True,
        )
    },
    "etl": "ETL_stack_sequence",
    "htl": "HTL_stack_sequence",
    "pce": "JV_reverse_scan_PCE",
    "reported_gap": "Perovskite_band_gap",
    "gap_basis": "Perovskite_band_gap_estimation_basis",
    "substrate": "Substrate_stack_sequence",
    "voc": "JV_reverse_scan_Voc",
    "jsc": "JV_reverse_scan_Jsc",
    "fill_factor": "JV_reverse_scan_FF",
    "tolerance_factor": "Tolerance Factor",
    "octahedral_factor": "Octahedral Factor",
}
_DEVICE_SLOTS = {
    "A": ("a_1", "a_2", "a_3", "a_4"),
    "B": ("b_1", "b_2"),
    "X": ("c_1", "c_2"),
}
_COEFFICIENTS = {"A": 1, "B": 1, "X": 3}
_EMPTY_SLOT = "na"


def _number(
    low: float, high: float, unit: str = "", nullable: bool = False
) -> pa.Column:
    allowed = f"a number from {low:g} to {high:g} {unit}".rstrip()
    check = pa.Check.in_range(low, high, error=allowed)
    return pa.Column(float, check, nullable=nullable, description=unit)


def _text(nullable: bool = False) -> pa.Column:
    check = pa.Check.str_length(min_value=1, error="a text")
    return pa.Column(str, check, nullable=nullable)


def _kind(kinds: tuple[str, ...]) -> pa.Column:
    allowed = "one of " + ", ".join(repr(kind) for kind in kinds)
    return pa.Column(str, pa.Check.isin(kinds, error=allowed))


def _site_sum(site: str) -> pa.Check:
    ions = list(SITES[site])
    return pa.Check(
        lambda frame: (
            (frame[ions].sum(axis="columns") - 1).abs() <= SUM_TOLERANCE
        ),
        name=site,
        error=f"{site} site",
    )


# Wide enough for any ion of these sites; they catch a wrong unit or column.
_FEATURE_RANGES = {
    "radius": (0.5, 3),
    "weight": (5, 300),
    "EA": (-300, 500),
    "IE": (200, 2000),
    "EN": (0.5, 4),
}
_COMMON = {
    **{ion: _number(0, 1) for ion in IONS},
    **{
        f"{site}_{name}": _number(*_FEATURE_RANGES[name], _UNITS[name])
        for site in SITES
        for name in PROPERTIES
    },
}
_SITE_SUMS = [_site_sum(site) for site in SITES]

BAND_GAPS = pa.DataFrameSchema(
    {"formula": _text(), "gap": _number(0, 10, "eV"), **_COMMON},
    checks=_SITE_SUMS,
    name="band gaps",
    strict=False,
    coerce=False,
)
"""Schema of the band-gap table; units stand in the module's docstring."""

DEVICES = pa.DataFrameSchema(
    {
        "composition": _text(),
        **_COMMON,
        "etl": _kind(ETL),
        "htl": _kind(HTL),
        # No single junction exceeds 33.7 % (Shockley and Queisser, 1961,
        # doi:10.1063/1.1736034; the number for AM 1.5).
        "pce": _number(0, 33.7, "%"),
        "reported_gap": _number(0.5, 5, "eV", nullable=True),
        "gap_basis": _text(nullable=True),
        "substrate": _text(),
        "voc": _number(0, 3, "V", nullable=True),
        "jsc": _number(0, 50, "mA/cm2", nullable=True),
        # Four devices claim more than 0.9, up to 1.434: not physical, but
        # published, and not a feature of any model.
        "fill_factor": _number(0, 1.5, nullable=True),
        "tolerance_factor": _number(0.5, 1.5),
        "octahedral_factor": _number(0.2, 1),
    },
    checks=_SITE_SUMS,
    name="devices",
    strict=False,
    coerce=False,
)
"""Schema of the device table; units stand in the module's docstring."""


PHASES = ("cubic", "tetra", "ortho", "hex")
MISSING = 1000.0
"""What the fidelity tables have in place of a missing value."""
FIDELITY_TOLERANCE = 0.011
"""A site's fractions, and a row's phases, may there sum to 1 within this:
those of the measured rows have two decimals."""
_FIDELITY_COLUMNS = {
    "formula": "Formula",
    "gap": "Gap",
    "efficiency": "SLME",
    "decomposition": "Decomp",
    **{ion: ion for ion in IONS},
    **{phase: phase.capitalize() for phase in PHASES},
}

FIDELITIES = pa.DataFrameSchema(
    {
        "formula": _text(),
        "gap": _number(0, 10, "eV"),
        "efficiency": _number(0, 0.337, nullable=True),
        "decomposition": _number(-10, 10, "eV", nullable=True),
        **_COMMON,
        **{phase: _number(0, 1) for phase in PHASES},
    },
    checks=_SITE_SUMS,
    name="fidelities",
    strict=False,
    coerce=False,
)
"""Schema of the fidelity tables; units stand in the module's docstring."""


def ions() -> pd.DataFrame:
    """Return the ions' properties, index ``IONS``.

    Returns
    -------
    DataFrame
        Shape (14, 6): site, radius (angstrom), weight (u), EA and IE
        (kJ/mol), EN (Pauling). A group (MA, FA) has effective values.

    Raises
    ------
    DataError
        If ``data/ions.csv`` is absent or does not hold these ions.
    """
    path = DATA / "ions.csv"
    table = _read_csv(path)
    _require_columns(table, ["ion", "site", *_ION_COLUMNS], path)
    table = table.rename(columns=_ION_COLUMNS).set_index("ion")
    if sorted(table.index) != sorted(IONS):
        raise DataError(
            f"{path}: the ions {', '.join(table.index)} found, "
            f"{', '.join(IONS)} expected."
        )
    return table.loc[list(IONS)]


def parse_formula(formula: str) -> dict[str, float]:
    """Return the coefficient of each ion in a formula.

    An underscore before or after a number is ignored (``MAGeCl_3``);
    parentheses multiply (``Cs0.05(MA0.17FA0.83)0.95PbI3``); an ion that
    stands twice is added up.

    Raises
    ------
    DataError
        If an ion is unknown or a place cannot be read; the message shows it.
    """
    if not isinstance(formula, str):
        raise DataError(f"formula: {formula!r} given, a text is allowed.")
    groups: list[dict[str, float]] = [{}]
    position = 0
    while position < len(formula):
        token = _TOKEN.match(formula, position)
        if token is None or (token["close"] and len(groups) == 1):
            raise _unreadable(formula, position)
        position = token.end()
        if token["unknown"]:
            raise DataError(
                f"formula {formula!r}: unknown ion {token['unknown']!r}, one "
                f"of {', '.join(IONS)} is allowed."
                + nearest(token["unknown"], IONS)
            )
        if token["open"]:
            groups.append({})
            continue
        content = {token["ion"]: 1.0} if token["ion"] else groups.pop()
        factor = float(token["number"] or token["factor"] or 1)
        for ion, coefficient in content.items():
            total = groups[-1].get(ion, 0.0) + factor * coefficient
            groups[-1][ion] = total
    if len(groups) > 1 or not groups[0]:
        raise _unreadable(formula, position)
    return groups[0]


_NUMBER = r"_?(?P<{}>\d+(?:\.\d*)?|\.\d+)_?"
_TOKEN = re.compile(
    r"(?P<open>\()"
    rf"|(?P<close>\))(?:{_NUMBER.format('factor')})?"
    # "I" must not be read out of "In".
    rf"|(?P<ion>{'|'.join(sorted(IONS, key=len, reverse=True))})(?![a-z])"
    rf"(?:{_NUMBER.format('number')})?"
    r"|(?P<unknown>[A-Z][a-z]*)"
)


def _unreadable(formula: str, position: int) -> DataError:
    rest = formula[position:]
    what = f"{rest!r} cannot be read" if rest else "it ends too soon"
    return DataError(
        f"formula {formula!r}: {what} at position {position + 1}; ions with "
        "their coefficients are allowed, for example 'Cs0.1FA0.9PbBr0.3I2.7'."
    )


def site_fractions(
    formula: str, tolerance: float = SUM_TOLERANCE
) -> pd.Series:
    """Return the fraction of each ion on its site.

    Parameters
    ----------
    formula
        An ABX3 formula: coefficients of A and B sum to 1, those of X to 3.
    tolerance
        Largest deviation of a site's sum of fractions from 1.

    Returns
    -------
    Series
        Shape (14,), index ``IONS``; the X coefficients divided by 3.

    Raises
    ------
    DataError
        If the formula cannot be read or a site does not add up.
    ParameterError
        If the tolerance is not a number of at least 0.
    """
    tolerance = real("tolerance", tolerance, minimum=0)
    coefficients = parse_formula(formula)
    fractions = pd.Series(0.0, index=list(IONS), name=formula)
    for site, members in SITES.items():
        expected = _COEFFICIENTS[site]
        present = {ion: coefficients.get(ion, 0.0) for ion in members}
        total = sum(present.values())
        # The margin keeps a sum at the tolerance from failing by rounding.
        if abs(total / expected - 1) > tolerance + 1e-9:
            raise DataError(
                f"formula {formula!r}: the {site} site "
                f"({', '.join(members)}) sums to {total:g}, {expected} is "
                "expected."
            )
        for ion, coefficient in present.items():
            fractions[ion] = coefficient / expected
    return fractions


def mix(fractions: pd.DataFrame) -> pd.DataFrame:
    """Return the site-averaged features: each site's weighted mean.

    The mean is over fractions normalised to 1, as in the published band-gap
    table, whose stated fractions are rounded and may sum to 1.004.

    Parameters
    ----------
    fractions
        Shape (n, 14), columns ``IONS`` (others are ignored).

    Returns
    -------
    DataFrame
        Shape (n, 15), columns ``FEATURES``, in the units of `ions`.

    Raises
    ------
    DataError
        If a column is missing, or a site of a row is empty.
    """
    return _by_site(fractions, np.matmul)


def spread(fractions: pd.DataFrame) -> pd.DataFrame:
    """Return how much the ions of each site differ in their properties.

    The standard deviation of each property over the ions on a site, weighted
    by their fractions: zero for a site with one kind of ion, which the mean
    alone does not tell from a mixture.

    Parameters
    ----------
    fractions
        Shape (n, 14), columns ``IONS`` (others are ignored).

    Returns
    -------
    DataFrame
        Shape (n, 15), columns ``FEATURES``, in the units of `ions`.

    Raises
    ------
    DataError
        If a column is missing, or a site of a row is empty.
    """

    def deviation(share: np.ndarray, own: np.ndarray) -> np.ndarray:
        away = (own - (share @ own)[:, None]) ** 2
        return np.sqrt((share[:, :, None] * away).sum(axis=1))

    return _by_site(fractions, deviation)


def _by_site(
    fractions: pd.DataFrame,
    moment: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> pd.DataFrame:
    """Return a moment of each site's ions, (n, 15).

    It is given a site's k fractions, (n, k), normalised to 1, and the
    properties of its ions, (k, 5), and returns (n, 5).
    """
    _require_columns(fractions, IONS, "fractions")
    values = ions()
    parts = []
    for site, members in SITES.items():
        share = fractions[list(members)].to_numpy(dtype=float)
        total = share.sum(axis=1, keepdims=True)
        if not (total > 0).all():
            row = np.flatnonzero(~(total > 0))[0]
            raise DataError(
                f"fractions: the {site} site is empty in row {row}."
            )
        own = values.loc[list(members), list(PROPERTIES)].to_numpy(float)
        parts.append(moment(share / total, own))
    return pd.DataFrame(
        np.hstack(parts), index=fractions.index, columns=list(FEATURES)
    )


def unmix(features: pd.DataFrame) -> pd.DataFrame:
    """Return the site fractions whose mixture comes nearest to features.

    The inverse of :func:`mix`, on the simplex of each site: fractions are at
    least 0 and sum to 1.  Nearest means least squares, each property in
    units of its standard deviation over the site's ions.

    Parameters
    ----------
    features
        Shape (n, 15), columns ``FEATURES`` (others are ignored), in the
        units of `ions`; decoded ones need not belong to any mixture.

    Returns
    -------
    DataFrame
        Shape (n, 14), columns ``IONS``.

    Raises
    ------
    DataError
        If a column is missing or a value is not finite.
    """
    _require_columns(features, FEATURES, "features")
    values = ions()
    parts = []
    for site, members in SITES.items():
        own = values.loc[list(members), list(PROPERTIES)].to_numpy(float)
        middle, unit = own.mean(0), own.std(0)
        columns = [f"{site}_{name}" for name in PROPERTIES]
        wanted = features[columns].to_numpy(dtype=float)
        if not np.isfinite(wanted).all():
            row = np.flatnonzero(~np.isfinite(wanted).all(axis=1))[0]
            raise DataError(f"features: row {row} is not finite.")
        # a heavy row makes the sum 1; what is left of it is divided out
        left = np.vstack([((own - middle) / unit).T, np.full(len(own), 1e3)])
        right = np.hstack(
            [(wanted - middle) / unit, np.full((len(wanted), 1), 1e3)]
        )
        found = np.array([nnls(left, one)[0] for one in right])
        found = found.reshape(len(wanted), len(members))
        parts.append(found / found.sum(axis=1, keepdims=True))
    return pd.DataFrame(
        np.hstack(parts), index=features.index, columns=list(IONS)
    )


def formula(fractions: pd.Series, digits: int = 2) -> str:
    """Return the formula of site fractions, as `parse_formula` reads it.

    Parameters
    ----------
    fractions
        Index ``IONS``; shares that round to nothing are left out.
    digits
        Decimals of the coefficients.
    """
    text = ""
    for site, members in SITES.items():
        for ion in members:
            share = round(_COEFFICIENTS[site] * float(fractions[ion]), digits)
            if share:
                text += ion + (f"{share:g}" if share != 1 else "")
    return text


def tolerance_factor(features: pd.DataFrame) -> pd.Series:
    """Return Goldschmidt's (rA + rX) / (sqrt(2) (rB + rX)), shape (n,).

    Needs the columns A_radius, B_radius and X_radius (angstrom).
    """
    a, b, x = (features[f"{site}_radius"] for site in SITES)
    return (a + x) / (np.sqrt(2) * (b + x))


def octahedral_factor(features: pd.DataFrame) -> pd.Series:
    """Return rB / rX, shape (n,), from B_radius and X_radius (angstrom)."""
    return features["B_radius"] / features["X_radius"]


def ion_mixture_deviation(frame: pd.DataFrame) -> pd.Series:
    """Return how far the stated features are from the ions' mixture.

    Rounding alone gives at most `BAND_GAP_ROUNDING` in the published
    band-gap table and `DEVICE_ROUNDING` in the device table.

    Parameters
    ----------
    frame
        Either table, n rows.

    Returns
    -------
    Series
        Shape (15,), index ``FEATURES``: the largest relative difference over
        the rows.
    """
    stated = frame[list(FEATURES)]
    return ((mix(frame) - stated) / stated).abs().max()


def read_band_gaps(path: str | Path) -> pd.DataFrame:
    """Return the validated band-gap table in canonical columns.

    Parameters
    ----------
    path
        CSV file in the columns of the published table.

    Returns
    -------
    DataFrame
        Shape (n, 31): formula, gap, 14 fractions as stated, 15 features.

    Raises
    ------
    DataError
        If the file is not such a table; the message names the column, the
        line of the first fault and its value.
    """
    path = Path(path)
    raw = _read_csv(path)
    columns = _BAND_GAP_COLUMNS
    _require_columns(raw, columns.values(), path)
    frame = raw[list(columns.values())].set_axis(list(columns), axis=1)
    return _validated(frame, BAND_GAPS, path, columns)


def read_devices(path: str | Path) -> pd.DataFrame:
    """Return the validated device table in canonical columns.

    Parameters
    ----------
    path
        CSV file in the columns of the published table.

    Returns
    -------
    DataFrame
        Shape (n, 41): composition, 14 fractions (from the columns a_1, a_1
        coefficient and so on; the X coefficients divided by 3), 15 features,
        then the columns of the module's docstring.

    Raises
    ------
    DataError
        If the file is not such a table; the message names the column, the
        line of the first fault and its value.
    """
    path = Path(path)
    raw = _read_csv(path)
    columns = _DEVICE_COLUMNS
    _require_columns(raw, columns.values(), path)
    stated = raw[list(columns.values())].set_axis(list(columns), axis=1)
    frame = pd.concat([stated, _slot_fractions(raw, path)], axis=1)
    return _validated(frame, DEVICES, path, columns)


def read_fidelity(path: str | Path) -> pd.DataFrame:
    """Return a validated fidelity table in canonical columns.

    `MISSING` becomes a missing value. Fractions and phases are divided by
    their sums; the features are then mixed anew from the fractions, so that
    one composition has the same features in every table.

    Parameters
    ----------
    path
        CSV file in the columns of doi:10.1039/D3DD00015J.

    Returns
    -------
    DataFrame
        Shape (n, 37): formula as published, gap, efficiency, decomposition,
        14 fractions, 15 features, 4 phases.

    Raises
    ------
    DataError
        If the file is not such a table, a site or the phases do not sum to
        1, or a formula that can be read says other fractions than the row.
    """
    path = Path(path)
    raw = _read_csv(path)
    columns = _FIDELITY_COLUMNS
    _require_columns(raw, columns.values(), path)
    frame = raw[list(columns.values())].set_axis(list(columns), axis=1)
    for name in ("efficiency", "decomposition"):
        allowed = _allowed(FIDELITIES.columns[name])
        values = _numeric(frame[name], columns[name], path, allowed)
        frame[name] = values.mask(values == MISSING)
    for members in (*SITES.values(), PHASES):
        frame[list(members)] = _shares_of_one(frame, members, path, columns)
    _check_formulas(frame, path)
    frame[list(FEATURES)] = mix(frame)
    return _validated(frame, FIDELITIES, path, columns)


def _shares_of_one(
    frame: pd.DataFrame,
    members: Iterable[str],
    path: Path,
    columns: Mapping[str, str],
) -> pd.DataFrame:
    """Return columns divided by their sum, which must be nearly 1."""
    allowed = "a number from 0 to 1"
    shares = pd.DataFrame(
        {
            name: _numeric(frame[name], columns[name], path, allowed)
            for name in members
        }
    )
    for name in shares:
        faulty = np.flatnonzero(~shares[name].between(0, 1))
        if faulty.size:
            row = faulty[0]
            value = shares[name].iloc[row]
            more = faulty.size - 1
            raise _fault(path, columns[name], row, value, allowed, more)
    total = shares.sum(axis=1)
    faulty = np.flatnonzero((total - 1).abs() > FIDELITY_TOLERANCE)
    if faulty.size:
        row = faulty[0]
        raise DataError(
            f"{path}: {', '.join(columns[name] for name in shares)}, line "
            f"{row + 2}: the fractions sum to {total.iloc[row]:g}, 1 within "
            f"{FIDELITY_TOLERANCE:g} is allowed."
        )
    return shares.div(total, axis=0)


def _check_formulas(frame: pd.DataFrame, path: Path) -> None:
    """Compare the formulas that can be read with the fractions.

    A few measured rows name an additive, a stack of two layers or no B ion
    at all; only their fractions count.
    """
    for row, formula in enumerate(frame["formula"]):
        try:
            read = site_fractions(formula, FIDELITY_TOLERANCE)
        except DataError:
            continue
        away = (frame[list(IONS)].iloc[row] - read).abs().max()
        if away > 2 * FIDELITY_TOLERANCE:
            raise DataError(
                f"{path}: column 'Formula', line {row + 2}: {formula!r} found,"
                f" but the row's fractions differ from it by {away:.3g}, "
                f"{2 * FIDELITY_TOLERANCE:g} is allowed."
            )


def band_gap_arrays(frame: pd.DataFrame) -> dict[str, NDArray]:
    """Return the arrays of the band-gap table, n rows, float64.

    Returns
    -------
    dict
        ``ions`` (n, 15), columns ``FEATURES``; ``fractions`` (n, 14),
        columns ``IONS``; ``gap`` (n, 1) in eV.
    """
    return {**_composition_arrays(frame), "gap": _column(frame, "gap")}


def device_arrays(frame: pd.DataFrame) -> dict[str, NDArray]:
    """Return the arrays of the device table, n rows, float64.

    Returns
    -------
    dict
        ``ions`` (n, 15), columns ``FEATURES``; ``fractions`` (n, 14),
        columns ``IONS``; ``etl`` (n, 7) and ``htl`` (n, 4), one-hot in the
        order of `ETL` and `HTL`; ``pce`` (n, 1) in %.
    """
    return {
        **_composition_arrays(frame),
        "etl": _one_hot(frame["etl"], ETL),
        "htl": _one_hot(frame["htl"], HTL),
        "pce": _column(frame, "pce"),
    }


def fidelity_arrays(frame: pd.DataFrame) -> dict[str, NDArray]:
    """Return the arrays of a fidelity table, n rows, float64.

    Returns
    -------
    dict
        ``ions`` (n, 15), columns ``FEATURES``; ``fractions`` (n, 14),
        columns ``IONS``; ``phases`` (n, 4), columns ``PHASES``; ``gap``
        (n, 1) in eV; ``efficiency`` (n, 1), a fraction of 1, NaN where it
        is missing.
    """
    return {
        **_composition_arrays(frame),
        "phases": frame[list(PHASES)].to_numpy(dtype=float),
        "gap": _column(frame, "gap"),
        "efficiency": _column(frame, "efficiency"),
    }


def _composition_arrays(frame: pd.DataFrame) -> dict[str, NDArray]:
    return {
        "ions": frame[list(FEATURES)].to_numpy(dtype=float),
        "fractions": frame[list(IONS)].to_numpy(dtype=float),
    }


def _column(frame: pd.DataFrame, name: str) -> NDArray:
    return frame[[name]].to_numpy(dtype=float)


def _one_hot(kinds: pd.Series, known: tuple[str, ...]) -> NDArray:
    return (kinds.to_numpy()[:, None] == np.array(known)).astype(float)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a CSV table ({reason}).") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror})."
        ) from None
    if table.empty:
        raise DataError(f"{path}: the table has no rows.")
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(f"{path}: the rows have more fields than the header.")
    return table


def _require_columns(
    table: pd.DataFrame, names: Iterable[str], source: str | Path
) -> None:
    for name in names:
        if name not in table.columns:
            raise DataError(
                f"{source}: column {name!r} is missing."
                + nearest(name, map(str, table.columns))
            )


def _fault(
    path: Path, column: str, row: int, value: object, allowed: str, more: int
) -> DataError:
    found = "nothing" if pd.isna(value) else repr(_plain(value))
    further = f" ({more} further faults)" if more else ""
    # Line 1 is the header.
    return DataError(
        f"{path}: column {column!r}, line {row + 2}: {found} found, "
        f"{allowed} is allowed{further}."
    )


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _numeric(
    column: pd.Series, name: str, path: Path, allowed: str
) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    text = np.flatnonzero(numbers.isna() & column.notna())
    if text.size:
        row = text[0]
        raise _fault(path, name, row, column.iloc[row], allowed, text.size - 1)
    return numbers


def _slot_fractions(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the fractions (n, 14) from pairs of columns, ion and share."""
    slots = [name for names in _DEVICE_SLOTS.values() for name in names]
    _require_columns(raw, [*slots, *(f"{name}_coeff" for name in slots)], path)
    fractions = pd.DataFrame(0.0, index=raw.index, columns=list(IONS))
    for site, names in _DEVICE_SLOTS.items():
        for name in names:
            # The file was split at semicolons: all but the first ion begin
            # with a blank.
            ion = _as_text(raw[name]).str.strip()
            share = _slot_shares(raw, ion, name, site, path)
            for member in SITES[site]:
                fractions[member] += share.where(ion == member, 0.0)
    return fractions


def _slot_shares(
    raw: pd.DataFrame, ion: pd.Series, name: str, site: str, path: Path
) -> pd.Series:
    members = SITES[site]
    unknown = np.flatnonzero(~ion.isin([*members, _EMPTY_SLOT]))
    if unknown.size:
        row = unknown[0]
        allowed = f"one of {', '.join(members)} or {_EMPTY_SLOT!r}"
        raise _fault(
            path, name, row, raw[name].iloc[row], allowed, unknown.size - 1
        )
    column = f"{name}_coeff"
    whole = _COEFFICIENTS[site]
    allowed = f"a number from 0 to {whole}"
    share = _numeric(raw[column], column, path, allowed)
    faulty = np.flatnonzero(~share.between(0, whole))
    if not faulty.size:
        faulty = np.flatnonzero((ion == _EMPTY_SLOT) & (share != 0))
        allowed = f"0 beside {_EMPTY_SLOT!r}"
    if faulty.size:
        row = faulty[0]
        raise _fault(
            path, column, row, share.iloc[row], allowed, faulty.size - 1
        )
    return share / whole


def _validated(
    frame: pd.DataFrame,
    schema: pa.DataFrameSchema,
    path: Path,
    columns: Mapping[str, str],
) -> pd.DataFrame:
    """Return the frame in the schema's column order, if it fits the schema."""
    frame = frame[list(schema.columns)].copy()
    for name, column in schema.columns.items():
        allowed = _allowed(column)
        published = columns.get(name, name)
        if str(column.dtype) == "float64":
            frame[name] = _numeric(frame[name], published, path, allowed)
        else:
            frame[name] = _as_text(frame[name])
    try:
        return schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        raise _first_fault(
            errors.failure_cases, frame, schema, path, columns
        ) from None


def _allowed(column: pa.Column) -> str:
    return column.checks[0].error


def _as_text(column: pd.Series) -> pd.Series:
    # A column without any entry is read as numbers; the schema's complaint
    # about that would name neither line nor value.
    return column.astype(str).where(column.notna())


def _first_fault(
    cases: pd.DataFrame,
    frame: pd.DataFrame,
    schema: pa.DataFrameSchema,
    path: Path,
    columns: Mapping[str, str],
) -> DataError:
    """Turn pandera's failure cases into one line on the first of them."""
    cells = cases[cases["schema_context"] == "Column"]
    if not cells.empty:
        first = cells[cells["column"] == cells["column"].iloc[0]]
        first = first.sort_values("index").iloc[0]
        name, row = first["column"], int(first["index"])
        value = frame[name].iloc[row]
        return _fault(
            path,
            columns.get(name, name),
            row,
            value,
            _allowed(schema.columns[name]),
            len(cells) - 1,
        )
    # A check over a site is reported once for every cell of a faulty row.
    sites = cases.drop_duplicates(["check", "index"])
    first = sites.sort_values(["check", "index"]).iloc[0]
    members = list(SITES[first["check"][0]])
    row = int(first["index"])
    more = f" ({len(sites) - 1} further faults)" if len(sites) > 1 else ""
    return DataError(
        f"{path}: {first['check']} ({', '.join(members)}), line {row + 2}: "
        f"the fractions sum to {frame[members].iloc[row].sum():g}, 1 within "
        f"{SUM_TOLERANCE:g} is allowed{more}."
    )
