"""Gaps of perovskites at three fidelities: their tables, arrays and twin.

Computed with PBE, computed with HSE06, and measured (doi:10.1039/D3DD00015J).
The twin's gaps (eV), E the gap by the law of `twin`, c the share of a row's
cubic phase, each with normal noise::

    PBE          E - 0.2 c
    HSE          1.3 E - 0.3 - 0.2 c
    experiment   0.85 E + 0.3

The efficiency is 0.009 times (E - 0.4) (62 - 23 E), the measured one less a
loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nestedae_utils.data import perovskites, tables, twin
from nestedae_utils.data.perovskites import FEATURES, IONS, SITES
from nestedae_utils.errors import DataError

KEYS = {
    "PBE": "mhp_multifidelity/PBE_data.csv",
    "HSE": "mhp_multifidelity/HSE_data.csv",
    "experiment": "mhp_multifidelity/Expt_data.csv",
}
PHASES = ("cubic", "tetra", "ortho", "hex")
TOLERANCE = 0.011
"""A site's fractions, and a row's phases, may sum to 1 within this: those of
the measured rows have two decimals."""
SCHEMA = perovskites.schema("fidelities", [*SITES.values(), PHASES], TOLERANCE)


@dataclass(frozen=True)
class Fidelities:
    """Gaps at three fidelities and the devices, and where they come from.

    PBE (570, 37), HSE (347, 37) and experiment (97, 37), by these names in
    ``gaps`` too; the others as in `tables.Tables`.
    """

    PBE: pd.DataFrame
    HSE: pd.DataFrame
    experiment: pd.DataFrame
    devices: pd.DataFrame
    source: str
    checksums: dict[str, str]

    @property
    def gaps(self) -> dict[str, pd.DataFrame]:
        """The three tables by name."""
        return {name: getattr(self, name) for name in KEYS}


def load(data_source: str = "auto") -> Fidelities:
    """Return all four tables; the parameter and errors as `tables.obtain`."""
    gaps = {name: (KEYS[name], read, partial(generate, name)) for name in KEYS}
    return tables.obtain(Fidelities, data_source, **gaps, devices=tables.DEVICES)


def read(path: str | Path) -> pd.DataFrame:
    """Return a published table, (n, 37).

    Fractions and phases are divided by their sums; the features are then
    mixed anew from the fractions, so that one composition has the same
    features in every table.

    Raises
    ------
    DataError
        As `tables.read`, or if a formula that can be read says other
        fractions than its row.
    """
    frame = tables.read(path, SCHEMA.remove_columns(list(FEATURES)))
    for members in map(list, (*SITES.values(), PHASES)):
        frame[members] = frame[members].div(frame[members].sum(axis=1), axis=0)
    for row, formula in enumerate(frame["formula"]):
        try:
            named = perovskites.site_fractions(formula, TOLERANCE)
        except DataError:
            # An additive, two layers or no B ion: only the fractions count.
            continue
        away = (frame.loc[row, list(IONS)] - named).abs().max()
        if away > 2 * TOLERANCE:
            raise DataError(
                f"{path}: column 'Formula', line {row + 2}: {formula!r} found,"
                f" but the row's fractions differ from it by {away:.3g}, "
                f"{2 * TOLERANCE:g} is allowed."
            )
    frame[list(FEATURES)] = perovskites.mix(frame)
    return frame[list(SCHEMA.columns)]


def arrays(frame: pd.DataFrame) -> dict[str, NDArray]:
    """Return ions, fractions, phases (n, 4), gap (n, 1) and efficiency (n, 1).

    The efficiency is a fraction of 1, NaN where it is missing.
    """
    single = {name: [name] for name in ("gap", "efficiency")}
    return perovskites.arrays(frame, phases=PHASES, **single)


def generate(name: str, seed: int = 0) -> pd.DataFrame:
    """Return a table of the twin: PBE (180, 37), HSE (120, 37), or measured.

    HSE has compositions and phases of PBE rows; the experiment (97, 37) has
    absorbers as of devices, 20 of which PBE has too.
    """
    rng = np.random.default_rng(seed)
    measured, alloys = twin.absorbers(rng, 97), twin.alloys(rng)
    computed = pd.concat([measured[:20], alloys.sample(160, random_state=seed)])
    pure = np.eye(4)[rng.choice(4, 180, p=[0.7, 0.1, 0.1, 0.1])]
    rows = {"PBE": 180, "HSE": 120, "experiment": 97}[name]
    fractions, phases = computed[:rows].reset_index(drop=True), pure[:rows]
    if name == "experiment":
        fractions = measured
        phases = rng.multinomial(100, rng.dirichlet([0.5] * 4, rows)) / 100
    law, cubic = twin.law_gap(fractions), phases[:, 0]
    gap, noise = {
        "PBE": (law - 0.2 * cubic, 0.06),
        "HSE": (1.3 * law - 0.3 - 0.2 * cubic, 0.08),
        "experiment": (0.85 * law + 0.3, 0.03),
    }[name]
    rng = np.random.default_rng([seed, *name.encode()])
    gap = gap + noise * rng.standard_normal(rows)
    efficiency = (0.009 * (gap - 0.4) * (62 - 23 * gap)).clip(0, 0.33)
    decomposition = rng.normal(0.5, 1, rows).round(2)
    if name == "experiment":
        efficiency *= 1 - rng.beta(1.1, 3, rows)
        efficiency[rng.permutation(rows)[:10]] = np.nan
        decomposition[:] = np.nan
    return twin.described(fractions).assign(
        **dict(zip(PHASES, phases.T, strict=True)),
        gap=gap.clip(0.1, 9).round(2),
        efficiency=efficiency.round(2),
        decomposition=decomposition,
    )[list(SCHEMA.columns)]
