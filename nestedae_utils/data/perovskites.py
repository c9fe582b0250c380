"""Ions, formulas and mixtures of the perovskite tables, and their schemas.

The fine scale is PBE band gaps of ABX3 alloys (doi:10.1039/D1EE02971A), the
coarse scale solar cells filtered from The Perovskite Database
(doi:10.1038/s41560-021-00941-3). Both have 14 site fractions, one per ion
(each site sums to 1), and 15 features ``A_radius .. X_EN``, as in the paper
(doi:10.1039/D3MH01484C): ionic radius (angstrom), atomic weight (u), electron
affinity and ionisation energy (kJ/mol), electronegativity (Pauling). MA and
FA, which are groups, have effective values.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray
from scipy.optimize import nnls

from nestedae_utils.data.files import DATA
from nestedae_utils.errors import DataError, nearest

SITES = {
    "A": ("K", "Rb", "Cs", "MA", "FA"),
    "B": ("Ca", "Sr", "Ba", "Ge", "Sn", "Pb"),
    "X": ("Cl", "Br", "I"),
}
IONS = tuple(ion for members in SITES.values() for ion in members)
PROPERTIES = ("radius", "weight", "EA", "IE", "EN")
SITE_FEATURES = {site: [f"{site}_{p}" for p in PROPERTIES] for site in SITES}
FEATURES = tuple(name for names in SITE_FEATURES.values() for name in names)
ETL = (
    *("TiO2-c | TiO2-mp", "TiO2-c", "PCBM-60", "SnO2-c", "SnO2-np"),
    *("C60 | BCP", "PCBM-60 | BCP"),
)
"""Electron transport layers, the most frequent first."""
HTL = ("Spiro-MeOTAD", "PEDOT:PSS", "NiO-c", "PTAA")
"""Hole transport layers, the most frequent first."""
LAYERS = {"etl": ETL, "htl": HTL}
TOLERANCE = 0.005
"""A site's fractions may sum to 1 within this; 73 rows of the band-gap table
give 0.377 for 0.375 and the like, and sum to 1.002 or 1.004."""


def schema(
    tables: str, whole: Iterable[Iterable[str]] = (), tolerance: float = 0.0
) -> pa.DataFrameSchema:
    """Return the schema of the columns that ``data/columns.csv`` states.

    A column's title is its name in the published file (empty where it is
    computed), its description the unit, its only check what is allowed.  Each
    group of columns that is ``whole`` has the sum 1, within the tolerance.
    """
    stated = pd.read_csv(DATA / "columns.csv", keep_default_na=False)
    columns = {}
    for row in stated[stated["table"].isin(tables.split())].itertuples():
        check, told = pa.Check.str_length(min_value=1), "a text"
        if row.lowest:
            low, high = float(row.lowest), float(row.highest)
            check = pa.Check.in_range(low, high)
            told = f"a number from {low:g} to {high:g} {row.unit}".rstrip()
        elif row.name in LAYERS:
            check = pa.Check.isin(LAYERS[row.name])
            told = f"one of {', '.join(map(repr, LAYERS[row.name]))}"
        check.name, check.error = row.name, told
        columns[row.name] = pa.Column(
            float if row.lowest else str,
            check,
            nullable=bool(row.missing),
            title=row.published,
            description=row.unit,
            metadata={"missing": row.missing},
        )
    checks = [
        pa.Check(
            lambda f, of=list(of): (f[of].sum(axis=1) - 1).abs() <= tolerance,
            name=", ".join(of),
            error=f"a sum of 1 within {tolerance:g}",
        )
        for of in whole
    ]
    return pa.DataFrameSchema(columns, checks=checks)


BAND_GAPS = schema("band_gaps", SITES.values(), TOLERANCE)
DEVICES = schema("devices", SITES.values(), TOLERANCE)
DEVICE_FILE = schema("devices device_sites")

_TOKEN = re.compile(
    # "I" must not be read out of "In".
    rf"(?P<open>\()|(?:(?P<close>\))|(?P<ion>{'|'.join(IONS)})(?![a-z]))"
    r"(?:_?(?P<number>\d+(?:\.\d*)?|\.\d+)_?)?|(?P<unknown>[A-Z][a-z]*)"
)


def parse_formula(formula: str) -> dict[str, float]:
    """Return the coefficient of each ion in a formula.

    An underscore before or after a number is ignored (``MAGeCl_3``);
    parentheses multiply (``Cs0.05(MA0.17FA0.83)0.95PbI3``); an ion that
    stands twice is added up.  A `DataError` shows what cannot be read.
    """
    groups: list[dict[str, float]] = [defaultdict(float)]
    position = 0
    while token := _TOKEN.match(formula, position):
        if token["close"] and len(groups) == 1:
            break
        position = token.end()
        if token["unknown"]:
            raise DataError(
                f"formula {formula!r}: unknown ion {token['unknown']!r}, one "
                f"of {', '.join(IONS)} is allowed." + nearest(token["unknown"], IONS)
            )
        if token["open"]:
            groups.append(defaultdict(float))
            continue
        content = {token["ion"]: 1.0} if token["ion"] else groups.pop()
        for ion, coefficient in content.items():
            groups[-1][ion] += float(token["number"] or 1) * coefficient
    rest = formula[position:]
    if rest or len(groups) > 1 or not groups[0]:
        what = f"{rest!r} cannot be read" if rest else "it ends too soon"
        raise DataError(
            f"formula {formula!r}: {what} at position {position + 1}; ions "
            "with their coefficients are allowed, for example "
            "'Cs0.1FA0.9PbBr0.3I2.7'."
        )
    return groups[0]


def site_fractions(formula: str, tolerance: float = TOLERANCE) -> pd.Series:
    """Return the fraction of each ion on its site, (14,), index ``IONS``.

    A `DataError` tells if the formula cannot be read, or if coefficients do
    not sum to 1 (X: 3) within the tolerance, a share of that.
    """
    coefficients = dict.fromkeys(IONS, 0.0) | parse_formula(formula)
    fractions: dict[str, float] = {}
    for site, members in SITES.items():
        expected = 3 if site == "X" else 1
        total = sum(coefficients[ion] for ion in members)
        # The margin keeps a sum at the tolerance from failing by rounding.
        if abs(total / expected - 1) > tolerance + 1e-9:
            raise DataError(
                f"formula {formula!r}: the {site} site ({', '.join(members)}) "
                f"sums to {total:g}, {expected} is expected."
            )
        fractions |= {ion: coefficients[ion] / expected for ion in members}
    return pd.Series(fractions, name=formula)


def formula(fractions: Mapping[str, float], digits: int = 2) -> str:
    """Return the formula of fractions, its coefficients rounded."""
    counts = {
        ion: round((3 if ion in SITES["X"] else 1) * fractions[ion], digits)
        for ion in IONS
    }
    return "".join(f"{ion}{n:g}" if n != 1 else ion for ion, n in counts.items() if n)


def ions() -> pd.DataFrame:
    """Return site and properties, (14, 6), of the ions; index ``IONS``."""
    table = pd.read_csv(DATA / "ions.csv", index_col="ion")
    return table.set_axis(["site", *PROPERTIES], axis=1).loc[list(IONS)]


def _by_site(
    function: Callable[[NDArray, NDArray], NDArray],
    frame: pd.DataFrame,
    given: Mapping[str, Iterable[str]] = SITES,
    wanted: Iterable[str] = FEATURES,
) -> pd.DataFrame:
    """Apply a function of a site's columns and its ions' properties (k, 5)."""
    values = ions()[list(PROPERTIES)]
    blocks = [
        function(
            frame[list(given[site])].to_numpy(float),
            values.loc[list(members)].to_numpy(float),
        )
        for site, members in SITES.items()
    ]
    return pd.DataFrame(np.hstack(blocks), frame.index, list(wanted))


def _normal(fractions: NDArray) -> NDArray:
    return fractions / fractions.sum(axis=1, keepdims=True)


def mix(fractions: pd.DataFrame) -> pd.DataFrame:
    """Return the features, (n, 15): each site's mean, weighted by fractions.

    These, (n, 14), are normalised to 1, as in the published band-gap table.
    """
    return _by_site(lambda c, values: _normal(c) @ values, fractions)


def spread(fractions: pd.DataFrame) -> pd.DataFrame:
    """Return how much the ions of each site differ, (n, 15), as `mix`.

    The standard deviation of each property, weighted by the fractions: zero
    for a site with one ion, which the mean does not tell from a mixture.
    """

    def deviation(c: NDArray, values: NDArray) -> NDArray:
        away = (values - (_normal(c) @ values)[:, None]) ** 2
        return np.sqrt((_normal(c)[:, :, None] * away).sum(axis=1))

    return _by_site(deviation, fractions)


def unmix(features: pd.DataFrame) -> pd.DataFrame:
    """Return the fractions, (n, 14), whose mixture is nearest to features.

    At least 0, and the sum is 1.  Nearest means least squares, each property
    in units of its standard deviation over the site's ions.
    """

    def fractions(wanted: NDArray, values: NDArray) -> NDArray:
        middle, unit = values.mean(0), values.std(0)
        # a heavy row makes the sum 1; what is left of it is divided out
        left = np.vstack([((values - middle) / unit).T, [1e3] * len(values)])
        right = np.insert((wanted - middle) / unit, len(unit), 1e3, axis=1)
        shares = np.array([nnls(left, row)[0] for row in right])
        return _normal(shares.reshape(-1, len(values)))

    return _by_site(fractions, features, SITE_FEATURES, IONS)


def tolerance_factor(features: pd.DataFrame) -> pd.Series:
    """Return Goldschmidt's (rA + rX) / (sqrt(2) (rB + rX)), shape (n,)."""
    a, b, x = (features[f"{site}_radius"] for site in SITES)
    return (a + x) / (np.sqrt(2) * (b + x))


def octahedral_factor(features: pd.DataFrame) -> pd.Series:
    """Return rB / rX, shape (n,)."""
    return features["B_radius"] / features["X_radius"]


def arrays(frame: pd.DataFrame, **more: Iterable[str]) -> dict[str, NDArray]:
    """Return ions (n, 15), fractions (n, 14) and more columns as arrays."""
    names = {"ions": FEATURES, "fractions": IONS, **more}
    return {key: frame[list(of)].to_numpy(float) for key, of in names.items()}


def band_gap_arrays(frame: pd.DataFrame) -> dict[str, NDArray]:
    """Return ions (n, 15), fractions (n, 14) and gap (n, 1) in eV."""
    return arrays(frame, gap=["gap"])


def device_arrays(frame: pd.DataFrame) -> dict[str, NDArray]:
    """Return ions (n, 15), fractions (n, 14), etl, htl and pce (n, 1) in %.

    etl (n, 7) and htl (n, 4) are one-hot in the order of `ETL` and `HTL`.
    """
    layers = {
        name: (frame[[name]].to_numpy() == np.array(kinds)).astype(float)
        for name, kinds in LAYERS.items()
    }
    return arrays(frame) | layers | {"pce": frame[["pce"]].to_numpy(float)}
