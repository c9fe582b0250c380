"""Generated tables that stand in for the perovskite tables.

They have the columns, sizes and kinds of mixing of the public tables, and no
row of them: where no file can be had, every chapter still runs, on a known
law of our own.  The gap E (eV) of a composition is 1.1 plus the mean of the
`GAP_TERMS` on each site, less 0.3 (1 - sum of squared fractions) for each,
which bows it; the band-gap table adds normal noise of 0.06.  A device has::

    voltage (V) = E - 0.4, current (mA/cm2) = 62 - 23 E,
    fill factor = 0.85 * etl factor * htl factor * (1 - loss)

and their product as efficiency (%), highest near 1.55 eV; the loss, from a
Beta distribution, is what two devices of the same inputs differ by.  Devices
with tin are more often inverted (p-i-n), with contacts of their own.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from nestedae_utils.data import perovskites
from nestedae_utils.data.perovskites import IONS, SITES

GAP_TERMS = {
    **{"K": 0.15, "Rb": 0.10, "Cs": 0.0, "MA": 0.20, "FA": 0.28},
    **{"Ca": 2.6, "Sr": 2.5, "Ba": 2.3, "Ge": 0.1, "Sn": -0.3, "Pb": 0.3},
    **{"Cl": 1.4, "Br": 0.6, "I": 0.0},
}
"""Contribution of each ion to the gap (eV)."""
UPRIGHT = {
    "etl": {"TiO2-c | TiO2-mp": 0.90, "TiO2-c": 0.86}
    | {"SnO2-c": 0.96, "SnO2-np": 0.98},
    "htl": {"Spiro-MeOTAD": 0.91, "PTAA": 0.88},
}
INVERTED = {
    "etl": {"PCBM-60": 0.84, "C60 | BCP": 0.93, "PCBM-60 | BCP": 0.89},
    "htl": {"PEDOT:PSS": 0.68, "NiO-c": 0.80, "PTAA": 0.88},
}
"""Factors of the contact layers of n-i-p and p-i-n devices, by frequency."""
_ABSORBING = dict.fromkeys(IONS, 0.0) | {
    **{"Rb": 0.02, "Cs": 0.3, "MA": 0.6, "FA": 0.6},
    **{"Pb": 1, "Sn": 0.03, "Br": 0.3, "I": 1},
}
"""Parameters of the Dirichlet distributions of absorbers' fractions."""


def band_gaps(seed: int = 0) -> pd.DataFrame:
    """Return a band-gap table, (494, 31), each composition once."""
    rng = np.random.default_rng(seed)
    fractions = alloys(rng)
    noise = 0.06 * rng.standard_normal(len(fractions))
    frame = described(fractions).assign(gap=law_gap(fractions) + noise)
    return frame.round({"gap": 2})[list(perovskites.BAND_GAPS.columns)]


def devices(seed: int = 0, rows: int = 2018) -> pd.DataFrame:
    """Return a device table, (2018, 41), of 235 compositions."""
    rng = np.random.default_rng(seed)
    chosen = [*range(235), *_frequent(rng, range(235), rows - 235)]
    fractions = absorbers(rng, 235).iloc[rng.permutation(chosen)]
    frame = described(fractions.reset_index(drop=True))
    gap, quality = law_gap(frame), 1 - rng.beta(1.1, 3, rows)
    inverted = rng.random(rows) < 0.2 + 0.6 * frame["Sn"]
    for layer in ("etl", "htl"):
        of = [_frequent(rng, list(k[layer]), rows) for k in (UPRIGHT, INVERTED)]
        frame[layer] = np.where(inverted, of[1], of[0])
        quality *= frame[layer].map(UPRIGHT[layer] | INVERTED[layer])
    reported = gap + 0.02 * rng.standard_normal(rows)
    reported = reported.mask(rng.random(rows) < 0.29).round(2)
    voltage, current, fill = gap - 0.4, 62 - 23 * gap, 0.85 * quality
    return frame.assign(
        composition=frame["formula"],
        pce=(voltage * current * fill).round(2),
        reported_gap=reported,
        gap_basis=pd.Series("Composition", gap.index).mask(reported.isna()),
        substrate=np.where(inverted, "SLG | ITO", "SLG | FTO"),
        voc=voltage.round(3),
        jsc=current.round(2),
        fill_factor=fill.round(3),
        tolerance_factor=perovskites.tolerance_factor(frame).round(6),
        octahedral_factor=perovskites.octahedral_factor(frame).round(6),
    )[list(perovskites.DEVICES.columns)]


def _frequent(rng: Generator, kinds: Sequence, size: int) -> NDArray:
    """Draw kinds of which the first are in fashion, the last hardly tried."""
    share = np.arange(1.0, len(kinds) + 1) ** -1.5
    return rng.choice(kinds, size, p=share / share.sum())


def described(fractions: pd.DataFrame) -> pd.DataFrame:
    """Return fractions with their features and formula, (n, 30)."""
    # rounded: a machine's last bits must not show in a checksum
    rows = fractions.to_dict("records")
    frame = fractions.join(perovskites.mix(fractions).round(4))
    return frame.assign(formula=[perovskites.formula(row, 6) for row in rows])


def law_gap(fractions: pd.DataFrame) -> pd.Series:
    """Return the law's gaps (eV), (n,), of fractions (n, 14)."""
    x = fractions[list(IONS)]
    return 1.1 + x @ pd.Series(GAP_TERMS) - 0.3 * (3 - (x**2).sum(axis=1))


def alloys(rng: Generator) -> pd.DataFrame:
    """Return compositions, (494, 14): pure ones, then one site in eighths."""
    alike = dict.fromkeys(IONS, 1.0)
    pure, eighths = (_drawn(rng, alike, steps) for steps in (1, 8))
    site = np.array([site for site, of in SITES.items() for _ in of])
    mixed = rng.choice(list(SITES), (len(pure), 1)) == site
    rows = pd.concat([pure, pure.mask(mixed, eighths)]).drop_duplicates()
    return rows.head(494).reset_index(drop=True)


def absorbers(rng: Generator, count: int) -> pd.DataFrame:
    """Return compositions of devices, (count, 14), MAPbI3 first."""
    rows = _drawn(rng, _ABSORBING, 100)
    rows.loc[0] = perovskites.site_fractions("MAPbI3")
    return rows.drop_duplicates().head(count).reset_index(drop=True)


def _drawn(rng: Generator, alpha: Mapping, steps: int) -> pd.DataFrame:
    shares = [
        rng.multinomial(steps, rng.dirichlet([alpha[i] for i in of], 2000))
        for of in SITES.values()
    ]
    return pd.DataFrame(np.hstack(shares) / steps, columns=list(IONS))
